//! Images as they were decoded, four bytes a word, to the normalised map that a network reads.

use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::gpu::map::{UNITS, empty};
use crate::gpu::traffic::record;

#[cube(launch)]
fn normalise_kernel(
    words: &[u32],
    out: &mut [f32],
    values: usize,
    mean: Sequence<f32>,
    std: Sequence<f32>,
) {
    if ABSOLUTE_POS < values.div_ceil(4) {
        let word = words[ABSOLUTE_POS];
        #[unroll]
        for i in 0..4usize {
            let at = ABSOLUTE_POS * 4 + i;
            if at < values {
                let byte = (word >> comptime!(8 * i as u32)) & 255u32;
                let share = f32::cast_from(byte) / 255.0f32;
                let channel = at % 3;
                let value = if channel == 0 {
                    (share - mean[0]) / std[0]
                } else if channel == 1 {
                    (share - mean[1]) / std[1]
                } else {
                    (share - mean[2]) / std[2]
                };
                out[at] = value;
            }
        }
    }
}

/// `(byte / 255 - mean) / std` of `shape` `[b, h, w, 3]` bytes, four in a word, the first in its
/// lowest bits.
pub(crate) fn normalise(
    words: CubeTensor,
    shape: [usize; 4],
    mean: [f32; 3],
    std: [f32; 3],
) -> CubeTensor {
    let values = shape.iter().product::<usize>();
    let out = empty(&words, &shape, DType::F32);
    record("normalise_images", [values, 4 * values], 1);
    let units = CubeDim::new_1d(UNITS as u32);
    let numbers = |values: [f32; 3]| {
        let mut sequence = SequenceArg::new();
        values.iter().for_each(|value| sequence.push(*value));
        sequence
    };
    normalise_kernel::launch(
        &out.client,
        cubecl::calculate_cube_count_elemwise(&out.client, values.div_ceil(4), units),
        units,
        words.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        values,
        numbers(mean),
        numbers(std),
    );
    out
}
