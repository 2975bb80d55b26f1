//! Every fast kernel against its definition, on every instruction set of this machine, on nasty sizes: 1, one
//! less and one more than a vector, than a block of rows, than a tile; maps smaller than the kernel's reach.

#[path = "rough/rough.rs"]
mod rough;
#[path = "rough/dense.rs"]
mod twin;

use kernels::cpu::activation::Activation;
use kernels::cpu::batch_norm;
use kernels::cpu::batch_norm::{Gradient, Normalised, Slopes};
use kernels::cpu::convolution;
use kernels::cpu::convolution::StandardConv;
use kernels::cpu::depthwise::{Geometry, channels_last, naive};
use kernels::cpu::layout::{channels_first, channels_last};
use kernels::cpu::matmul;
use kernels::cpu::matmul::{Epilogue, PackedWeights};
use kernels::cpu::{pointwise_backward, spatial};
use kernels::isa::Isa;
use rough::{close, rough};

const ACTIVATIONS: [Activation; 4] =
    [Activation::Linear, Activation::Relu, Activation::Relu6, Activation::HardSwish];

fn activated(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Linear => x,
        Activation::Relu => x.max(0.0),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
    }
}

fn slope(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Linear => 1.0,
        Activation::Relu => f64::from(u8::from(x > 0.0)),
        Activation::Relu6 => f64::from(u8::from(x > 0.0 && x < 6.0)),
        Activation::HardSwish if x <= -3.0 => 0.0,
        Activation::HardSwish if x >= 3.0 => 1.0,
        Activation::HardSwish => x / 3.0 + 0.5,
    }
}

/// `activation(value + bias) + skip` for every value of `[rows, c]`.
fn finished(values: &[f32], c: usize, finish: &Epilogue<'_>) -> Vec<f32> {
    let one = |(i, value): (usize, &f32)| {
        let biased = value + finish.bias.map_or(0.0, |bias| bias[i % c]);
        activated(finish.activation, biased) + finish.skip.map_or(0.0, |skip| skip[i])
    };
    values.iter().enumerate().map(one).collect()
}

/// `a [m, k] b [k, n]`, elements of b by their strides, in f64.
fn naive_product(a: &[f32], b: &[f32], [m, k, n]: [usize; 3], strides: [usize; 2]) -> Vec<f32> {
    let mut out = vec![0.0_f64; m * n];
    for (row, column) in (0..m).flat_map(|r| (0..n).map(move |c| (r, c))) {
        for i in 0..k {
            let b = b[i * strides[0] + column * strides[1]];
            out[row * n + column] += f64::from(a[row * k + i]) * f64::from(b);
        }
    }
    out.into_iter().map(|v| v as f32).collect()
}

/// Seen to fail with: the last vector of a block written whole, rows past the end read as zeros but counted,
/// the bias after the activation, the skip path of another tile; of a vector the rows left over; what the parts before
/// gave not added.
#[test]
fn products_equal_the_naive_ones() {
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
        let (x, w, dy) = (rough(1, m * k), rough(2, n * k), rough(3, m * n));
        let (bias, skip, scale) = (rough(4, n), rough(5, m * n), rough(6, n));
        let y = naive_product(&x, &w, [m, k, n], [1, k]);
        let dx = naive_product(&dy, &w, [m, n, k], [k, 1]);
        let turned = channels_last(&dy, 1, m, n); // [n, m]
        let dw = naive_product(&turned, &x, [n, m, k], [k, 1]);
        for isa in Isa::available() {
            let what = |part: &str| format!("{part} {isa:?} {m} {k} {n}");
            let packed = PackedWeights::new(isa, &w, [k, n], [1, k], None);
            close(&what("y"), &matmul::product(&x, &packed, Epilogue::NONE), &y, 1e-5);
            let back = PackedWeights::new(isa, &w, [n, k], [k, 1], None);
            close(&what("dx"), &matmul::product(&dy, &back, Epilogue::NONE), &dx, 1e-5);
            close(&what("dw"), &matmul::weight_gradient(isa, &dy, &x, n, k), &dw, 1e-5);
            close(&what("row"), &matmul::times_vector(isa, &w, &x[..k]), &y[..n], 1e-5);
            let turned = channels_last(&w, 1, n, k); // [k, n]
            let row: Vec<f32> = y[..n].iter().zip(&bias).map(|(y, bias)| y + bias).collect();
            let got = matmul::vector_times(isa, &x[..k], &turned, &bias);
            close(&what("vector"), &got, &row, 1e-5);
            for activation in ACTIVATIONS {
                let finish = Epilogue { bias: Some(&bias), activation, skip: Some(&skip) };
                let got = matmul::product(&x, &packed, finish);
                close(&what("finished"), &got, &finished(&y, n, &finish), 1e-5);
            }
            let scaled = PackedWeights::new(isa, &w, [k, n], [1, k], Some(&scale));
            let want: Vec<f32> = y.iter().enumerate().map(|(i, y)| y * scale[i % n]).collect();
            close(&what("scaled"), &matmul::product(&x, &scaled, Epilogue::NONE), &want, 1e-5);
        }
    }
}

/// The geometry, where the padded map holds the kernel.
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

/// Nasty convolutions: symmetric, TensorFlow's and no padding, strides, dilations, odd kernels.
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
        add(1, [3, 3], 1, 1, [(4, 4); 2]); // a border that no tap of the first outputs leaves
    }
    all
}

/// Seen to fail with: stride 2 taken for 1 in the shared loads, the last channels read whole, the kernel not
/// turned round for the input's gradient, a row below the map counted, the border's taps all counted; of a lone
/// output the first tap on the input one too early, the bias of the first vector for all.
#[test]
fn depthwise_equals_the_naive_twin() {
    for channels in [1, 3, 16, 21, 40, 83] {
        for g in geometries(channels) {
            let x = rough(1, g.batch * channels * g.input[0] * g.input[1]);
            let (w, dy) = (rough(2, channels * g.taps()), rough(3, g.outputs()));
            let (bias, skip) = (rough(4, channels), rough(5, g.outputs()));
            let y = naive::forward(&x, &w, &g);
            let dx = naive::input_gradient(&w, &dy, &g);
            let dw = naive::weight_gradient(&x, &dy, &g);
            for isa in Isa::available() {
                let what = |part: &str| format!("{part} {isa:?} {g:?}");
                close(
                    &what("y"),
                    &channels_last::forward(isa, &x, &w, &g, Epilogue::NONE),
                    &y,
                    1e-5,
                );
                close(&what("dx"), &channels_last::input_gradient(isa, &w, &dy, &g), &dx, 1e-5);
                close(&what("dw"), &channels_last::weight_gradient(isa, &x, &dy, &g), &dw, 1e-5);
                let activation = Activation::HardSwish;
                let finish = Epilogue { bias: Some(&bias), activation, skip: Some(&skip) };
                let got = channels_last::forward(isa, &x, &w, &g, finish);
                close(&what("finished"), &got, &finished(&y, channels, &finish), 1e-5);
            }
        }
    }
}

/// Seen to fail with: patches not cleared between tiles, the run of a row one place short, the gradient of
/// a tile written instead of added; of three channels at stride 2 the last group one place off, the taps of a border
/// from the first.
#[test]
fn dense_equals_the_naive_convolution() {
    for (channels, filters) in [(1, 1), (3, 17), (19, 5)] {
        for g in geometries(channels) {
            let d = StandardConv { g, filters };
            let x = rough(1, g.batch * channels * g.input[0] * g.input[1]);
            let w = rough(2, filters * d.patch());
            let dy = rough(3, g.batch * g.output[0] * g.output[1] * filters);
            let [y, dx, dw] = twin::single(&twin::dense(&x, &w, &dy, &d));
            for isa in Isa::available() {
                let what = |part: &str| format!("{part} {isa:?} {d:?}");
                let packed = convolution::pack(isa, &w, &d, None);
                let got = convolution::forward(&x, &packed, &d, Epilogue::NONE);
                close(&what("y"), &got, &y, 1e-5);
                close(&what("dx"), &convolution::input_gradient(isa, &w, &dy, &d), &dx, 1e-5);
                close(&what("dw"), &convolution::weight_gradient(isa, &x, &dy, &d), &dw, 1e-5);
            }
        }
    }
}

/// In f64, from the definition. Columns have means far from zero: sums of squares would cancel.
/// Seen to fail with: the tiles' means averaged without their counts, `E[y^2] - E[y]^2` in f32, gradients
/// without the term of the mean or of xhat, slope 0.2 for 1/6 in h-swish, ReLU for ReLU6.
#[test]
fn norm_equals_its_definition() {
    for (rows, c) in [(7, 5), (5, 16), (49, 21), (600, 17), (1100, 40)] {
        let offset = |i: usize| if i.is_multiple_of(c) { 20.0 } else { 2.0 };
        let y: Vec<f32> =
            rough(1, rows * c).iter().enumerate().map(|(i, v)| 4.0 * v + offset(i)).collect();
        let (da, skip) = (rough(2, rows * c), rough(3, rows * c));
        let (gamma, beta) = (rough(4, c), rough(5, c));
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
            let (got_mean, got_variance) = batch_norm::moments(isa, &y, c);
            close(&format!("mean {isa:?} {rows} {c}"), &got_mean, &mean32, 1e-6);
            close(&format!("variance {isa:?} {rows} {c}"), &got_variance, &single(&variance), 1e-5);
            for activation in ACTIVATIONS {
                let what = |part: &str| format!("{part} {isa:?} {activation:?} {rows} {c}");
                let z = |r: usize, i: usize| at(&y, r, i) * scale[i] + shift[i];
                let g = |r: usize, i: usize| at(&da, r, i) * slope(activation, z(r, i));
                let xhat = |r: usize, i: usize| (at(&y, r, i) - mean[i]) * deviation[i];
                let dbeta: Vec<f64> = (0..c).map(|i| (0..rows).map(|r| g(r, i)).sum()).collect();
                let dgamma: Vec<f64> =
                    (0..c).map(|i| (0..rows).map(|r| g(r, i) * xhat(r, i)).sum()).collect();
                let n = rows as f64;
                let (mut out, mut dy) = (Vec::new(), Vec::new());
                for (r, i) in (0..rows).flat_map(|r| (0..c).map(move |i| (r, i))) {
                    out.push(activated(activation, z(r, i) as f32) + skip[r * c + i]);
                    let centred = g(r, i) - dbeta[i] / n - xhat(r, i) * dgamma[i] / n;
                    dy.push((scale[i] * centred) as f32);
                }
                let got = batch_norm::apply(isa, &y, &scale32, &shift32, activation, Some(&skip));
                // y * scale + shift cancels where the mean is large against the deviation.
                close(&what("out"), &got, &out, 2e-4);
                let norm = Normalised {
                    mean: &mean32,
                    scale: &scale32,
                    shift: &shift32,
                    deviation: &deviation32,
                    activation,
                };
                for gradient in [Gradient::Shared(&da), Gradient::Owned(da.clone())] {
                    let (got, got_gamma, got_beta) = batch_norm::backward(isa, &y, gradient, norm);
                    close(&what("dy"), &got, &dy, 1e-4);
                    close(&what("dgamma"), &got_gamma, &single(&dgamma), 1e-4);
                    close(&what("dbeta"), &got_beta, &single(&dbeta), 1e-4);
                }
            }
        }
    }
}

/// Seen to fail with the last run of places left out, the gate of the next image, every thread's channels taken for
/// the first.
#[test]
fn planes_equal_their_definitions() {
    for [b, places, c] in [[1, 1, 1], [2, 49, 21], [3, 300, 17], [1, 784, 40]] {
        let (x, other) = (rough(1, b * places * c), rough(2, b * places * c));
        let (gate, shift) = (rough(3, b * c), rough(4, b * c));
        let (mut sums, mut products) = (vec![0.0_f64; b * c], vec![0.0_f64; b * c]);
        for i in 0..x.len() {
            let to = i / (places * c) * c + i % c;
            sums[to] += f64::from(x[i]);
            products[to] += f64::from(x[i]) * f64::from(other[i]);
        }
        let single = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<f32>>();
        let row = |i: usize| i / (places * c) * c + i % c;
        let gated: Vec<f32> = (0..x.len()).map(|i| x[i] * gate[row(i)] + shift[row(i)]).collect();
        for isa in Isa::available() {
            close("sums", &spatial::sums(isa, &x, None, b, c), &single(&sums), 1e-5);
            close(
                "products",
                &spatial::sums(isa, &x, Some(&other), b, c),
                &single(&products),
                1e-5,
            );
            let got = spatial::gated(isa, Some(&x), &gate, Some(&shift), [b, places, c]);
            close("gated", &got, &gated, 1e-5);
        }
    }
}

#[test]
fn layouts_turn_there_and_back() {
    for [b, c, places] in [[1, 1, 1], [2, 3, 7], [3, 40, 49], [1, 17, 33]] {
        let first = rough(1, b * c * places);
        let last = channels_last(&first, b, c, places);
        for (i, value) in first.iter().enumerate() {
            let (image, channel, place) = (i / (c * places), i / places % c, i % places);
            assert_eq!(last[(image * places + place) * c + channel], *value);
        }
        assert_eq!(channels_first(&last, b, c, places), first);
    }
}

/// What `ARCHITECTURE.md` says of determinism: these do not depend on the number of threads.
#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let g = geometry([3, 24], [29, 30], [5, 5], 2, 1, [(2, 2); 2]).expect("it fits");
    let (x, w) = (rough(1, 3 * 24 * 29 * 30), rough(2, 24 * 25));
    let (dy, wide) = (rough(3, g.outputs()), rough(4, 24 * 40));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let isa = Isa::chosen();
            let packed = PackedWeights::new(isa, &wide, [24, 40], [1, 24], None);
            (
                channels_last::forward(isa, &x, &w, &g, Epilogue::NONE),
                channels_last::input_gradient(isa, &w, &dy, &g),
                channels_last::weight_gradient(isa, &x, &dy, &g),
                matmul::product(&x, &packed, Epilogue::NONE),
                batch_norm::moments(isa, &x, 24),
            )
        })
    };
    assert!(run(1) == run(4), "one thread and four differ");
}

/// In one pass or in three: the input's gradient has the same bits on any number of threads, the weights' are summed in
/// other parts and repeat on the same number. Seen to fail with a share's first rows for all its tiles,
/// with the first share's rows for every share, with a share's sums left out.
#[test]
fn a_pointwise_backward_pass_is_that_of_its_parts() {
    let isa = Isa::chosen();
    for [rows, n, k] in [[9001, 17, 24], [700, 33, 5], [63, 8, 40]] {
        let (x, w) = (rough(1, rows * k), rough(2, n * k));
        let (y, da) = (rough(3, rows * n), rough(4, rows * n));
        let (mean, deviation) = (rough(5, n), vec![1.5; n]);
        let (scale, shift) = (rough(6, n), rough(7, n));
        let norm = Normalised {
            mean: &mean,
            scale: &scale,
            shift: &shift,
            deviation: &deviation,
            activation: Activation::HardSwish,
        };
        let (dy, ..) = batch_norm::backward(isa, &y, Gradient::Shared(&da), norm);
        let back = PackedWeights::new(isa, &w, [n, k], [k, 1], None);
        let dx = matmul::product(&dy, &back, Epilogue::NONE);
        let dw = matmul::weight_gradient(isa, &dy, &x, n, k);
        for threads in [1, 2, 3, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let run = || {
                let slopes = Slopes::new(isa, &y, &da, norm);
                pointwise_backward::backward(isa, [&x, &y, &da], &w, &slopes, [n, k])
            };
            let (first, second) = (pool.install(run), pool.install(run));
            assert!(first.0 == dx, "{rows} rows, {threads} threads");
            assert!(first == second, "{rows} rows, {threads} threads, twice");
            close(&format!("{rows} rows, {threads} threads"), &first.1, &dw, 1e-5);
        }
    }
}
