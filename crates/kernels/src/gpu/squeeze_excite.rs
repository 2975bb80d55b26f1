//! Squeeze-and-excite of a map `[b, p, c]`: the means of all pixels, then one cube per image for the
//! two small products, then the map times its gates.

use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::gpu::map::{UNITS, empty};
use crate::gpu::spatial::{Scale, scaled, spatial_sum};
use crate::gpu::traffic::record;

/// The most channels and hidden channels together that a cube's shared memory holds, in values.
const MOST_SHARED: usize = 3072;

/// Whether the kernels take a block of `channels` and `squeezed` channels.
pub(crate) fn supports(channels: usize, squeezed: usize) -> bool {
    channels + squeezed <= MOST_SHARED
}

/// The hidden layer after ReLU and the gate before the hard sigmoid of one image per cube.
#[cube(launch)]
fn gates_kernel(
    mean: &[f32],
    w1: &[f32],
    b1: &[f32],
    w2: &[f32],
    b2: &[f32],
    hidden: &mut [f32],
    gate: &mut [f32],
    #[comptime] channels: usize,
    #[comptime] squeezed: usize,
) {
    let mut shared = Shared::<[f32]>::new_slice(squeezed);
    let image = CUBE_POS_X as usize;
    let mut s = UNIT_POS as usize;
    while s < squeezed {
        let mut sum = b1[s];
        for c in 0..channels {
            sum += w1[s * channels + c] * mean[image * channels + c];
        }
        // NaN is not below 0.
        let value = select(sum < 0.0f32, 0.0f32, sum);
        shared[s] = value;
        hidden[image * squeezed + s] = value;
        s += UNITS;
    }
    sync_cube();
    let mut c = UNIT_POS as usize;
    while c < channels {
        let mut sum = b2[c];
        for s in 0..squeezed {
            sum += w2[c * squeezed + s] * shared[s];
        }
        gate[image * channels + c] = sum;
        c += UNITS;
    }
}

/// Result, mean `[b, c]`, hidden layer `[b, s]` and gate `[b, c]`; three launches.
pub(crate) fn forward(
    x: &CubeTensor,
    [w1, b1, w2, b2]: [CubeTensor; 4],
    shape: [usize; 3],
    squeezed: usize,
) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
    let [batch, pixels, channels] = shape;
    let mean = spatial_sum(x, None, shape, 1.0 / pixels as f32);
    let hidden = empty(x, &[batch, squeezed], DType::F32);
    let gate = empty(x, &[batch, channels], DType::F32);
    let weights = 2 * channels * squeezed + channels + squeezed;
    let values = batch * channels;
    record(
        "squeeze_excite_gates",
        [(weights + values) * 4, (values + batch * squeezed) * 4],
        channels + squeezed,
    );
    gates_kernel::launch(
        &x.client,
        CubeCount::Static(batch as u32, 1, 1),
        CubeDim::new_1d(UNITS as u32),
        mean.clone().into_buffer_arg(),
        w1.into_buffer_arg(),
        b1.into_buffer_arg(),
        w2.into_buffer_arg(),
        b2.into_buffer_arg(),
        hidden.clone().into_buffer_arg(),
        gate.clone().into_buffer_arg(),
        channels,
        squeezed,
    );
    let out = scaled(x, [&gate, &gate], shape, Scale::Gate, x.dtype);
    (out, mean, hidden, gate)
}

/// The gradients before the hard sigmoid, before ReLU, and of the mean's share of a pixel; one image
/// per cube.
#[cube(launch)]
fn gates_backward_kernel(
    dgate: &[f32],
    gate: &[f32],
    hidden: &[f32],
    w1: &[f32],
    w2: &[f32],
    dz: &mut [f32],
    dhidden: &mut [f32],
    dmean: &mut [f32],
    share: f32,
    #[comptime] channels: usize,
    #[comptime] squeezed: usize,
) {
    let mut shared = Shared::<[f32]>::new_slice(comptime!(channels + squeezed));
    let image = CUBE_POS_X as usize;
    let mut c = UNIT_POS as usize;
    while c < channels {
        let z = gate[image * channels + c];
        // As in torch, the gradient is 0 where the gate is NaN.
        let inside = z > -3.0f32 && z < 3.0f32;
        let value = select(inside, dgate[image * channels + c] * (1.0f32 / 6.0f32), 0.0f32);
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

/// The gradients of weights `[n, k]` and of a bias `[n]` of a small product, over all images.
#[cube(launch)]
fn weights_kernel(
    dy: &[f32],
    x: &[f32],
    dw: &mut [f32],
    db: &mut [f32],
    batch: usize,
    n: usize,
    k: usize,
) {
    if ABSOLUTE_POS < n * (k + 1) {
        let row = ABSOLUTE_POS / (k + 1);
        let column = ABSOLUTE_POS % (k + 1);
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
}

fn weights(dy: &CubeTensor, x: CubeTensor, [batch, n, k]: [usize; 3]) -> (CubeTensor, CubeTensor) {
    let dw = empty(dy, &[n, k, 1, 1], DType::F32);
    let db = empty(dy, &[n], DType::F32);
    record("squeeze_excite_dw", [batch * (n + k) * 4, n * (k + 1) * 4], batch);
    let units = CubeDim::new_1d(UNITS as u32);
    weights_kernel::launch(
        &dy.client,
        cubecl::calculate_cube_count_elemwise(&dy.client, n * (k + 1), units),
        units,
        dy.clone().into_buffer_arg(),
        x.into_buffer_arg(),
        dw.clone().into_buffer_arg(),
        db.clone().into_buffer_arg(),
        batch,
        n,
        k,
    );
    (dw, db)
}

/// The gradients of `x, w1, b1, w2, b2`; five launches.
pub(crate) fn backward(
    x: &CubeTensor,
    [w1, w2]: [CubeTensor; 2],
    [mean, hidden, gate]: [CubeTensor; 3],
    dout: &CubeTensor,
    shape: [usize; 3],
    squeezed: usize,
) -> [CubeTensor; 5] {
    let [batch, pixels, channels] = shape;
    let dgate = spatial_sum(dout, Some(x), shape, 1.0);
    let [dz, dmean] = [(); 2].map(|()| empty(x, &[batch, channels], DType::F32));
    let dhidden = empty(x, &[batch, squeezed], DType::F32);
    let values = batch * (2 * channels + squeezed);
    record(
        "squeeze_excite_gates_backward",
        [(2 * channels * squeezed + values) * 4, values * 4],
        channels + squeezed,
    );
    gates_backward_kernel::launch(
        &x.client,
        CubeCount::Static(batch as u32, 1, 1),
        CubeDim::new_1d(UNITS as u32),
        dgate.into_buffer_arg(),
        gate.clone().into_buffer_arg(),
        hidden.clone().into_buffer_arg(),
        w1.into_buffer_arg(),
        w2.into_buffer_arg(),
        dz.clone().into_buffer_arg(),
        dhidden.clone().into_buffer_arg(),
        dmean.clone().into_buffer_arg(),
        1.0 / pixels as f32,
        channels,
        squeezed,
    );
    let dx = scaled(dout, [&gate, &dmean], shape, Scale::GateAndSummand, x.dtype);
    let (dw1, db1) = weights(&dhidden, mean, [batch, squeezed, channels]);
    let (dw2, db2) = weights(&dz, hidden, [batch, channels, squeezed]);
    [dx, dw1, db1, dw2, db2]
}
