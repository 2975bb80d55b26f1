//! Winograd's minimal filtering against the definition, on every instruction set of this machine:
//! odd sizes, maps of one pixel, channels that are no multiple of a vector, filters of more than
//! one block, more tiles than a strip, every padding.

#[path = "random/random.rs"]
mod random;
#[path = "random/reference.rs"]
mod reference;

use kernels::cpu::activation::FusedActivation;
use kernels::cpu::convolution::winograd::tiles::{TileSize, fastest_tile};
use kernels::cpu::convolution::winograd::{
    WinogradWeights, f32_winograd_3x3_nhwc, f32_winograd_3x3_nhwc_dw, f32_winograd_3x3_nhwc_dx,
};
use kernels::cpu::convolution::{
    f32_conv_patches_nhwc, f32_conv_patches_nhwc_dw, f32_conv_patches_nhwc_dx,
    f32_conv_patches_pack,
};
use kernels::cpu::geometry::{Geometry, StandardConv};
use kernels::cpu::matmul::Epilogue;
use kernels::isa::Isa;
use random::{close, random};

const TILE_SIZES: [TileSize; 2] = [TileSize::Two, TileSize::Four];

/// A convolution of 3x3 at stride 1 with so many zeros before and after.
fn conv_3x3(
    [batch, channels, filters]: [usize; 3],
    input: [usize; 2],
    [before, after]: [[usize; 2]; 2],
) -> StandardConv {
    let output = [0, 1].map(|axis| input[axis] + before[axis] + after[axis] - 2);
    let kernel = [3, 3];
    let g = Geometry { batch, channels, input, kernel, stride: 1, dilation: 1, before, output };
    StandardConv { g, filters }
}

/// Input, weights and the gradient of the output: a map after a ReLU, filters as initialised.
fn values(d: &StandardConv) -> [Vec<f32>; 3] {
    let count = d.g.batch * d.g.input[0] * d.g.input[1] * d.g.channels;
    let (a, b) = (random(1, count), random(4, count));
    let x = a.iter().zip(b).map(|(a, b)| (a + b).max(0.0)).collect();
    let spread = (6.0 / d.patch() as f32).sqrt();
    let w = random(2, d.filters * d.patch()).iter().map(|w| spread * w).collect();
    [x, w, random(3, d.g.batch * d.g.output[0] * d.g.output[1] * d.filters)]
}

fn critical() -> Vec<StandardConv> {
    let same = [[1, 1]; 2];
    vec![
        conv_3x3([1, 1, 1], [1, 1], same),
        conv_3x3([3, 5, 3], [1, 1], same),
        conv_3x3([1, 3, 17], [1, 9], same),
        conv_3x3([2, 16, 16], [7, 1], same),
        conv_3x3([1, 19, 5], [2, 3], same),
        conv_3x3([2, 7, 21], [5, 5], [[0, 0]; 2]),
        conv_3x3([1, 33, 4], [4, 4], [[0, 0]; 2]),
        conv_3x3([2, 20, 70], [7, 7], same),
        conv_3x3([1, 17, 130], [6, 10], same),
        conv_3x3([1, 9, 8], [8, 9], [[0, 1], [1, 0]]),
        conv_3x3([1, 9, 8], [9, 8], [[1, 0], [0, 1]]),
        conv_3x3([1, 12, 11], [6, 7], [[2, 1], [1, 2]]),
        conv_3x3([2, 6, 9], [14, 13], [[2, 2]; 2]),
        conv_3x3([2, 18, 19], [28, 27], same),
    ]
}

/// `activation(value + bias) + skip` of every value of `[pixels, filters]`.
fn with_epilogue(values: &[f32], filters: usize, epilogue: &Epilogue<'_>) -> Vec<f32> {
    let one = |(i, value): (usize, &f32)| {
        let biased = value + epilogue.bias.map_or(0.0, |bias| bias[i % filters]);
        biased.clamp(0.0, 6.0) + epilogue.skip.map_or(0.0, |skip| skip[i])
    };
    values.iter().enumerate().map(one).collect()
}

/// Mutations caught: a sign wrong in each of the transforms for tiles of two, a constant wrong in
/// each for tiles of four; outputs beyond the map written, their gradients counted; one zero too
/// few before the input, those of the two axes exchanged; the pixel beside the border read from the
/// next row; the kernels not rotated for the input's gradient; a strip's last tile omitted; the
/// last filters of a block written as a whole vector (a crash); the skip path of the first pixel
/// for all, the bias of the first block for all, the first filter's scale for all.
#[test]
fn minimal_filtering_equals_the_definition() {
    for d in critical() {
        let [x, w, dy] = values(&d);
        let [y, dx, dw] = reference::single(&reference::standard_conv(&x, &w, &dy, &d));
        let (bias, scale) = (random(5, d.filters), random(6, d.filters));
        let skip = random(7, dy.len());
        for (isa, side) in Isa::available().into_iter().flat_map(|isa| TILE_SIZES.map(|s| (isa, s)))
        {
            let what = |part: &str| format!("{part} {isa:?} {side:?} {d:?}");
            let tolerance = if side == TileSize::Two { 2e-6 } else { 8e-6 };
            let packed = WinogradWeights::new(isa, &w, &d, side, None);
            let got = f32_winograd_3x3_nhwc(&x, &packed, &d, Epilogue::NONE);
            close(&what("y"), &got, &y, tolerance);
            let got = f32_winograd_3x3_nhwc_dx(isa, &w, &dy, &d, side);
            close(&what("dx"), &got, &dx, tolerance);
            let got = f32_winograd_3x3_nhwc_dw(isa, &x, &dy, &d, side);
            close(&what("dw"), &got, &dw, tolerance);
            let activation = FusedActivation::Relu6;
            let epilogue = Epilogue { bias: Some(&bias), activation, skip: Some(&skip) };
            let packed = WinogradWeights::new(isa, &w, &d, side, Some(&scale));
            let scaled: Vec<f32> =
                y.iter().enumerate().map(|(i, y)| y * scale[i % d.filters]).collect();
            let got = f32_winograd_3x3_nhwc(&x, &packed, &d, epilogue);
            close(
                &what("epilogue"),
                &got,
                &with_epilogue(&scaled, d.filters, &epilogue),
                tolerance,
            );
        }
    }
}

fn with_threads<R: Send>(count: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(work)
}

/// Mutations caught: the first tile of the second part omitted from the weights' gradient, tiles of
/// two with more than two threads.
#[test]
fn threads_change_no_bit_of_outputs_and_input_gradients() {
    let isa = Isa::chosen();
    for side in TILE_SIZES {
        let d = conv_3x3([3, 18, 70], [33, 34], [[1, 1]; 2]);
        let [x, w, dy] = values(&d);
        let packed = WinogradWeights::new(isa, &w, &d, side, None);
        let run = |threads: usize| {
            with_threads(threads, || {
                let y = f32_winograd_3x3_nhwc(&x, &packed, &d, Epilogue::NONE);
                let dx = f32_winograd_3x3_nhwc_dx(isa, &w, &dy, &d, side);
                (y, dx, f32_winograd_3x3_nhwc_dw(isa, &x, &dy, &d, side))
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

/// Tiles of two round like the definition or better, tiles of four have up to three times its error
/// (sums of weights four to five times, which are more exact than outputs).
///
/// Mutations caught: Lavin and Gray's points, 1 and 2, for tiles of four.
#[test]
fn rounding_is_close_to_the_definition() {
    for (size, channels, filters) in [(28, 96, 32), (14, 160, 48), (28, 16, 96)] {
        let d = conv_3x3([1, channels, filters], [size, size], [[1, 1]; 2]);
        let [x, w, dy] = values(&d);
        let [y, dx, dw] = reference::standard_conv(&x, &w, &dy, &d);
        for isa in Isa::available() {
            let patches = f32_conv_patches_pack(isa, &w, &d, None);
            let plain = [
                error(&f32_conv_patches_nhwc(&x, &patches, &d, Epilogue::NONE), &y),
                error(&f32_conv_patches_nhwc_dw(isa, &x, &dy, &d), &dw),
                error(&f32_conv_patches_nhwc_dx(isa, &w, &dy, &d), &dx),
            ];
            for (side, factors) in [(TileSize::Two, [2.0; 3]), (TileSize::Four, [4.0, 6.0, 4.0])] {
                let packed = WinogradWeights::new(isa, &w, &d, side, None);
                let errors = [
                    error(&f32_winograd_3x3_nhwc(&x, &packed, &d, Epilogue::NONE), &y),
                    error(&f32_winograd_3x3_nhwc_dw(isa, &x, &dy, &d, side), &dw),
                    error(&f32_winograd_3x3_nhwc_dx(isa, &w, &dy, &d, side), &dx),
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

/// Mutations caught: weights shared by 8 tiles, 9 tiles of four for a large map.
#[test]
fn the_fastest_tile_is_the_measured_one() {
    let same = [[1, 1]; 2];
    let side = |batch, size, channels, filters| {
        fastest_tile(&conv_3x3([batch, channels, filters], [size, size], same))
    };
    // Layers of GoogLeNet, with one image and with sixteen.
    for batch in [1, 16] {
        assert_eq!(side(batch, 56, 64, 192), Some(TileSize::Four));
        assert_eq!(side(batch, 28, 16, 32), Some(TileSize::Four));
        assert_eq!(side(batch, 14, 160, 320), Some(TileSize::Two));
    }
    assert_eq!(side(1, 7, 192, 384), None);
    assert_eq!(side(16, 7, 192, 384), Some(TileSize::Two));
    assert_eq!(side(16, 56, 3, 64), None);
    for (stride, dilation, kernel) in [(2, 1, [3, 3]), (1, 2, [3, 3]), (1, 1, [1, 3])] {
        let mut d = conv_3x3([16, 64, 64], [56, 56], same);
        d.g = Geometry { stride, dilation, kernel, ..d.g };
        assert_eq!(fastest_tile(&d), None, "{stride} {dilation} {kernel:?}");
    }
}
