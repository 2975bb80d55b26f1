//! The fast depthwise convolution against the naive one in f64, on every instruction set of this machine,
//! on nasty sizes: 1, 7, one less and one more than a block, maps smaller than the kernel's reach.

use kernels::depthwise::{Geometry, naive, planes};
use kernels::isa::Isa;

fn rough(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

#[track_caller]
fn close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(1e-3_f32, |m, v| m.max(v.abs()));
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!((a - b).abs() <= 1e-5 * largest, "{what} at {i}: {a} against {b}");
    }
}

fn check(
    batch: usize,
    channels: usize,
    input: [usize; 2],
    kernel: [usize; 2],
    stride: usize,
    dilation: usize,
    pads: [(usize, usize); 2],
) {
    let reach = |axis: usize| (kernel[axis] - 1) * dilation + 1;
    let padded = |axis: usize| input[axis] + pads[axis].0 + pads[axis].1;
    if padded(0) < reach(0) || padded(1) < reach(1) {
        return;
    }
    let output = [0, 1].map(|axis| (padded(axis) - reach(axis)) / stride + 1);
    let before = [pads[0].0, pads[1].0];
    let g = Geometry { batch, channels, input, kernel, stride, dilation, before, output };
    let x = rough(1, batch * channels * input[0] * input[1]);
    let w = rough(2, channels * g.taps());
    let dy = rough(3, g.outputs());
    let y = naive::forward(&x, &w, &g);
    let (dx, dw) = naive::backward(&x, &w, &dy, &g);
    for isa in Isa::available() {
        let what = |part: &str| format!("{part} {isa:?} {g:?}");
        close(&what("y"), &planes::forward(isa, &x, &w, &g), &y);
        close(&what("dx"), &planes::input_gradient(isa, &w, &dy, &g), &dx);
        close(&what("dw"), &planes::weight_gradient(isa, &x, &dy, &g), &dw);
    }
}

/// Seen to fail with: the phases' columns begun at 0 whatever the padding, a tap's offset without its
/// row, the lead of the input's gradient one short, the garbage columns of `dy` not zero.
#[test]
fn equals_the_naive_convolution_on_nasty_sizes() {
    for input in [
        [1, 1],
        [1, 9],
        [7, 1],
        [2, 3],
        [5, 5],
        [7, 7],
        [8, 9],
        [14, 13],
        [15, 63],
        [16, 65],
        [28, 28],
    ] {
        for kernel in [3, 5] {
            for stride in [1, 2] {
                let side = (kernel - 1) / 2;
                check(2, 3, input, [kernel, kernel], stride, 1, [(side, side); 2]);
                // TensorFlow's SAME on even sizes, and no border.
                check(1, 2, input, [kernel, kernel], stride, 1, [(side - 1, side); 2]);
                check(1, 2, input, [kernel, kernel], stride, 1, [(0, 0); 2]);
            }
            check(1, 2, input, [kernel, kernel], 1, 2, [(kernel - 1, kernel - 1); 2]);
        }
        check(1, 2, input, [1, 1], 1, 1, [(0, 0); 2]);
        check(1, 2, input, [1, 7], 1, 1, [(0, 0), (3, 3)]);
        check(1, 2, input, [3, 3], 3, 1, [(1, 1); 2]);
        check(1, 1, input, [2, 4], 2, 1, [(0, 1), (1, 2)]);
    }
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    let g = Geometry {
        batch: 3,
        channels: 7,
        input: [13, 14],
        kernel: [5, 5],
        stride: 2,
        dilation: 1,
        before: [2, 2],
        output: [7, 7],
    };
    let (x, w, dy) = (rough(1, 3 * 7 * 13 * 14), rough(2, 7 * 25), rough(3, g.outputs()));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let isa = Isa::chosen();
            (
                planes::forward(isa, &x, &w, &g),
                planes::input_gradient(isa, &w, &dy, &g),
                planes::weight_gradient(isa, &x, &dy, &g),
            )
        })
    };
    assert_eq!(run(1), run(4));
}
