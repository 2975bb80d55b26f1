//! Matrix products by Burn's kernels, and what convolutions make of them: a pointwise convolution
//! is a product on the values as they lie, a standard one a product of patches.

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Slice};
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::cpu::geometry::Geometry;
use crate::gpu::map::{UNITS, element, empty, reshaped};
use crate::gpu::products;
use crate::gpu::products::Epilogue;
use crate::gpu::sums::sum_parts;
use crate::gpu::traffic::record;

/// The longest sum of a product: longer ones are cut, for precision and because one unit adds the
/// whole of it.
const LONGEST_SUM: usize = 4096;
/// The most values of the patches that exist at once, 256 MB in f32.
pub(crate) const MOST_PATCH_VALUES: usize = 1 << 26;

fn transposed(mut matrix: CubeTensor) -> CubeTensor {
    let last = matrix.meta.shape().num_dims() - 1;
    matrix.meta.swap(last - 1, last);
    matrix
}

/// Records a product `[m, k] [k, n]`.
fn record_product(name: &'static str, [m, k, n]: [usize; 3], like: &CubeTensor) {
    let size = like.dtype.size();
    record(name, [(m * k + k * n) * size, m * n * size], k);
}

/// A tensor of this type: weights are rounded where maps are f16.
pub(crate) fn of_type(tensor: CubeTensor, dtype: DType) -> CubeTensor {
    if tensor.dtype == dtype {
        return tensor;
    }
    CubeBackend::float_cast(tensor, dtype.into())
}

/// The matrix `[out, in]` of the weights `[out, in, 1, 1]`, or of all taps.
fn weight_matrix(weights: CubeTensor, like: &CubeTensor) -> CubeTensor {
    let out = weights.meta.shape()[0];
    let values: usize = weights.meta.shape().iter().product();
    let weights = of_type(into_contiguous(weights), like.dtype);
    reshaped(weights, &[out, values / out])
}

/// `x [m, in]` times the transpose of `weights [out, in, 1, 1]`: `[m, out]`.
pub(crate) fn pointwise(x: &CubeTensor, [m, k]: [usize; 2], weights: CubeTensor) -> CubeTensor {
    let weights = weight_matrix(weights, x);
    let n = weights.meta.shape()[0];
    record_product("pointwise", [m, k, n], x);
    if products::suit(x) {
        return products::product(x, &weights, [m, k, n], None);
    }
    CubeBackend::float_matmul(reshaped(x.clone(), &[m, k]), transposed(weights))
}

/// [`pointwise`] with a norm, its activation and a skip path in the same launch, where products of
/// our own serve.
pub(crate) fn pointwise_norm(
    x: &CubeTensor,
    [m, k]: [usize; 2],
    weights: CubeTensor,
    epilogue: Epilogue,
) -> CubeTensor {
    let weights = weight_matrix(weights, x);
    let n = weights.meta.shape()[0];
    record_product("pointwise", [m, k, n], x);
    products::product(x, &weights, [m, k, n], Some(epilogue))
}

/// The gradient of the input of [`pointwise`]: `dy [m, out]` times `weights [out, in, 1, 1]`.
pub(crate) fn pointwise_dx(dy: &CubeTensor, [m, n]: [usize; 2], weights: CubeTensor) -> CubeTensor {
    let weights = weight_matrix(weights, dy);
    let k = weights.meta.shape()[1];
    record_product("pointwise_dx", [m, n, k], dy);
    if products::suit(dy) {
        return products::product_by_rows(dy, &weights, [m, n, k]);
    }
    CubeBackend::float_matmul(reshaped(dy.clone(), &[m, n]), weights)
}

/// In how many parts of equal length a sum of `m` terms is cut whose partial results have `values`
/// values, and whose operands have `width` values a term. A number of parts divides `m`.
fn cuts(m: usize, values: usize, width: usize) -> usize {
    let fewest = m.div_ceil(LONGEST_SUM);
    let parts = (fewest..=m).find(|parts| m.is_multiple_of(*parts)).unwrap_or(1);
    // A prime number of terms would leave more partial results than there are operands.
    if parts * values > m * width { 1 } else { parts }
}

/// The gradient of the weights of a product: the transpose of `dy [m, out]` times `x [m, in]`,
/// `[out, in]` in f32.
pub(crate) fn weight_gradient(
    x: &CubeTensor,
    dy: &CubeTensor,
    [m, k, n]: [usize; 3],
) -> CubeTensor {
    if products::suit(x) {
        record("pointwise_dw", [m * (k + n) * x.dtype.size(), k * n * 4], products::terms(m));
        return products::gradient(x, dy, [m, k, n]);
    }
    gradient_in_parts(x, dy, [m, k, n])
}

/// [`weight_gradient`] by Burn's products of the parts of a sum.
fn gradient_in_parts(x: &CubeTensor, dy: &CubeTensor, [m, k, n]: [usize; 3]) -> CubeTensor {
    let parts = cuts(m, k * n, k + n);
    let terms = m / parts;
    record("pointwise_dw", [m * (k + n) * x.dtype.size(), parts * k * n * x.dtype.size()], terms);
    let dy = transposed(reshaped(dy.clone(), &[parts, terms, n]));
    let product = CubeBackend::float_matmul(dy, reshaped(x.clone(), &[parts, terms, k]));
    if parts == 1 {
        return of_type(reshaped(product, &[n, k]), DType::F32);
    }
    sum_parts(product, parts, &[n, k])
}

#[derive(CubeLaunch, CubeType, Clone, Copy)]
struct Extents {
    channels: u32,
    in_h: u32,
    in_w: u32,
    out_h: u32,
    out_w: u32,
    before_h: i32,
    before_w: i32,
    first_image: u32,
}

/// The patch under every window: `[pixels, channels, taps]`; the padding counts as 0.
#[cube(launch)]
fn patches_kernel<E: Float>(
    x: &[E],
    patches: &mut [E],
    extents: Extents,
    values: usize,
    #[comptime] kernel_h: usize,
    #[comptime] kernel_w: usize,
    #[comptime] stride: usize,
    #[comptime] dilation: usize,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < values {
        let taps = comptime!(kernel_h * kernel_w);
        let channels = extents.channels as usize;
        let tap = ABSOLUTE_POS % taps;
        let rest = ABSOLUTE_POS / taps;
        let channel = rest % channels;
        let pixel = rest / channels;
        let out_w = extents.out_w as usize;
        let out_h = extents.out_h as usize;
        let line = pixel / out_w;
        let image = line / out_h + extents.first_image as usize;
        let h = ((line % out_h) * stride + (tap / kernel_w) * dilation) as i32 - extents.before_h;
        let w = ((pixel % out_w) * stride + (tap % kernel_w) * dilation) as i32 - extents.before_w;
        let (in_h, in_w) = (extents.in_h as usize, extents.in_w as usize);
        let mut value = E::new(0.0f32);
        if h >= 0 && (h as usize) < in_h && w >= 0 && (w as usize) < in_w {
            value = x[((image * in_h + h as usize) * in_w + w as usize) * channels + channel];
        }
        patches[ABSOLUTE_POS] = value;
    }
}

/// The patches of `images` images from `first` on, `[images h' w', c kh kw]`.
fn patches(x: &CubeTensor, g: &Geometry, [first, images]: [usize; 2]) -> CubeTensor {
    let pixels = images * g.output[0] * g.output[1];
    let patch = g.channels * g.taps();
    let patches = empty(x, &[pixels, patch], x.dtype);
    let size = x.dtype.size();
    let read = images * g.input[0] * g.input[1] * g.channels * size;
    record("patches", [read, pixels * patch * size], 1);
    let units = CubeDim::new_1d(UNITS as u32);
    patches_kernel::launch(
        &x.client,
        cubecl::calculate_cube_count_elemwise(&x.client, pixels * patch, units),
        units,
        x.clone().into_buffer_arg(),
        patches.clone().into_buffer_arg(),
        ExtentsLaunch::new(
            g.channels as u32,
            g.input[0] as u32,
            g.input[1] as u32,
            g.output[0] as u32,
            g.output[1] as u32,
            g.before[0] as i32,
            g.before[1] as i32,
            first as u32,
        ),
        pixels * patch,
        g.kernel[0],
        g.kernel[1],
        g.stride,
        g.dilation,
        element(x.dtype),
    );
    patches
}

/// The gradient of the weights of a standard convolution from `x` `[b, h, w, c]` and `dy` `[b, h',
/// w', out]`: `[out, c, kh, kw]` in f32. The patches of some images at a time exist, at most
/// `most_values` values.
pub(crate) fn convolution_dw(
    x: &CubeTensor,
    dy: &CubeTensor,
    g: &Geometry,
    filters: usize,
    most_values: usize,
) -> CubeTensor {
    let (pixels, patch) = (g.output[0] * g.output[1], g.channels * g.taps());
    let at_once = (most_values / (pixels * patch)).clamp(1, g.batch);
    let mut sum: Option<CubeTensor> = None;
    for first in (0..g.batch).step_by(at_once) {
        let images = at_once.min(g.batch - first);
        let part = match images == g.batch {
            true => dy.clone(),
            false => {
                let shape = dy.meta.shape();
                let mut slices: Vec<Slice> =
                    shape.iter().map(|extent| Slice::from(0..*extent)).collect();
                slices[0] = Slice::from(first..first + images);
                into_contiguous(CubeBackend::float_slice(dy.clone(), &slices))
            }
        };
        let patches = patches(x, g, [first, images]);
        let dw = weight_gradient(&patches, &part, [images * pixels, patch, filters]);
        sum = Some(match sum {
            Some(sum) => CubeBackend::float_add(sum, dw),
            None => dw,
        });
    }
    let dw = sum.expect("a batch has images");
    reshaped(dw, &[filters, g.channels, g.kernel[0], g.kernel[1]])
}

#[cfg(test)]
mod tests {
    use burn::backend::read_sync;
    use burn::tensor::ops::ConvOptions;
    use burn::tensor::{Device, TensorData};
    use burn_cubecl::CubeDevice;

    use super::*;

    fn tensor<const D: usize>(shape: [usize; D]) -> CubeTensor {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| ((i * 37) % 23) as f32 / 23.0 - 0.4).collect();
        CubeBackend::float_from_data(TensorData::new(values, shape), &CubeDevice::default())
    }

    fn values(tensor: CubeTensor) -> Vec<f32> {
        read_sync(CubeBackend::float_into_data(tensor)).unwrap().try_into_vec::<f32>().unwrap()
    }

    fn start() {
        static STARTED: std::sync::LazyLock<Device> = std::sync::LazyLock::new(|| {
            Device::wgpu_options().init().expect("an adapter; install mesa-vulkan-drivers")
        });
        std::sync::LazyLock::force(&STARTED);
    }

    #[track_caller]
    fn close(got: &[f32], want: &[f32]) {
        assert_eq!(got.len(), want.len());
        let largest = want.iter().fold(1e-3_f32, |most, v| most.max(v.abs()));
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            assert!((got - want).abs() < 2e-5 * largest, "{got} for {want} at {i}");
        }
    }

    /// Adapters choose one of the two kinds of product, and a test has one adapter.
    ///
    /// Mutations caught: a tile that reads the last column but one; a part that runs to the end; the
    /// first part of a sum omitted.
    #[test]
    fn both_kinds_of_product_give_the_same() {
        start();
        // Sizes that no tile divides, a prime number of terms, one that is cut in parts.
        for [m, k, n] in [[67, 20, 9], [1009, 7, 5], [3 * 61 * 67, 12, 13], [257, 1, 3]] {
            let (x, w, dy) = (tensor([m, k]), tensor([n, k]), tensor([m, n]));
            let burn = CubeBackend::float_matmul(x.clone(), transposed(w.clone()));
            close(&values(products::product(&x, &w, [m, k, n], None)), &values(burn));
            let burn = CubeBackend::float_matmul(dy.clone(), w.clone());
            close(&values(products::product_by_rows(&dy, &w, [m, n, k])), &values(burn));
            let burn = values(CubeBackend::float_matmul(transposed(dy.clone()), x.clone()));
            close(&values(products::gradient(&x, &dy, [m, k, n])), &burn);
            close(&values(gradient_in_parts(&x, &dy, [m, k, n])), &burn);
        }
    }

    /// A batch whose patches do not fit is taken a few images at a time.
    ///
    /// Mutations caught: the patches of the first images every time; the last part alone.
    #[test]
    fn patches_in_parts_give_the_same_gradient() {
        start();
        let options =
            ConvOptions { stride: [2; 2], padding: [(1, 1); 2], dilation: [1; 2], groups: 1 };
        let g = Geometry::new([5, 3, 9, 7], [3, 3], &options);
        let (x, dy) = (tensor([5, 9, 7, 3]), tensor([5, 5, 4, 6]));
        let dw = |most: usize| values(convolution_dw(&x, &dy, &g, 6, most));
        let (whole, parts) = (dw(MOST_PATCH_VALUES), dw(2 * 20 * 27));
        assert_eq!(whole.len(), 6 * 27);
        close(&parts, &whole);
    }
}
