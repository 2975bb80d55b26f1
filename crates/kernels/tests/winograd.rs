//! Minimal filtering against the definition, on every instruction set of this machine: odd sizes, maps of one place,
//! channels that are no multiple of a vector, filters of more than one block, more tiles than a strip, every padding.

#[path = "rough/rough.rs"]
mod rough;
#[path = "rough/dense.rs"]
mod twin;

use kernels::cpu::activation::Activation;
use kernels::cpu::convolution;
use kernels::cpu::convolution::StandardConv;
use kernels::cpu::convolution::winograd;
use kernels::cpu::convolution::winograd::{Side, Weights};
use kernels::cpu::depthwise::Geometry;
use kernels::cpu::matmul::Epilogue;
use kernels::isa::Isa;
use rough::{close, rough};

const SIDES: [Side; 2] = [Side::Two, Side::Four];

/// 3x3 at stride 1 with so many zeros before and after.
fn dense(
    [batch, channels, filters]: [usize; 3],
    input: [usize; 2],
    [before, after]: [[usize; 2]; 2],
) -> StandardConv {
    let output = [0, 1].map(|axis| input[axis] + before[axis] + after[axis] - 2);
    let kernel = [3, 3];
    let g = Geometry { batch, channels, input, kernel, stride: 1, dilation: 1, before, output };
    StandardConv { g, filters }
}

/// Input, weights and the gradient of the output: a map after a ReLU, filters as they are initialised.
fn values(d: &StandardConv) -> [Vec<f32>; 3] {
    let count = d.g.batch * d.g.input[0] * d.g.input[1] * d.g.channels;
    let (a, b) = (rough(1, count), rough(4, count));
    let x = a.iter().zip(b).map(|(a, b)| (a + b).max(0.0)).collect();
    let spread = (6.0 / d.patch() as f32).sqrt();
    let w = rough(2, d.filters * d.patch()).iter().map(|w| spread * w).collect();
    [x, w, rough(3, d.g.batch * d.g.output[0] * d.g.output[1] * d.filters)]
}

fn nasty() -> Vec<StandardConv> {
    let same = [[1, 1]; 2];
    vec![
        dense([1, 1, 1], [1, 1], same),
        dense([3, 5, 3], [1, 1], same),
        dense([1, 3, 17], [1, 9], same),
        dense([2, 16, 16], [7, 1], same),
        dense([1, 19, 5], [2, 3], same),
        dense([2, 7, 21], [5, 5], [[0, 0]; 2]),
        dense([1, 33, 4], [4, 4], [[0, 0]; 2]),
        dense([2, 20, 70], [7, 7], same),
        dense([1, 17, 130], [6, 10], same),
        dense([1, 9, 8], [8, 9], [[0, 1], [1, 0]]),
        dense([1, 9, 8], [9, 8], [[1, 0], [0, 1]]),
        dense([1, 12, 11], [6, 7], [[2, 1], [1, 2]]),
        dense([2, 6, 9], [14, 13], [[2, 2]; 2]),
        dense([2, 18, 19], [28, 27], same),
    ]
}

/// `activation(value + bias) + skip` of every value of `[places, filters]`.
fn finished(values: &[f32], filters: usize, finish: &Epilogue<'_>) -> Vec<f32> {
    let one = |(i, value): (usize, &f32)| {
        let biased = value + finish.bias.map_or(0.0, |bias| bias[i % filters]);
        biased.clamp(0.0, 6.0) + finish.skip.map_or(0.0, |skip| skip[i])
    };
    values.iter().enumerate().map(one).collect()
}

/// Seen to fail with: a sign wrong in each of the transforms for tiles of two, a constant wrong in each for tiles of four;
/// outputs past the map written, their gradients counted; zeros before the input one too few, those of the two axes
/// exchanged; the place beside the border read from the next row; the kernels not turned round for the input's gradient; a
/// strip's last tile left out; the last filters of a block written as a whole vector (a crash); the skip path of the first
/// place for all, the bias of the first block for all, the first filter's scale for all.
#[test]
fn minimal_filtering_equals_the_definition() {
    for d in nasty() {
        let [x, w, dy] = values(&d);
        let [y, dx, dw] = twin::single(&twin::dense(&x, &w, &dy, &d));
        let (bias, scale) = (rough(5, d.filters), rough(6, d.filters));
        let skip = rough(7, dy.len());
        for (isa, side) in Isa::available().into_iter().flat_map(|isa| SIDES.map(|s| (isa, s))) {
            let what = |part: &str| format!("{part} {isa:?} {side:?} {d:?}");
            let tolerance = if side == Side::Two { 2e-6 } else { 8e-6 };
            let packed = Weights::new(isa, &w, &d, side, None);
            let got = winograd::forward(&x, &packed, &d, Epilogue::NONE);
            close(&what("y"), &got, &y, tolerance);
            let got = winograd::input_gradient(isa, &w, &dy, &d, side);
            close(&what("dx"), &got, &dx, tolerance);
            let got = winograd::weight_gradient(isa, &x, &dy, &d, side);
            close(&what("dw"), &got, &dw, tolerance);
            let activation = Activation::Relu6;
            let finish = Epilogue { bias: Some(&bias), activation, skip: Some(&skip) };
            let packed = Weights::new(isa, &w, &d, side, Some(&scale));
            let scaled: Vec<f32> =
                y.iter().enumerate().map(|(i, y)| y * scale[i % d.filters]).collect();
            let got = winograd::forward(&x, &packed, &d, finish);
            close(&what("finished"), &got, &finished(&scaled, d.filters, &finish), tolerance);
        }
    }
}

fn with_threads<R: Send>(count: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(work)
}

/// Seen to fail with: the first tile of the second part left out of the weights' gradient, tiles of two with more than two
/// threads.
#[test]
fn threads_change_no_bit_of_outputs_and_input_gradients() {
    let isa = Isa::chosen();
    for side in SIDES {
        let d = dense([3, 18, 70], [33, 34], [[1, 1]; 2]);
        let [x, w, dy] = values(&d);
        let packed = Weights::new(isa, &w, &d, side, None);
        let run = |threads: usize| {
            with_threads(threads, || {
                let y = winograd::forward(&x, &packed, &d, Epilogue::NONE);
                let dx = winograd::input_gradient(isa, &w, &dy, &d, side);
                (y, dx, winograd::weight_gradient(isa, &x, &dy, &d, side))
            })
        };
        let (y, dx, dw) = run(1);
        for threads in [1, 2, 3, 7] {
            let (first, second) = (run(threads), run(threads));
            assert!(first.0 == y && first.1 == dx, "{side:?} {threads} threads");
            assert!(first == second, "{side:?} {threads} threads, twice");
            close(&format!("dw {side:?} {threads} threads"), &first.2, &dw, 8e-6);
        }
    }
}

/// Root mean square of the error over that of the values.
fn error(got: &[f32], want: &[f64]) -> f64 {
    let square = |sum: f64, (got, want): (&f32, &f64)| sum + (f64::from(*got) - want).powi(2);
    let errors = got.iter().zip(want).fold(0.0, square);
    (errors / want.iter().map(|want| want * want).sum::<f64>()).sqrt()
}

/// Tiles of two round like the definition or better, tiles of four up to three times as much (sums of weights four to five
/// times, which are more exact than outputs). Seen to fail with Lavin and Gray's points, 1 and 2, for tiles of four.
#[test]
fn rounding_is_that_of_the_definition() {
    for (size, channels, filters) in [(28, 96, 32), (14, 160, 48), (28, 16, 96)] {
        let d = dense([1, channels, filters], [size, size], [[1, 1]; 2]);
        let [x, w, dy] = values(&d);
        let [y, dx, dw] = twin::dense(&x, &w, &dy, &d);
        for isa in Isa::available() {
            let patches = convolution::patches(isa, &w, &d, None);
            let plain = [
                error(&convolution::over_patches(&x, &patches, &d, Epilogue::NONE), &y),
                error(&convolution::weight_gradient_over_patches(isa, &x, &dy, &d), &dw),
                error(&convolution::input_gradient_over_patches(isa, &w, &dy, &d), &dx),
            ];
            for (side, factors) in [(Side::Two, [2.0; 3]), (Side::Four, [4.0, 6.0, 4.0])] {
                let packed = Weights::new(isa, &w, &d, side, None);
                let errors = [
                    error(&winograd::forward(&x, &packed, &d, Epilogue::NONE), &y),
                    error(&winograd::weight_gradient(isa, &x, &dy, &d, side), &dw),
                    error(&winograd::input_gradient(isa, &w, &dy, &d, side), &dx),
                ];
                for ((error, plain), factor) in errors.iter().zip(&plain).zip(factors) {
                    assert!(
                        *error < factor * plain,
                        "{isa:?} {side:?} {size}: {errors:?}, {plain}"
                    );
                }
            }
        }
    }
}

/// Seen to fail with weights shared by 8 tiles, with 9 tiles of four for a large map.
#[test]
fn the_rule_is_that_of_the_measurements() {
    let same = [[1, 1]; 2];
    let side = |batch, size, channels, filters| {
        winograd::wins(&dense([batch, channels, filters], [size, size], same))
    };
    // GoogLeNet's, an image at a time and sixteen.
    for batch in [1, 16] {
        assert_eq!(side(batch, 56, 64, 192), Some(Side::Four));
        assert_eq!(side(batch, 28, 16, 32), Some(Side::Four));
        assert_eq!(side(batch, 14, 160, 320), Some(Side::Two));
    }
    assert_eq!(side(1, 7, 192, 384), None);
    assert_eq!(side(16, 7, 192, 384), Some(Side::Two));
    assert_eq!(side(16, 56, 3, 64), None);
    for (stride, dilation, kernel) in [(2, 1, [3, 3]), (1, 2, [3, 3]), (1, 1, [1, 3])] {
        let mut d = dense([16, 64, 64], [56, 56], same);
        d.g = Geometry { stride, dilation, kernel, ..d.g };
        assert_eq!(winograd::wins(&d), None, "{stride} {dilation} {kernel:?}");
    }
}
