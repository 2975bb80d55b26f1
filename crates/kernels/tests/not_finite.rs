//! NaN and infinity through every kernel, on every instruction set of this machine and at odd
//! sizes: planted at one place of one operand, the result is torch's. No kernel makes a finite
//! value of them, and none takes them to another image.
//!
//! Two kernels spread them further than torch: a 3x3 convolution by Winograd's algorithm within the
//! tiles that read the value; and a weight that is not finite reaches the outputs whose tap lies on
//! the padding (zero times NaN), as in those of torch's kernels that gather patches.

#![expect(
    clippy::inline_always,
    reason = "a body must become part of each instruction set's function"
)]

#[path = "random/odd.rs"]
mod odd;
#[allow(dead_code, reason = "values alone")]
#[path = "random/random.rs"]
mod random;
#[path = "random/reference.rs"]
mod reference;

use kernels::cpu::activation::FusedActivation;
use kernels::cpu::batch_norm::{
    NormCoefficients, OutputGradient, f32_batch_norm, f32_batch_norm_backward,
    f32_batch_norm_moments,
};
use kernels::cpu::convolution::winograd::tiles::TileSize;
use kernels::cpu::convolution::winograd::{
    WinogradWeights, f32_winograd_3x3_nhwc, f32_winograd_3x3_nhwc_dw, f32_winograd_3x3_nhwc_dx,
};
use kernels::cpu::convolution::{
    f32_conv_patches_nhwc, f32_conv_patches_nhwc_dw, f32_conv_patches_nhwc_dx,
    f32_conv_patches_pack,
};
use kernels::cpu::depthwise::channels_last::{
    f32_depthwise_nhwc, f32_depthwise_nhwc_dw, f32_depthwise_nhwc_dx,
};
use kernels::cpu::depthwise::reference::{
    f32_depthwise_reference_nhwc, f32_depthwise_reference_nhwc_dw, f32_depthwise_reference_nhwc_dx,
};
use kernels::cpu::elementwise::{f32_relu, f32_relu_in_place, f32_zip};
use kernels::cpu::geometry::{Geometry, StandardConv};
use kernels::cpu::linear::{f32_linear, f32_linear_transposed};
use kernels::cpu::matmul::weight_gradient::f32_matmul_dw;
use kernels::cpu::matmul::{Epilogue, PackedWeights, f32_matmul};
use kernels::cpu::max_pool::{f32_max_pool_nhwc, f32_max_pool_nhwc_dx};
use kernels::cpu::spatial::{f32_spatial_mean_nhwc, f32_spatial_scale_nhwc, f32_spatial_sum_nhwc};
use kernels::cpu::squeeze_excite::{
    SqueezeExciteWeights, f32_squeeze_excite_nhwc, f32_squeeze_excite_nhwc_backward,
};
use kernels::isa::Isa;
use kernels::simd::{Kernel, Simd};
use odd::{ODD, alike, exact, places, planted};
use random::random;

const ACTIVATIONS: [FusedActivation; 4] = [
    FusedActivation::Linear,
    FusedActivation::Relu,
    FusedActivation::Relu6,
    FusedActivation::HardSwish,
];

/// torch's value: `clamp` keeps NaN.
fn activate(activation: FusedActivation, x: f32) -> f32 {
    match activation {
        FusedActivation::Relu if x < 0.0 => 0.0,
        FusedActivation::Linear | FusedActivation::Relu => x,
        FusedActivation::Relu6 => x.clamp(0.0, 6.0),
        FusedActivation::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
    }
}

/// torch's gradient: `threshold_backward`, `hardtanh_backward`, `hardswish_backward`.
fn slope(activation: FusedActivation, x: f32, dy: f32) -> f32 {
    match activation {
        FusedActivation::Relu if x <= 0.0 => 0.0,
        FusedActivation::Relu6 if x <= 0.0 || x >= 6.0 => 0.0,
        FusedActivation::Linear | FusedActivation::Relu | FusedActivation::Relu6 => dy,
        FusedActivation::HardSwish if x <= -3.0 => 0.0,
        FusedActivation::HardSwish if x >= 3.0 => dy,
        FusedActivation::HardSwish => dy * (x / 3.0 + 0.5),
    }
}

/// An activation and its slope on values of a whole number of vectors.
struct Applied<'a> {
    activation: FusedActivation,
    x: &'a [f32],
    dy: Option<&'a [f32]>,
    to: &'a mut [f32],
}

impl Kernel for Applied<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        assert!(self.x.len().is_multiple_of(S::LANES) && self.x.len() == self.to.len());
        for at in (0..self.x.len()).step_by(S::LANES) {
            // SAFETY: a whole vector lies at `at`.
            unsafe {
                let x = S::load(self.x.as_ptr().add(at));
                let value = match self.dy {
                    Some(dy) => self.activation.slope::<S>(x, S::load(dy.as_ptr().add(at))),
                    None => self.activation.apply::<S>(x),
                };
                S::store(self.to.as_mut_ptr().add(at), value);
            }
        }
    }
}

/// Mutations caught: ReLU with the operands of `max` exchanged (0 of NaN, as before); its slope
/// where `x > 0`.
#[test]
fn activations_and_their_slopes_are_torchs() {
    let edges = [-3.0, -0.0, 0.0, 3.0, 6.0, 1.5, -7.0, 7.0];
    let x: Vec<f32> = [&ODD[..], &edges, &random(1, 21)].concat();
    let dys: Vec<f32> = [&ODD[..], &[0.5, -2.0]].concat();
    let all =
        ACTIVATIONS.into_iter().flat_map(|a| Isa::available().into_iter().map(move |i| (a, i)));
    for (activation, isa) in all {
        let mut got = vec![0.0; x.len()];
        isa.run(Applied { activation, x: &x, dy: None, to: &mut got });
        let want: Vec<f32> = x.iter().map(|x| activate(activation, *x)).collect();
        alike(&format!("{activation:?} {isa:?}"), &got, &want, exact);
        for dy in &dys {
            let dy = vec![*dy; x.len()];
            isa.run(Applied { activation, x: &x, dy: Some(&dy), to: &mut got });
            let want: Vec<f32> =
                x.iter().zip(&dy).map(|(x, d)| slope(activation, *x, *d)).collect();
            alike(&format!("slope of {activation:?} {isa:?} {}", dy[0]), &got, &want, exact);
        }
    }
}

/// `activation(value + bias) + skip` for every value of `[rows, c]`.
fn with_epilogue(values: &[f32], c: usize, epilogue: &Epilogue<'_>) -> Vec<f32> {
    let one = |(i, value): (usize, &f32)| {
        let biased = value + epilogue.bias.map_or(0.0, |bias| bias[i % c]);
        activate(epilogue.activation, biased) + epilogue.skip.map_or(0.0, |skip| skip[i])
    };
    values.iter().enumerate().map(one).collect()
}

/// `a [m, k] b [k, n]`, elements of both by their strides, in f64.
fn product(a: &[f32], b: &[f32], [m, k, n]: [usize; 3], [of_a, of_b]: [[usize; 2]; 2]) -> Vec<f32> {
    let one = |row: usize, column: usize| {
        let terms = (0..k).map(|i| {
            let a = a[row * of_a[0] + i * of_a[1]];
            f64::from(a) * f64::from(b[i * of_b[0] + column * of_b[1]])
        });
        terms.sum::<f64>() as f32
    };
    (0..m).flat_map(|row| (0..n).map(move |column| (row, column))).map(|(r, c)| one(r, c)).collect()
}

/// A value that is not finite at some place of one operand at a time.
fn each_operand<const N: usize>(
    operands: &[Vec<f32>; N],
    mut run: impl FnMut(usize, usize, f32, [&[f32]; N]),
) {
    for (operand, odd) in (0..N).flat_map(|i| ODD.map(|odd| (i, odd))) {
        for place in places(operands[operand].len()) {
            let values = planted(&operands[operand], place, odd);
            let mut all = operands.each_ref().map(Vec::as_slice);
            all[operand] = &values;
            run(operand, place, odd, all);
        }
    }
}

/// Mutations caught: ReLU of NaN 0 in the epilogue.
#[test]
fn matrix_products_keep_them_to_their_row_and_column() {
    for [m, k, n] in [[1, 7, 5], [5, 3, 17], [13, 5, 64], [50, 16, 15], [30, 300, 70]] {
        let sizes = [m * k, k * n, n, m * n];
        let operands = [0, 1, 2, 3].map(|i| random(i as u64, sizes[i]));
        each_operand(&operands, |operand, place, odd, [a, w, bias, skip]| {
            // The weights are [n, k].
            let y = product(a, w, [m, k, n], [[k, 1], [1, k]]);
            let dw = product(skip, a, [n, m, k], [[1, n], [k, 1]]);
            for isa in Isa::available() {
                let what = |part: &str| {
                    format!("{part} {isa:?} {m} {k} {n}, {odd} at {place} of {operand}")
                };
                let packed = PackedWeights::new(isa, w, [k, n], [1, k], None);
                for activation in ACTIVATIONS {
                    let epilogue = Epilogue { bias: Some(bias), activation, skip: Some(skip) };
                    let want = with_epilogue(&y, n, &epilogue);
                    alike(&what("product"), &f32_matmul(a, &packed, epilogue), &want, exact);
                }
                alike(&what("dw"), &f32_matmul_dw(isa, skip, a, n, k), &dw, exact);
                let epilogue = Epilogue { bias: Some(bias), ..Epilogue::NONE };
                let want = with_epilogue(&y, n, &epilogue);
                alike(&what("linear"), &f32_linear_transposed(isa, a, w, bias), &want, exact);
                let transposed: Vec<f32> = (0..k * n).map(|i| w[i % n * k + i / n]).collect();
                alike(&what("of rows"), &f32_linear(isa, a, &transposed, bias), &want, exact);
            }
        });
    }
}

fn geometry(
    [batch, channels]: [usize; 2],
    input: [usize; 2],
    kernel: usize,
    stride: usize,
    before: usize,
) -> Geometry {
    let output = input.map(|side| (side + 2 * before - kernel) / stride + 1);
    let (kernel, before) = ([kernel; 2], [before; 2]);
    Geometry { batch, channels, input, kernel, stride, dilation: 1, before, output }
}

/// Mutations caught: ReLU of NaN 0 in the epilogue; pixels beside the map read and taken times
/// zero.
#[test]
fn depthwise_convolutions_keep_them_to_their_windows() {
    for (c, input, kernel, stride) in [
        (3, [5, 7], 3, 1),
        (21, [7, 6], 3, 2),
        (17, [9, 8], 5, 1),
        (70, [7, 7], 5, 2),
        (5, [3, 2], 3, 1),
    ] {
        let g = geometry([2, c], input, kernel, stride, kernel / 2);
        let sizes = [2 * c * input[0] * input[1], c * g.taps(), c, g.outputs()];
        let operands = [0, 1, 2, 3].map(|i| random(i as u64, sizes[i]));
        each_operand(&operands, |operand, place, odd, [x, w, bias, skip]| {
            let y = f32_depthwise_reference_nhwc(x, w, &g);
            let dx = f32_depthwise_reference_nhwc_dx(w, skip, &g);
            let dw = f32_depthwise_reference_nhwc_dw(x, skip, &g);
            // A weight that is not finite, times the zeros of the padding.
            let spread = |i: usize| operand == 1 && i % c == place % c;
            for isa in Isa::available() {
                let what =
                    |part: &str| format!("{part} {isa:?} {g:?}, {odd} at {place} of {operand}");
                for activation in ACTIVATIONS {
                    let epilogue = Epilogue { bias: Some(bias), activation, skip: Some(skip) };
                    let want = with_epilogue(&y, c, &epilogue);
                    let got = f32_depthwise_nhwc(isa, x, w, &g, epilogue);
                    alike(&what("y"), &got, &want, spread);
                }
                alike(&what("dx"), &f32_depthwise_nhwc_dx(isa, w, skip, &g), &dx, spread);
                alike(&what("dw"), &f32_depthwise_nhwc_dw(isa, x, skip, &g), &dw, exact);
            }
        });
    }
}

/// Mutations caught: ReLU of NaN 0 in the epilogue.
#[test]
fn standard_convolutions_keep_them_to_their_windows() {
    for (c, filters, input, stride) in
        [(3, 17, [9, 8], 2), (3, 5, [7, 7], 1), (5, 33, [4, 6], 1), (7, 6, [6, 5], 2)]
    {
        let d = StandardConv { g: geometry([2, c], input, 3, stride, 1), filters };
        let (pixels, taps) = (d.g.batch * d.g.output[0] * d.g.output[1], 9 * c);
        let sizes = [2 * c * input[0] * input[1], filters * taps, filters, pixels * filters];
        let operands = [0, 1, 2, 3].map(|i| random(i as u64, sizes[i]));
        each_operand(&operands, |operand, place, odd, [x, w, bias, skip]| {
            let [y, dx, dw] = reference::single(&reference::standard_conv(x, w, skip, &d));
            let of_filter = |i: usize| operand == 1 && i % filters == place / taps;
            let of_channel = |i: usize| operand == 1 && i % c == place % c;
            for isa in Isa::available() {
                let what =
                    |part: &str| format!("{part} {isa:?} {d:?}, {odd} at {place} of {operand}");
                let packed = f32_conv_patches_pack(isa, w, &d, None);
                for activation in ACTIVATIONS {
                    let epilogue = Epilogue { bias: Some(bias), activation, skip: Some(skip) };
                    let want = with_epilogue(&y, filters, &epilogue);
                    let got = f32_conv_patches_nhwc(x, &packed, &d, epilogue);
                    alike(&what("y"), &got, &want, of_filter);
                }
                let got = f32_conv_patches_nhwc_dx(isa, w, skip, &d);
                alike(&what("dx"), &got, &dx, of_channel);
                // The padding's zeros times a gradient that is not finite.
                let got = f32_conv_patches_nhwc_dw(isa, x, skip, &d);
                let of_gradient = |i: usize| operand == 3 && i / taps == place % filters;
                alike(&what("dw"), &got, &dw, of_gradient);
            }
        });
    }
}

/// Extra values that are not finite stay in the tiles that read the one planted, and never reach
/// another image.
///
/// Mutations caught: ReLU of NaN 0 in the epilogue; pixels beside the map read from its first one.
#[test]
fn minimal_filtering_keeps_them_to_their_tiles() {
    let tiles = [(TileSize::Two, 2_usize), (TileSize::Four, 4)];
    for (c, filters, input, (size, side)) in [(5, 7, [7, 9]), (17, 33, [6, 5])]
        .into_iter()
        .flat_map(|(c, f, i)| tiles.map(|t| (c, f, i, t)))
    {
        let g = geometry([2, c], input, 3, 1, 1);
        let d = StandardConv { g, filters };
        let (pixels, map) = (2 * input[0] * input[1], input[0] * input[1]);
        let sizes = [pixels * c, filters * 9 * c, filters, pixels * filters];
        let operands = [0, 1, 2, 3].map(|i| random(i as u64, sizes[i]));
        // Whether a pixel lies in a tile whose inputs reach the pixel of the planted value.
        let near = |pixel: usize, planted: usize| {
            let at = |pixel: usize| [pixel % map / input[1], pixel % input[1]];
            let reached = |axis: usize| {
                let first = at(pixel)[axis] / side * side;
                (first..first + side + 2).contains(&(at(planted)[axis] + 1))
            };
            pixel / map == planted / map && reached(0) && reached(1)
        };
        each_operand(&operands, |operand, place, odd, [x, w, bias, skip]| {
            let [y, dx, dw] = reference::single(&reference::standard_conv(x, w, skip, &d));
            let of_y = |i: usize| match operand {
                0 => near(i / filters, place / c),
                1 => i % filters == place / (9 * c),
                _ => false,
            };
            let of_dx = |i: usize| match operand {
                1 => i % c == place % c,
                3 => near(i / c, place / filters),
                _ => false,
            };
            let of_dw = |i: usize| match operand {
                0 => i % c == place % c,
                3 => i / (9 * c) == place % filters,
                _ => false,
            };
            for isa in Isa::available() {
                let what = |part: &str| {
                    format!("{part} {isa:?} {size:?} {d:?}, {odd} at {place} of {operand}")
                };
                let packed = WinogradWeights::new(isa, w, &d, size, None);
                for activation in ACTIVATIONS {
                    let epilogue = Epilogue { bias: Some(bias), activation, skip: Some(skip) };
                    let want = with_epilogue(&y, filters, &epilogue);
                    let got = f32_winograd_3x3_nhwc(x, &packed, &d, epilogue);
                    // An activation takes one infinity to 0 and keeps NaN, so both are compared
                    // before it.
                    if activation == FusedActivation::Linear || operand > 1 {
                        winograd(&what("y"), &got, &want, of_y);
                    }
                    let hidden =
                        y.iter().zip(&got).position(|(y, got)| y.is_nan() && !got.is_nan());
                    assert_eq!(hidden, None, "{}", what("NaN"));
                }
                let got = f32_winograd_3x3_nhwc_dx(isa, w, skip, &d, size);
                winograd(&what("dx"), &got, &dx, of_dx);
                let got = f32_winograd_3x3_nhwc_dw(isa, x, skip, &d, size);
                winograd(&what("dw"), &got, &dw, of_dw);
            }
        });
    }
}

/// [`alike`], where an infinity may be NaN: tiles subtract it from itself.
#[track_caller]
fn winograd(what: &str, got: &[f32], want: &[f32], spread: impl Fn(usize) -> bool) {
    let want: Vec<f32> = want
        .iter()
        .zip(got)
        .map(|(&want, &got)| if want.is_infinite() && !got.is_finite() { got } else { want })
        .collect();
    alike(what, got, &want, spread);
}

/// torch's maximum: a NaN replaces whatever came before it. The value and its place.
fn maximum(x: &[f32], g: &Geometry, output: usize) -> (f32, usize) {
    let c = g.channels;
    let (pixel, channel) = (output / c, output % c);
    let (ox, rest) = (pixel % g.output[1], pixel / g.output[1]);
    let (oy, image) = (rest % g.output[0], rest / g.output[0]);
    let (mut best, mut found) = (f32::NEG_INFINITY, None);
    for (ky, kx) in (0..g.kernel[0]).flat_map(|y| (0..g.kernel[1]).map(move |x| (y, x))) {
        let row = (oy * g.stride + ky).wrapping_sub(g.before[0]);
        let column = (ox * g.stride + kx).wrapping_sub(g.before[1]);
        if row < g.input[0] && column < g.input[1] {
            let at = ((image * g.input[0] + row) * g.input[1] + column) * c + channel;
            if found.is_none() || x[at] > best || x[at].is_nan() {
                (best, found) = (x[at], Some(at));
            }
        }
    }
    (best, found.expect("a window with a pixel"))
}

/// Mutations caught: the maximum of the other values (as before; and of AVX2 alone); the gradient
/// of a window with NaN to its first pixel.
#[test]
fn the_maximum_of_a_window_with_nan_is_nan() {
    for (c, input, kernel, stride, before) in [
        (1, [5, 4], 3, 2, 1),
        (21, [7, 8], 3, 2, 0),
        (17, [6, 5], 3, 1, 1),
        (40, [8, 8], 2, 2, 0),
        (5, [9, 7], 4, 3, 1),
    ] {
        let g = geometry([2, c], input, kernel, stride, before);
        let operands = [random(1, 2 * c * input[0] * input[1]), random(2, g.outputs())];
        each_operand(&operands, |operand, place, odd, [x, dy]| {
            // A second value beside the planted one: the last NaN of a window has its gradient.
            let mut x = x.to_vec();
            if operand == 0 && place >= c {
                x[place - c] = odd;
            }
            let found: Vec<(f32, usize)> = (0..g.outputs()).map(|i| maximum(&x, &g, i)).collect();
            let want: Vec<f32> = found.iter().map(|(value, _)| *value).collect();
            let mut dx = vec![0.0; x.len()];
            found.iter().zip(dy).for_each(|((_, at), dy)| dx[*at] += dy);
            for isa in Isa::available() {
                let what =
                    |part: &str| format!("{part} {isa:?} {g:?}, {odd} at {place} of {operand}");
                alike(&what("y"), &f32_max_pool_nhwc(isa, &x, &g), &want, exact);
                alike(&what("dx"), &f32_max_pool_nhwc_dx(isa, &x, dy, &g), &dx, exact);
            }
        });
    }
}

/// Mutations caught: the next channel added times zero.
#[test]
fn sums_and_gates_keep_them_to_their_channel_and_image() {
    for (pixels, c) in [(1, 1), (49, 21), (300, 17)] {
        let sizes = [2 * pixels * c, 2 * pixels * c, 2 * c];
        let operands = [0, 1, 2].map(|i| random(i as u64, sizes[i]));
        each_operand(&operands, |operand, place, odd, [x, other, gate]| {
            let sums = |other: Option<&[f32]>| {
                let mut sums = vec![0.0_f64; 2 * c];
                for (i, x) in x.iter().enumerate() {
                    let other = other.map_or(1.0, |other| other[i]);
                    sums[i / (pixels * c) * c + i % c] += f64::from(*x) * f64::from(other);
                }
                sums
            };
            let single = |values: &[f64], by: f64| -> Vec<f32> {
                values.iter().map(|v| (v / by) as f32).collect()
            };
            let gated: Vec<f32> =
                x.iter().enumerate().map(|(i, x)| x * gate[i / (pixels * c) * c + i % c]).collect();
            for isa in Isa::available() {
                let what = |part: &str| {
                    format!("{part} {isa:?} {pixels} {c}, {odd} at {place} of {operand}")
                };
                let got = f32_spatial_sum_nhwc(isa, x, Some(other), 2, c);
                alike(&what("sum"), &got, &single(&sums(Some(other)), 1.0), exact);
                let got = f32_spatial_mean_nhwc(isa, x, 2, c);
                alike(&what("mean"), &got, &single(&sums(None), pixels as f64), exact);
                let got = f32_spatial_scale_nhwc(isa, Some(x), gate, None, [2, pixels, c]);
                alike(&what("scale"), &got, &gated, exact);
            }
        });
    }
}

/// ReLU and sums of whole maps, in place and not.
///
/// Mutations caught: `f32::max` for ReLU (as before).
#[test]
fn values_of_maps_keep_them() {
    let x: Vec<f32> = [&ODD[..], &[-0.5, 0.0], &random(1, 40)].concat();
    let relu: Vec<f32> = x.iter().map(|x| activate(FusedActivation::Relu, *x)).collect();
    alike("relu", &f32_relu(&x), &relu, exact);
    let mut own = x.clone();
    f32_relu_in_place(&mut own);
    alike("relu in place", &own, &relu, exact);
    let ones = vec![1.0; x.len()];
    let want: Vec<f32> = x.iter().map(|x| x + 1.0).collect();
    alike("sum", &f32_zip(&x, &ones, |x, y| x + y), &want, exact);
}

/// Squeeze-and-excite by its definition, with torch's activations.
///
/// Mutations caught: `f32::max` for the hidden layer's ReLU (as before); the gradient of a closed
/// gate times zero.
#[test]
fn squeeze_excite_is_torchs() {
    for (pixels, c, s) in [(9, 5, 3), (49, 21, 8)] {
        let sizes = [2 * pixels * c, s * c, s, c * s, c];
        let operands = [0, 1, 2, 3, 4].map(|i| random(i as u64, sizes[i]));
        each_operand(&operands, |operand, place, odd, [x, w1, b1, w2, b2]| {
            let mut mean = vec![0.0; 2 * c];
            for (i, x) in x.iter().enumerate() {
                mean[i / (pixels * c) * c + i % c] += x / pixels as f32;
            }
            let biased = |values: Vec<f32>, bias: &[f32]| -> Vec<f32> {
                values.iter().enumerate().map(|(i, v)| v + bias[i % bias.len()]).collect()
            };
            let hidden = biased(product(&mean, w1, [2, c, s], [[c, 1], [1, c]]), b1);
            let hidden: Vec<f32> =
                hidden.iter().map(|v| activate(FusedActivation::Relu, *v)).collect();
            let gate = biased(product(&hidden, w2, [2, s, c], [[s, 1], [1, s]]), b2);
            let open = |z: f32| (z / 6.0 + 0.5).clamp(0.0, 1.0);
            let want: Vec<f32> = x
                .iter()
                .enumerate()
                .map(|(i, x)| x * open(gate[i / (pixels * c) * c + i % c]))
                .collect();
            let dout = vec![1.0; x.len()];
            for isa in Isa::available() {
                let what = |part: &str| {
                    format!("{part} {isa:?} {pixels} {c} {s}, {odd} at {place} of {operand}")
                };
                let weights = SqueezeExciteWeights { w1, w2 };
                let got = f32_squeeze_excite_nhwc(isa, x, weights, [b1, b2], 2);
                alike(&what("hidden"), &got.hidden, &hidden, exact);
                alike(&what("gate"), &got.gate, &gate, exact);
                alike(&what("y"), &got.out, &want, exact);
                let forward = [&got.mean[..], &got.hidden, &got.gate];
                let back = f32_squeeze_excite_nhwc_backward(isa, x, weights, forward, &dout, 2);
                // torch: the gradient of the gate is 0 outside of the slope, and for NaN.
                let inside = |z: f32| z > -3.0 && z < 3.0;
                let mut dz = vec![0.0; 2 * c];
                for (i, x) in x.iter().enumerate() {
                    dz[i / (pixels * c) * c + i % c] += x;
                }
                let dz: Vec<f32> = dz
                    .iter()
                    .zip(&gate)
                    .map(|(d, z)| if inside(*z) { d / 6.0 } else { 0.0 })
                    .collect();
                let db2: Vec<f32> = (0..c).map(|i| dz[i] + dz[c + i]).collect();
                alike(&what("db2"), &back.db2, &db2, exact);
                let dhidden = product(&dz, w2, [2, c, s], [[c, 1], [s, 1]]);
                let dhidden: Vec<f32> = dhidden
                    .iter()
                    .zip(&hidden)
                    .map(|(d, value)| slope(FusedActivation::Relu, *value, *d))
                    .collect();
                let db1: Vec<f32> = (0..s).map(|i| dhidden[i] + dhidden[s + i]).collect();
                alike(&what("db1"), &back.db1, &db1, exact);
            }
        });
    }
}

/// A channel with NaN or infinity has no mean, no variance and no gradient; the others have theirs.
///
/// Mutations caught: ReLU of NaN 0 behind the norm; gamma's gradient clamped from below.
#[test]
fn batch_norm_keeps_them_to_their_channel() {
    for (rows, c) in [(5, 3), (7, 17), (600, 21)] {
        let sizes = [rows * c, rows * c, rows * c];
        let operands = [0, 1, 2].map(|i| random(i as u64, sizes[i]));
        let (scale, shift) = (random(4, c), random(5, c));
        each_operand(&operands, |operand, place, odd, [y, da, skip]| {
            let n = rows as f64;
            let column = |i: usize| (0..rows).map(move |r| f64::from(y[r * c + i]));
            let mean: Vec<f64> = (0..c).map(|i| column(i).sum::<f64>() / n).collect();
            let variance: Vec<f32> = (0..c)
                .map(|i| (column(i).map(|v| (v - mean[i]).powi(2)).sum::<f64>() / n) as f32)
                .collect();
            let mean: Vec<f32> = mean.iter().map(|v| *v as f32).collect();
            for isa in Isa::available() {
                let what = |part: &str| {
                    format!("{part} {isa:?} {rows} {c}, {odd} at {place} of {operand}")
                };
                let got = f32_batch_norm_moments(isa, y, c);
                // The sums are relative to the first row: an infinity there leaves NaN.
                let of_column = |i: usize| operand == 0 && i == place % c;
                let no_number = |values: &[f32], i: usize| !values[i].is_finite();
                assert!(
                    (0..c).all(|i| no_number(&got.0, i) == no_number(&mean, i)
                        && no_number(&got.1, i) == no_number(&variance, i)),
                    "{}",
                    what("moments")
                );
                alike(&what("variance"), &got.1, &variance, of_column);
                for activation in ACTIVATIONS {
                    let got = f32_batch_norm(isa, y, &scale, &shift, activation, Some(skip));
                    let want: Vec<f32> = y
                        .iter()
                        .enumerate()
                        .map(|(i, y)| {
                            activate(activation, y * scale[i % c] + shift[i % c]) + skip[i]
                        })
                        .collect();
                    alike(&what("y"), &got, &want, exact);
                    let norm = NormCoefficients {
                        mean: &mean,
                        scale: &scale,
                        shift: &shift,
                        deviation: &scale,
                        activation,
                    };
                    let given = OutputGradient::Shared(da);
                    let (dy, dgamma, dbeta) = f32_batch_norm_backward(isa, y, given, norm);
                    let z = |i: usize| y[i] * scale[i % c] + shift[i % c];
                    let inner: Vec<f32> =
                        (0..rows * c).map(|i| slope(activation, z(i), da[i])).collect();
                    for i in 0..c {
                        let sum: f32 = (0..rows).map(|r| inner[r * c + i]).sum();
                        let finite = sum.is_finite() && mean[i].is_finite();
                        let which = format!("{} column {i} {activation:?}", what("gradients"));
                        assert_eq!(dbeta[i].is_finite(), sum.is_finite(), "dbeta {which}");
                        assert_eq!(dgamma[i].is_finite(), finite, "dgamma {which}");
                        let all = (0..rows).all(|r| dy[r * c + i].is_finite());
                        assert_eq!(all, finite, "dy {which}");
                    }
                }
            }
        });
    }
}
