//! Every kernel against its definition, on every instruction set of this machine and at critical
//! sizes: 1; one less and one more than a vector, a block of rows, a tile; maps smaller than the
//! kernel's reach.

#[path = "random/random.rs"]
mod random;
#[path = "random/reference.rs"]
mod reference;

use kernels::cpu::activation::FusedActivation;
use kernels::cpu::batch_norm::{
    NormCoefficients, NormGradient, OutputGradient, f32_batch_norm, f32_batch_norm_backward,
    f32_batch_norm_moments,
};
use kernels::cpu::convolution::{f32_conv_nhwc, f32_conv_nhwc_dw, f32_conv_nhwc_dx, f32_conv_pack};
use kernels::cpu::depthwise::channels_last::{
    f32_depthwise_nhwc, f32_depthwise_nhwc_dw, f32_depthwise_nhwc_dx,
};
use kernels::cpu::depthwise::reference::{
    f32_depthwise_reference_nhwc, f32_depthwise_reference_nhwc_dw, f32_depthwise_reference_nhwc_dx,
};
use kernels::cpu::geometry::{Geometry, StandardConv};
use kernels::cpu::layout::{f32_nchw_to_nhwc, f32_nhwc_to_nchw};
use kernels::cpu::matmul::vector::{f32_matvec, f32_vecmat};
use kernels::cpu::matmul::weight_gradient::f32_matmul_dw;
use kernels::cpu::matmul::{Epilogue, PackedWeights, f32_matmul};
use kernels::cpu::pointwise_backward::f32_pointwise_norm_backward;
use kernels::cpu::spatial::{f32_spatial_mean_nhwc, f32_spatial_scale_nhwc, f32_spatial_sum_nhwc};
use kernels::isa::Isa;
use random::{close, random};

const ACTIVATIONS: [FusedActivation; 4] = [
    FusedActivation::Linear,
    FusedActivation::Relu,
    FusedActivation::Relu6,
    FusedActivation::HardSwish,
];

fn activate(activation: FusedActivation, x: f32) -> f32 {
    match activation {
        FusedActivation::Linear => x,
        FusedActivation::Relu => x.max(0.0),
        FusedActivation::Relu6 => x.clamp(0.0, 6.0),
        FusedActivation::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
    }
}

fn derivative(activation: FusedActivation, x: f64) -> f64 {
    match activation {
        FusedActivation::Linear => 1.0,
        FusedActivation::Relu => f64::from(u8::from(x > 0.0)),
        FusedActivation::Relu6 => f64::from(u8::from(x > 0.0 && x < 6.0)),
        FusedActivation::HardSwish if x <= -3.0 => 0.0,
        FusedActivation::HardSwish if x >= 3.0 => 1.0,
        FusedActivation::HardSwish => x / 3.0 + 0.5,
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

/// `a [m, k] b [k, n]`, elements of b by their strides, in f64.
fn product(a: &[f32], b: &[f32], [m, k, n]: [usize; 3], strides: [usize; 2]) -> Vec<f32> {
    let mut out = vec![0.0_f64; m * n];
    for (row, column) in (0..m).flat_map(|r| (0..n).map(move |c| (r, c))) {
        for i in 0..k {
            let b = b[i * strides[0] + column * strides[1]];
            out[row * n + column] += f64::from(a[row * k + i]) * f64::from(b);
        }
    }
    out.into_iter().map(|v| v as f32).collect()
}

/// Mutations caught: the last vector of a block written whole, rows past the end read as zeros but
/// counted, the bias after the activation, the skip path of another tile; of a vector the remaining
/// rows omitted; the sums of the parts before not added.
#[test]
fn matrix_products_equal_the_definition() {
    let sizes = [
        [1, 1, 1],
        [1, 960, 7],
        [7, 3, 5],
        [49, 17, 33],
        [50, 16, 15],
        [13, 5, 64],
        [100, 24, 72],
        [65, 40, 130],
        [601, 9, 17],
        [1030, 65, 49],
        [30, 300, 70], // deep: in parts
    ];
    for [m, k, n] in sizes {
        let (x, w, dy) = (random(1, m * k), random(2, n * k), random(3, m * n));
        let (bias, skip, scale) = (random(4, n), random(5, m * n), random(6, n));
        let y = product(&x, &w, [m, k, n], [1, k]);
        let dx = product(&dy, &w, [m, n, k], [k, 1]);
        let transposed = f32_nchw_to_nhwc(&dy, 1, m, n); // [n, m]
        let dw = product(&transposed, &x, [n, m, k], [k, 1]);
        for isa in Isa::available() {
            let what = |part: &str| format!("{part} {isa:?} {m} {k} {n}");
            let packed = PackedWeights::new(isa, &w, [k, n], [1, k], None);
            close(&what("y"), &f32_matmul(&x, &packed, Epilogue::NONE), &y, 1e-5);
            let back = PackedWeights::new(isa, &w, [n, k], [k, 1], None);
            close(&what("dx"), &f32_matmul(&dy, &back, Epilogue::NONE), &dx, 1e-5);
            close(&what("dw"), &f32_matmul_dw(isa, &dy, &x, n, k), &dw, 1e-5);
            close(&what("row"), &f32_matvec(isa, &w, &x[..k]), &y[..n], 1e-5);
            let transposed = f32_nchw_to_nhwc(&w, 1, n, k); // [k, n]
            let row: Vec<f32> = y[..n].iter().zip(&bias).map(|(y, bias)| y + bias).collect();
            let got = f32_vecmat(isa, &x[..k], &transposed, &bias);
            close(&what("vector"), &got, &row, 1e-5);
            for activation in ACTIVATIONS {
                let epilogue = Epilogue { bias: Some(&bias), activation, skip: Some(&skip) };
                let got = f32_matmul(&x, &packed, epilogue);
                close(&what("epilogue"), &got, &with_epilogue(&y, n, &epilogue), 1e-5);
            }
            let scaled = PackedWeights::new(isa, &w, [k, n], [1, k], Some(&scale));
            let want: Vec<f32> = y.iter().enumerate().map(|(i, y)| y * scale[i % n]).collect();
            close(&what("scaled"), &f32_matmul(&x, &scaled, Epilogue::NONE), &want, 1e-5);
        }
    }
}

/// The geometry, `None` where the kernel exceeds the padded map.
fn geometry(
    [batch, channels]: [usize; 2],
    input: [usize; 2],
    kernel: [usize; 2],
    stride: usize,
    dilation: usize,
    pads: [(usize, usize); 2],
) -> Option<Geometry> {
    let reach = |axis: usize| (kernel[axis] - 1) * dilation + 1;
    let padded = |axis: usize| input[axis] + pads[axis].0 + pads[axis].1;
    if padded(0) < reach(0) || padded(1) < reach(1) {
        return None;
    }
    let output = [0, 1].map(|axis| (padded(axis) - reach(axis)) / stride + 1);
    let before = [pads[0].0, pads[1].0];
    Some(Geometry { batch, channels, input, kernel, stride, dilation, before, output })
}

/// Critical convolutions: symmetric padding, TensorFlow's and none, strides, dilations, odd
/// kernels.
fn geometries(channels: usize) -> Vec<Geometry> {
    let inputs =
        [[1, 1], [1, 9], [7, 1], [2, 3], [5, 5], [7, 7], [8, 9], [14, 13], [15, 33], [28, 28]];
    let mut all = Vec::new();
    for input in inputs {
        let mut add = |batch, kernel, stride, dilation, pads| {
            all.extend(geometry([batch, channels], input, kernel, stride, dilation, pads));
        };
        for kernel in [3, 5] {
            let side = (kernel - 1) / 2;
            for stride in [1, 2] {
                add(2, [kernel, kernel], stride, 1, [(side, side); 2]);
                add(1, [kernel, kernel], stride, 1, [(side - 1, side); 2]);
                add(1, [kernel, kernel], stride, 1, [(0, 0); 2]);
            }
            add(1, [kernel, kernel], 1, 2, [(kernel - 1, kernel - 1); 2]);
        }
        add(9, [3, 3], 2, 1, [(1, 1); 2]);
        add(1, [1, 1], 1, 1, [(0, 0); 2]);
        add(1, [1, 1], 2, 1, [(0, 0); 2]);
        add(1, [1, 7], 1, 1, [(0, 0), (3, 3)]);
        add(1, [7, 1], 1, 1, [(3, 3), (0, 0)]);
        add(1, [7, 7], 2, 1, [(3, 3); 2]);
        add(1, [3, 3], 3, 1, [(1, 1); 2]);
        add(1, [2, 4], 2, 1, [(0, 1), (1, 2)]);
        add(1, [3, 3], 1, 1, [(4, 4); 2]); // the first outputs have no tap on the map
    }
    all
}

/// Mutations caught: stride 2 taken for 1 in the shared loads, the last channels read whole, the
/// kernel not rotated for the input's gradient, a row below the map counted, all taps of the border
/// counted; of a lone output the first tap on the input one too early, the bias of the first vector
/// for all.
#[test]
fn depthwise_equals_the_reference() {
    for channels in [1, 3, 16, 21, 40, 83] {
        for g in geometries(channels) {
            let x = random(1, g.batch * channels * g.input[0] * g.input[1]);
            let (w, dy) = (random(2, channels * g.taps()), random(3, g.outputs()));
            let (bias, skip) = (random(4, channels), random(5, g.outputs()));
            let y = f32_depthwise_reference_nhwc(&x, &w, &g);
            let dx = f32_depthwise_reference_nhwc_dx(&w, &dy, &g);
            let dw = f32_depthwise_reference_nhwc_dw(&x, &dy, &g);
            for isa in Isa::available() {
                let what = |part: &str| format!("{part} {isa:?} {g:?}");
                close(&what("y"), &f32_depthwise_nhwc(isa, &x, &w, &g, Epilogue::NONE), &y, 1e-5);
                close(&what("dx"), &f32_depthwise_nhwc_dx(isa, &w, &dy, &g), &dx, 1e-5);
                close(&what("dw"), &f32_depthwise_nhwc_dw(isa, &x, &dy, &g), &dw, 1e-5);
                let activation = FusedActivation::HardSwish;
                let epilogue = Epilogue { bias: Some(&bias), activation, skip: Some(&skip) };
                let got = f32_depthwise_nhwc(isa, &x, &w, &g, epilogue);
                close(&what("epilogue"), &got, &with_epilogue(&y, channels, &epilogue), 1e-5);
            }
        }
    }
}

/// Mutations caught: patches not cleared between tiles, the run of a row one pixel short, the
/// gradient of a tile written instead of added; of three channels at stride 2 the last group one
/// pixel off, the taps of a border from the first on.
#[test]
fn standard_convolutions_equal_the_definition() {
    for (channels, filters) in [(1, 1), (3, 17), (19, 5)] {
        for g in geometries(channels) {
            let d = StandardConv { g, filters };
            let x = random(1, g.batch * channels * g.input[0] * g.input[1]);
            let w = random(2, filters * d.patch());
            let dy = random(3, g.batch * g.output[0] * g.output[1] * filters);
            let [y, dx, dw] = reference::single(&reference::standard_conv(&x, &w, &dy, &d));
            for isa in Isa::available() {
                let what = |part: &str| format!("{part} {isa:?} {d:?}");
                let packed = f32_conv_pack(isa, &w, &d, None);
                let got = f32_conv_nhwc(&x, &packed, &d, Epilogue::NONE);
                close(&what("y"), &got, &y, 1e-5);
                close(&what("dx"), &f32_conv_nhwc_dx(isa, &w, &dy, &d), &dx, 1e-5);
                close(&what("dw"), &f32_conv_nhwc_dw(isa, &x, &dy, &d), &dw, 1e-5);
            }
        }
    }
}

/// In f64, from the definition. Columns have means far from zero: sums of squares would cancel.
///
/// Mutations caught: the tiles' means averaged without their counts, `E[y^2] - E[y]^2` in f32,
/// gradients without the term of the mean or of xhat, 0.2 for the derivative 1/6 in h-swish, ReLU
/// for ReLU6.
#[test]
fn norm_equals_its_definition() {
    for (rows, c) in [(7, 5), (5, 16), (49, 21), (600, 17), (1100, 40)] {
        let offset = |i: usize| if i.is_multiple_of(c) { 20.0 } else { 2.0 };
        let y: Vec<f32> =
            random(1, rows * c).iter().enumerate().map(|(i, v)| 4.0 * v + offset(i)).collect();
        let (da, skip) = (random(2, rows * c), random(3, rows * c));
        let (gamma, beta) = (random(4, c), random(5, c));
        let at = |values: &[f32], row: usize, i: usize| f64::from(values[row * c + i]);
        let mean: Vec<f64> =
            (0..c).map(|i| (0..rows).map(|r| at(&y, r, i)).sum::<f64>() / rows as f64).collect();
        let variance: Vec<f64> = (0..c)
            .map(|i| (0..rows).map(|r| (at(&y, r, i) - mean[i]).powi(2)).sum::<f64>() / rows as f64)
            .collect();
        let single = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<f32>>();
        let deviation: Vec<f64> = variance.iter().map(|v| 1.0 / (v + 1e-3).sqrt()).collect();
        let scale: Vec<f64> = (0..c).map(|i| f64::from(gamma[i]) * deviation[i]).collect();
        let shift: Vec<f64> = (0..c).map(|i| f64::from(beta[i]) - mean[i] * scale[i]).collect();
        let (mean32, scale32) = (single(&mean), single(&scale));
        let (shift32, deviation32) = (single(&shift), single(&deviation));
        for isa in Isa::available() {
            let (got_mean, got_variance) = f32_batch_norm_moments(isa, &y, c);
            close(&format!("mean {isa:?} {rows} {c}"), &got_mean, &mean32, 1e-6);
            close(&format!("variance {isa:?} {rows} {c}"), &got_variance, &single(&variance), 1e-5);
            for activation in ACTIVATIONS {
                let what = |part: &str| format!("{part} {isa:?} {activation:?} {rows} {c}");
                let z = |r: usize, i: usize| at(&y, r, i) * scale[i] + shift[i];
                let g = |r: usize, i: usize| at(&da, r, i) * derivative(activation, z(r, i));
                let xhat = |r: usize, i: usize| (at(&y, r, i) - mean[i]) * deviation[i];
                let dbeta: Vec<f64> = (0..c).map(|i| (0..rows).map(|r| g(r, i)).sum()).collect();
                let dgamma: Vec<f64> =
                    (0..c).map(|i| (0..rows).map(|r| g(r, i) * xhat(r, i)).sum()).collect();
                let n = rows as f64;
                let (mut out, mut dy) = (Vec::new(), Vec::new());
                for (r, i) in (0..rows).flat_map(|r| (0..c).map(move |i| (r, i))) {
                    out.push(activate(activation, z(r, i) as f32) + skip[r * c + i]);
                    let centred = g(r, i) - dbeta[i] / n - xhat(r, i) * dgamma[i] / n;
                    dy.push((scale[i] * centred) as f32);
                }
                let got = f32_batch_norm(isa, &y, &scale32, &shift32, activation, Some(&skip));
                // y * scale + shift cancels where the mean is large against the deviation.
                close(&what("out"), &got, &out, 2e-4);
                let norm = NormCoefficients {
                    mean: &mean32,
                    scale: &scale32,
                    shift: &shift32,
                    deviation: &deviation32,
                    activation,
                };
                for gradient in [OutputGradient::Shared(&da), OutputGradient::Owned(da.clone())] {
                    let (got, got_gamma, got_beta) =
                        f32_batch_norm_backward(isa, &y, gradient, norm);
                    close(&what("dy"), &got, &dy, 1e-4);
                    close(&what("dgamma"), &got_gamma, &single(&dgamma), 1e-4);
                    close(&what("dbeta"), &got_beta, &single(&dbeta), 1e-4);
                }
            }
        }
    }
}

/// Mutations caught: the last run of pixels omitted, the gate of the next image, every thread's
/// channels taken for the first.
#[test]
fn spatial_kernels_equal_their_definitions() {
    for [b, pixels, c] in [[1, 1, 1], [2, 49, 21], [3, 300, 17], [1, 784, 40]] {
        let (x, other) = (random(1, b * pixels * c), random(2, b * pixels * c));
        let (gate, shift) = (random(3, b * c), random(4, b * c));
        let (mut sums, mut products) = (vec![0.0_f64; b * c], vec![0.0_f64; b * c]);
        for i in 0..x.len() {
            let to = i / (pixels * c) * c + i % c;
            sums[to] += f64::from(x[i]);
            products[to] += f64::from(x[i]) * f64::from(other[i]);
        }
        let single = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<f32>>();
        let row = |i: usize| i / (pixels * c) * c + i % c;
        let gated: Vec<f32> = (0..x.len()).map(|i| x[i] * gate[row(i)] + shift[row(i)]).collect();
        for isa in Isa::available() {
            let mean: Vec<f64> = sums.iter().map(|sum| sum / pixels as f64).collect();
            close("means", &f32_spatial_mean_nhwc(isa, &x, b, c), &single(&mean), 1e-5);
            close("sums", &f32_spatial_sum_nhwc(isa, &x, None, b, c), &single(&sums), 1e-5);
            close(
                "products",
                &f32_spatial_sum_nhwc(isa, &x, Some(&other), b, c),
                &single(&products),
                1e-5,
            );
            let got = f32_spatial_scale_nhwc(isa, Some(&x), &gate, Some(&shift), [b, pixels, c]);
            close("gated", &got, &gated, 1e-5);
        }
    }
}

#[test]
fn layouts_convert_there_and_back() {
    for [b, c, pixels] in [[1, 1, 1], [2, 3, 7], [3, 40, 49], [1, 17, 33]] {
        let first = random(1, b * c * pixels);
        let last = f32_nchw_to_nhwc(&first, b, c, pixels);
        for (i, value) in first.iter().enumerate() {
            let (image, channel, pixel) = (i / (c * pixels), i / pixels % c, i % pixels);
            assert_eq!(last[(image * pixels + pixel) * c + channel], *value);
        }
        assert_eq!(f32_nhwc_to_nchw(&last, b, c, pixels), first);
    }
}

/// As `ARCHITECTURE.md` promises, the bits of these kernels do not depend on the number of threads.
#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let g = geometry([3, 24], [29, 30], [5, 5], 2, 1, [(2, 2); 2]).expect("it fits");
    let (x, w) = (random(1, 3 * 24 * 29 * 30), random(2, 24 * 25));
    let (dy, wide) = (random(3, g.outputs()), random(4, 24 * 40));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let isa = Isa::chosen();
            let packed = PackedWeights::new(isa, &wide, [24, 40], [1, 24], None);
            (
                f32_depthwise_nhwc(isa, &x, &w, &g, Epilogue::NONE),
                f32_depthwise_nhwc_dx(isa, &w, &dy, &g),
                f32_depthwise_nhwc_dw(isa, &x, &dy, &g),
                f32_matmul(&x, &packed, Epilogue::NONE),
                f32_batch_norm_moments(isa, &x, 24),
            )
        })
    };
    assert!(run(1) == run(4), "one thread and four differ");
}

/// In one pass or in three: the input's gradient has the same bits on any number of threads; the
/// weights' gradient is summed in other parts and repeats on the same number of threads.
///
/// Mutations caught: a share's first rows for all its tiles, the first share's rows for every
/// share, a share's sums omitted.
#[test]
fn a_pointwise_backward_pass_is_that_of_its_parts() {
    let isa = Isa::chosen();
    for [rows, n, k] in [[9001, 17, 24], [700, 33, 5], [63, 8, 40]] {
        let (x, w) = (random(1, rows * k), random(2, n * k));
        let (y, da) = (random(3, rows * n), random(4, rows * n));
        let (mean, deviation) = (random(5, n), vec![1.5; n]);
        let (scale, shift) = (random(6, n), random(7, n));
        let norm = NormCoefficients {
            mean: &mean,
            scale: &scale,
            shift: &shift,
            deviation: &deviation,
            activation: FusedActivation::HardSwish,
        };
        let (dy, ..) = f32_batch_norm_backward(isa, &y, OutputGradient::Shared(&da), norm);
        let back = PackedWeights::new(isa, &w, [n, k], [k, 1], None);
        let dx = f32_matmul(&dy, &back, Epilogue::NONE);
        let dw = f32_matmul_dw(isa, &dy, &x, n, k);
        for threads in [1, 2, 3, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let run = || {
                let gradient = NormGradient::new(isa, &y, &da, norm);
                f32_pointwise_norm_backward(isa, [&x, &y, &da], &w, &gradient, [n, k])
            };
            let (first, second) = (pool.install(run), pool.install(run));
            assert!(first.0 == dx, "{rows} rows, {threads} threads");
            assert!(first == second, "{rows} rows, {threads} threads, twice");
            close(&format!("{rows} rows, {threads} threads"), &first.1, &dw, 1e-5);
        }
    }
}
