//! The allocator that recycles large blocks, as the global allocator of this test's own process.

use kernels::allocator::Recycler;

#[global_allocator]
static MEMORY: Recycler = Recycler::new();

/// One test, so that no other thread asks for large blocks in between.
///
/// Mutations caught: nothing kept, dirty memory handed out as zeroed, a block that grows in place
/// beyond its size.
#[test]
fn large_blocks_come_back_whole_clean_where_asked_and_aligned() {
    let count = 1 << 20;
    let first = vec![1.0_f32; count];
    let address = first.as_ptr();
    assert_eq!(address as usize % 4096, 0);
    drop(first);
    let zeros = vec![0.0_f32; count];
    assert_eq!(zeros.as_ptr(), address, "the block is used again");
    assert!(zeros.iter().all(|v| *v == 0.0), "and clean");
    // Two owners never share a block.
    let other = vec![2.0_f32; count];
    assert_ne!(other.as_ptr(), zeros.as_ptr());
    assert!(zeros.iter().all(|v| *v == 0.0));
    // Growing keeps the values, across the smallest recycled size and beyond a block's rounding.
    let mut grown: Vec<u32> = Vec::new();
    (0..3_000_000).for_each(|i| grown.push(i));
    assert!(grown.iter().enumerate().all(|(i, v)| i as u32 == *v));
    grown.truncate(10);
    grown.shrink_to_fit();
    assert_eq!(grown, (0..10).collect::<Vec<u32>>());
    // Many sizes: kept memory stays bounded, and every block has one owner.
    for round in 0..200_usize {
        let blocks: Vec<Vec<u8>> =
            (0..8).map(|i| vec![i as u8; 70_000 + 13_000 * ((round * 7 + i * 31) % 97)]).collect();
        for (i, block) in blocks.iter().enumerate() {
            assert!(block.iter().all(|v| *v == i as u8));
        }
    }
}
