//! Squeeze-and-excite of a map `[b, p, c]`: the means of all pixels, then one cube per image for the
//! two small products, then the map times its gates.

use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::gpu::batch_norm::sum_rows;
use crate::gpu::map::{Tiles, UNITS, element, empty};
use crate::gpu::spatial::{Scale, pixel_sum, scaled, spatial_sum};
use crate::gpu::traffic::record;

/// The most channels and hidden channels together that a cube's shared memory holds, in values.
const MOST_SHARED: usize = 3072;

/// Whether the kernels take a block of `channels` and `squeezed` channels.
pub(crate) fn supports(channels: usize, squeezed: usize) -> bool {
    channels + squeezed <= MOST_SHARED
}

/// Images from which on the sums over the pixels are part of the launch that reads them: one image
/// is the work of one cube then, and fewer cubes would leave a card idle.
const FUSED_IMAGES: usize = 32;

/// The sums over the pixels of an image, of `x`, which go into `out` too, or of `x` times `other`,
/// times `factor`: into the first values of `shared`.
#[cube]
fn channel_sums<E: Float, N: Size>(
    x: &[Vector<E, N>],
    other: &[Vector<E, N>],
    out: &mut [f32],
    shared: &mut Shared<[f32]>,
    image: usize,
    pixels: usize,
    factor: f32,
    #[comptime] product: bool,
    #[comptime] channels: usize,
    #[comptime] x_units: usize,
    #[comptime] y_units: usize,
) {
    let mut sums = Shared::<[Vector<f32, N>]>::new_slice(UNITS);
    let vectors = channels / N::value();
    let mut block = 0usize;
    while block < vectors {
        let channel = block + UNIT_POS_X as usize;
        let sum = pixel_sum::<E, N>(x, other, image, channel, pixels, vectors, product, y_units);
        let sum = sum_rows::<N>(sum, &mut sums, x_units, y_units);
        if UNIT_POS_Y == 0 && channel < vectors {
            #[unroll]
            for lane in 0..N::value() {
                let value = sum.extract(lane) * factor;
                let c = channel * N::value() + lane;
                shared[c] = value;
                if comptime!(!product) {
                    out[image * channels + c] = value;
                }
            }
        }
        block += x_units;
    }
    sync_cube();
}

/// The hidden layer after ReLU and the gate before the hard sigmoid of one image per cube; with
/// `fused` the mean over its pixels too.
#[cube(launch)]
fn gates_kernel<E: Float, N: Size>(
    x: &[Vector<E, N>],
    mean: &[f32],
    w1: &[f32],
    b1: &[f32],
    w2: &[f32],
    b2: &[f32],
    mean_out: &mut [f32],
    hidden: &mut [f32],
    gate: &mut [f32],
    pixels: usize,
    factor: f32,
    #[comptime] fused: bool,
    #[comptime] channels: usize,
    #[comptime] squeezed: usize,
    #[comptime] x_units: usize,
    #[comptime] y_units: usize,
    #[define(E)] _dtype: ElemType,
) {
    let mut shared = Shared::<[f32]>::new_slice(comptime!(channels + squeezed));
    let image = CUBE_POS_X as usize;
    let unit = UNIT_POS as usize;
    if comptime!(fused) {
        channel_sums::<E, N>(
            x,
            x,
            mean_out,
            &mut shared,
            image,
            pixels,
            factor,
            false,
            channels,
            x_units,
            y_units,
        );
    } else {
        let mut c = unit;
        while c < channels {
            shared[c] = mean[image * channels + c];
            c += UNITS;
        }
        sync_cube();
    }
    let mut s = unit;
    while s < squeezed {
        let mut sum = b1[s];
        for c in 0..channels {
            sum += w1[s * channels + c] * shared[c];
        }
        // NaN is not below 0.
        let value = select(sum < 0.0f32, 0.0f32, sum);
        shared[channels + s] = value;
        hidden[image * squeezed + s] = value;
        s += UNITS;
    }
    sync_cube();
    let mut c = unit;
    while c < channels {
        let mut sum = b2[c];
        for s in 0..squeezed {
            sum += w2[c * squeezed + s] * shared[channels + s];
        }
        gate[image * channels + c] = sum;
        c += UNITS;
    }
}

/// Result, mean `[b, c]`, hidden layer `[b, s]` and gate `[b, c]`; two launches, three for few
/// images.
pub(crate) fn forward(
    x: &CubeTensor,
    [w1, b1, w2, b2]: [CubeTensor; 4],
    shape: [usize; 3],
    squeezed: usize,
) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
    let [batch, pixels, channels] = shape;
    let (fused, factor) = (batch >= FUSED_IMAGES, 1.0 / pixels as f32);
    let tiles = Tiles::new([pixels, channels], pixels, 1, 32);
    let mean = match fused {
        true => empty(x, &[batch, channels], DType::F32),
        false => spatial_sum(x, None, shape, factor),
    };
    // A buffer is read or written: the biases stand in for the mean that is not there.
    let (read, written) = match fused {
        true => (b1.clone(), mean.clone()),
        false => (mean.clone(), empty(x, &[1], DType::F32)),
    };
    let hidden = empty(x, &[batch, squeezed], DType::F32);
    let gate = empty(x, &[batch, channels], DType::F32);
    let weights = 2 * channels * squeezed + channels + squeezed;
    let values = batch * channels;
    let map = if fused { values * pixels * x.dtype.size() } else { values * 4 };
    let (sums, means) = if fused { (pixels.div_ceil(tiles.y), values) } else { (0, 0) };
    record(
        "squeeze_excite_gates",
        [weights * 4 + map, (values + means + batch * squeezed) * 4],
        channels + squeezed + sums,
    );
    gates_kernel::launch(
        &x.client,
        CubeCount::Static(batch as u32, 1, 1),
        tiles.units(),
        tiles.width,
        x.clone().into_buffer_arg(),
        read.into_buffer_arg(),
        w1.into_buffer_arg(),
        b1.into_buffer_arg(),
        w2.into_buffer_arg(),
        b2.into_buffer_arg(),
        written.into_buffer_arg(),
        hidden.clone().into_buffer_arg(),
        gate.clone().into_buffer_arg(),
        pixels,
        factor,
        fused,
        channels,
        squeezed,
        tiles.x,
        tiles.y,
        element(x.dtype),
    );
    let out = scaled(x, [&gate, &gate], shape, (Scale::Gate, 1.0), x.dtype);
    (out, mean, hidden, gate)
}

/// The gradients before the hard sigmoid, before ReLU, and of the mean's share of a pixel; one image
/// per cube.
#[cube(launch)]
fn gates_backward_kernel<E: Float, N: Size>(
    x: &[Vector<E, N>],
    dout: &[Vector<E, N>],
    dgate: &[f32],
    gate: &[f32],
    hidden: &[f32],
    w1: &[f32],
    w2: &[f32],
    dz: &mut [f32],
    dhidden: &mut [f32],
    dmean: &mut [f32],
    pixels: usize,
    share: f32,
    #[comptime] fused: bool,
    #[comptime] channels: usize,
    #[comptime] squeezed: usize,
    #[comptime] x_units: usize,
    #[comptime] y_units: usize,
    #[define(E)] _dtype: ElemType,
) {
    let mut shared = Shared::<[f32]>::new_slice(comptime!(channels + squeezed));
    let image = CUBE_POS_X as usize;
    let mut c = UNIT_POS as usize;
    if comptime!(fused) {
        channel_sums::<E, N>(
            dout,
            x,
            dz,
            &mut shared,
            image,
            pixels,
            1.0f32,
            true,
            channels,
            x_units,
            y_units,
        );
    } else {
        while c < channels {
            shared[c] = dgate[image * channels + c];
            c += UNITS;
        }
        sync_cube();
        c = UNIT_POS as usize;
    }
    while c < channels {
        let z = gate[image * channels + c];
        // As in torch, the gradient is 0 where the gate is NaN.
        let inside = z > -3.0f32 && z < 3.0f32;
        let value = select(inside, shared[c] * (1.0f32 / 6.0f32), 0.0f32);
        shared[c] = value;
        dz[image * channels + c] = value;
        c += UNITS;
    }
    sync_cube();
    let mut s = UNIT_POS as usize;
    while s < squeezed {
        let mut sum = 0.0f32;
        for c in 0..channels {
            sum += shared[c] * w2[c * squeezed + s];
        }
        let value = select(hidden[image * squeezed + s] <= 0.0f32, 0.0f32, sum);
        shared[channels + s] = value;
        dhidden[image * squeezed + s] = value;
        s += UNITS;
    }
    sync_cube();
    let mut c = UNIT_POS as usize;
    while c < channels {
        let mut sum = 0.0f32;
        for s in 0..squeezed {
            sum += shared[channels + s] * w1[s * channels + c];
        }
        dmean[image * channels + c] = sum * share;
        c += UNITS;
    }
}

/// The gradients of weights `[n, k]` and of a bias `[n]` of a small product, over all images, of
/// place `at` of `n (k + 1)`.
#[cube]
fn weight_sum(
    dy: &[f32],
    x: &[f32],
    dw: &mut [f32],
    db: &mut [f32],
    at: usize,
    batch: usize,
    n: usize,
    k: usize,
) {
    let row = at / (k + 1);
    let column = at % (k + 1);
    let mut sum = 0.0f32;
    if column == k {
        for image in 0..batch {
            sum += dy[image * n + row];
        }
        db[row] = sum;
    } else {
        for image in 0..batch {
            sum += dy[image * n + row] * x[image * k + column];
        }
        dw[row * k + column] = sum;
    }
}

/// The gradients of both layers' weights and biases.
#[cube(launch)]
fn weights_kernel(
    dhidden: &[f32],
    mean: &[f32],
    dz: &[f32],
    hidden: &[f32],
    dw1: &mut [f32],
    db1: &mut [f32],
    dw2: &mut [f32],
    db2: &mut [f32],
    batch: usize,
    channels: usize,
    squeezed: usize,
) {
    let of_first = squeezed * (channels + 1);
    if ABSOLUTE_POS < of_first {
        weight_sum(dhidden, mean, dw1, db1, ABSOLUTE_POS, batch, squeezed, channels);
    } else if ABSOLUTE_POS < of_first + channels * (squeezed + 1) {
        let at = ABSOLUTE_POS - of_first;
        weight_sum(dz, hidden, dw2, db2, at, batch, channels, squeezed);
    }
}

/// The gradients of `x, w1, b1, w2, b2`; three launches, four for few images.
pub(crate) fn backward(
    x: &CubeTensor,
    [w1, w2]: [CubeTensor; 2],
    [mean, hidden, gate]: [CubeTensor; 3],
    dout: &CubeTensor,
    shape: [usize; 3],
    squeezed: usize,
) -> [CubeTensor; 5] {
    let [batch, pixels, channels] = shape;
    let fused = batch >= FUSED_IMAGES;
    let tiles = Tiles::new([pixels, channels], pixels, 1, 32);
    // The gate stands in for the sums that the launch makes itself.
    let dgate = match fused {
        true => gate.clone(),
        false => spatial_sum(dout, Some(x), shape, 1.0),
    };
    let [dz, dmean] = [(); 2].map(|()| empty(x, &[batch, channels], DType::F32));
    let dhidden = empty(x, &[batch, squeezed], DType::F32);
    let values = batch * (2 * channels + squeezed);
    let maps = if fused { 2 * batch * pixels * channels * x.dtype.size() } else { 0 };
    let sums = if fused { pixels.div_ceil(tiles.y) } else { 0 };
    record(
        "squeeze_excite_gates_backward",
        [(2 * channels * squeezed + values) * 4 + maps, values * 4],
        channels + squeezed + sums,
    );
    gates_backward_kernel::launch(
        &x.client,
        CubeCount::Static(batch as u32, 1, 1),
        tiles.units(),
        tiles.width,
        x.clone().into_buffer_arg(),
        dout.clone().into_buffer_arg(),
        dgate.into_buffer_arg(),
        gate.clone().into_buffer_arg(),
        hidden.clone().into_buffer_arg(),
        w1.into_buffer_arg(),
        w2.into_buffer_arg(),
        dz.clone().into_buffer_arg(),
        dhidden.clone().into_buffer_arg(),
        dmean.clone().into_buffer_arg(),
        pixels,
        1.0 / pixels as f32,
        fused,
        channels,
        squeezed,
        tiles.x,
        tiles.y,
        element(x.dtype),
    );
    let dx = scaled(dout, [&gate, &dmean], shape, (Scale::GateAndSummand, 1.0), x.dtype);
    let [dw1, dw2] = [[squeezed, channels], [channels, squeezed]]
        .map(|[n, k]| empty(x, &[n, k, 1, 1], DType::F32));
    let [db1, db2] = [squeezed, channels].map(|n| empty(x, &[n], DType::F32));
    let places = squeezed * (channels + 1) + channels * (squeezed + 1);
    record("squeeze_excite_dw", [2 * batch * (channels + squeezed) * 4, places * 4], batch);
    let units = CubeDim::new_1d(UNITS as u32);
    weights_kernel::launch(
        &x.client,
        cubecl::calculate_cube_count_elemwise(&x.client, places, units),
        units,
        dhidden.into_buffer_arg(),
        mean.into_buffer_arg(),
        dz.into_buffer_arg(),
        hidden.into_buffer_arg(),
        dw1.clone().into_buffer_arg(),
        db1.clone().into_buffer_arg(),
        dw2.clone().into_buffer_arg(),
        db2.clone().into_buffer_arg(),
        batch,
        channels,
        squeezed,
    );
    [dx, dw1, db1, dw2, db2]
}
