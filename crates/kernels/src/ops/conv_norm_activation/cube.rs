//! The layer on the devices of `Cube`: from tensors to the kernels that support them.

use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn::tensor::ops::ConvOptions;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::cpu::geometry::Geometry;
use crate::gpu::batch_norm::{Norm, backward, normalise, statistics};
use crate::gpu::map::{from_nhwc, reshaped, supports, to_nhwc};
use crate::gpu::products::Epilogue;
use crate::gpu::{depthwise, matmul, products};
use crate::ops::conv_norm_activation::{ConvNormOps, WeightCache};
use crate::ops::conv_norm_config::{BatchNormState, ConvNormConfig};
use crate::ops::cpu_tensor::burn_ops_requested;
use crate::ops::reference;

/// A convolution that the kernels know.
enum Kind {
    /// 1x1 at stride 1 without padding: a matrix product.
    Pointwise,
    /// One filter per channel.
    Depthwise(Geometry),
    /// Every filter reads every channel.
    Standard(Geometry),
    /// Groups and uneven strides: Burn's own kernels.
    Other,
}

fn dims(tensor: &CubeTensor) -> [usize; 4] {
    tensor.meta.shape().dims()
}

fn kind(x: &CubeTensor, w: &CubeTensor, options: &ConvOptions<2>) -> Kind {
    let ([_, channels, ..], [out, of_group, kh, kw]) = (dims(x), dims(w));
    let even = options.stride[0] == options.stride[1] && options.dilation[0] == options.dilation[1];
    if !supports(x) || w.dtype != DType::F32 || !even || burn_ops_requested() {
        return Kind::Other;
    }
    let plain = options.stride[0] == 1 && options.padding == [(0, 0); 2];
    if options.groups == 1 && kh == 1 && kw == 1 && plain {
        return Kind::Pointwise;
    }
    let g = Geometry::new(dims(x), [kh, kw], options);
    if options.groups == 1 {
        return Kind::Standard(g);
    }
    if options.groups == channels && out == channels && of_group == 1 && depthwise::supports(&g) {
        return Kind::Depthwise(g);
    }
    Kind::Other
}

/// Rows and columns of a map `[b, c, h, w]` as a matrix.
fn matrix(map: &CubeTensor) -> [usize; 2] {
    let [b, c, h, w] = dims(map);
    [b * h * w, c]
}

fn forward(x: CubeTensor, w: CubeTensor, options: ConvOptions<2>) -> CubeTensor {
    match kind(&x, &w, &options) {
        Kind::Pointwise => {
            let ([b, _, height, width], shape, out) = (dims(&x), matrix(&x), dims(&w)[0]);
            let y = matmul::pointwise(&to_nhwc(x), shape, w);
            from_nhwc(reshaped(y, &[b, height, width, out]))
        }
        Kind::Depthwise(g) => {
            from_nhwc(depthwise::forward(&to_nhwc(x), into_contiguous(w), &g, None))
        }
        Kind::Standard(_) | Kind::Other => {
            let w = matmul::of_type(w, x.dtype);
            reference::convolution::<CubeBackend>(x, w, options)
        }
    }
}

/// The gradients of input and weights; `dy` lies in any order.
fn gradients(
    x: CubeTensor,
    w: CubeTensor,
    dy: CubeTensor,
    options: ConvOptions<2>,
    input_too: bool,
) -> (Option<CubeTensor>, CubeTensor) {
    match kind(&x, &w, &options) {
        Kind::Pointwise => {
            let ([b, k, height, width], [m, n], shape) = (dims(&x), matrix(&dy), dims(&w));
            let (x, dy) = (to_nhwc(x), to_nhwc(dy));
            let dx = input_too.then(|| {
                let dx = matmul::pointwise_dx(&dy, [m, n], w);
                from_nhwc(reshaped(dx, &[b, height, width, k]))
            });
            (dx, reshaped(matmul::weight_gradient(&x, &dy, [m, k, n]), &shape))
        }
        Kind::Depthwise(g) => {
            let (x, dy) = (to_nhwc(x), to_nhwc(dy));
            let dw = depthwise::dw(&x, &dy, &g);
            (input_too.then(|| from_nhwc(depthwise::dx(&dy, into_contiguous(w), &g))), dw)
        }
        Kind::Standard(g) => {
            let (filters, dy) = (dims(&w)[0], to_nhwc(dy));
            let dw = matmul::convolution_dw(
                &to_nhwc(x.clone()),
                &dy,
                &g,
                filters,
                matmul::MOST_PATCH_VALUES,
            );
            let dx = input_too.then(|| {
                let w = matmul::of_type(w, x.dtype);
                reference::convolution_dx::<CubeBackend>(x, w, from_nhwc(dy), options)
            });
            (dx, dw)
        }
        Kind::Other => {
            let (dtype, w) = (w.dtype, matmul::of_type(w, x.dtype));
            let (dx, dw) =
                reference::convolution_backward::<CubeBackend>(x, w, dy, options, input_too);
            (dx, matmul::of_type(dw, dtype))
        }
    }
}

/// Whether the kernels take a norm of this map with these parameters.
fn norms(y: &CubeTensor, parameters: &[&CubeTensor]) -> bool {
    supports(y)
        && !burn_ops_requested()
        && parameters.iter().all(|tensor| tensor.dtype == DType::F32 && tensor.is_contiguous())
}

fn norm([gamma, beta, mean, variance]: [CubeTensor; 4], layer: &ConvNormConfig) -> Norm {
    Norm { gamma, beta, mean, variance, epsilon: layer.epsilon as f32 }
}

/// Norm, activation and skip path of `y`.
fn normalised(
    y: CubeTensor,
    norm: Norm,
    skip: Option<CubeTensor>,
    layer: &ConvNormConfig,
) -> CubeTensor {
    let ([b, c, h, w], shape) = (dims(&y), matrix(&y));
    let out = normalise(&to_nhwc(y), shape, norm, skip.map(to_nhwc), layer.activation);
    from_nhwc(reshaped(out, &[b, h, w, c]))
}

impl ConvNormOps for CubeBackend {
    fn convolution(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        forward(x, w, options)
    }

    fn convolution_backward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        options: ConvOptions<2>,
        input_too: bool,
    ) -> (Option<FloatTensor<Self>>, FloatTensor<Self>) {
        gradients(x, w, dy, options, input_too)
    }

    fn conv_norm(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        skip: FloatTensor<Self>,
        skips: bool,
        layer: ConvNormConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if !norms(&x, &[&gamma, &beta]) {
            return reference::conv_norm::<Self>(x, w, gamma, beta, skips.then_some(skip), layer);
        }
        let y = forward(x, w, layer.conv.clone());
        // Kept in this order for the backward pass, which reads it so.
        let shape = matrix(&y);
        let values = to_nhwc(y);
        let running = layer.running.as_ref().and_then(|running| running.on_cube(shape[0]));
        let ([mean, variance], blended) = statistics(&values, shape, running);
        if let Some((running, blended)) = layer.running.as_ref().zip(blended) {
            running.set_cube(blended);
        }
        let y = from_nhwc(values);
        let norm = norm([gamma, beta, mean.clone(), variance.clone()], &layer);
        let out = normalised(y.clone(), norm, skips.then_some(skip), &layer);
        (out, y, mean, variance)
    }

    fn conv_norm_backward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        y: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        dout: FloatTensor<Self>,
        layer: ConvNormConfig,
        input_too: bool,
    ) -> (Option<FloatTensor<Self>>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if !norms(&y, &[&gamma, &beta, &mean, &variance]) || dout.dtype != y.dtype {
            let norm = BatchNormState { gamma, beta, y, mean, variance };
            return reference::conv_norm_backward::<Self>(x, w, norm, dout, layer, input_too);
        }
        let ([b, c, height, width], shape) = (dims(&y), matrix(&y));
        let norm = norm([gamma, beta, mean, variance], &layer);
        let (dy, dgamma, dbeta) =
            backward(&to_nhwc(y), &to_nhwc(dout), shape, norm, layer.activation);
        let dy = from_nhwc(reshaped(dy, &[b, height, width, c]));
        let (dx, dw) = gradients(x, w, dy, layer.conv, input_too);
        (dx, dw, dgamma, dbeta)
    }

    fn conv_norm_inference(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        skip: FloatTensor<Self>,
        skips: bool,
        layer: ConvNormConfig,
        cache: WeightCache,
    ) -> FloatTensor<Self> {
        drop(cache); // norm and activation are applied behind the convolution
        let skip = skips.then_some(skip);
        if norms(&x, &[&gamma, &beta, &mean, &variance]) {
            match kind(&x, &w, &layer.conv) {
                Kind::Depthwise(g) if skip.is_none() => {
                    let norm = norm([gamma, beta, mean, variance], &layer);
                    let norm = Some((norm, layer.activation));
                    let w = into_contiguous(w);
                    return from_nhwc(depthwise::forward(&to_nhwc(x), w, &g, norm));
                }
                Kind::Pointwise if products::suit(&x) => {
                    let norm = norm([gamma, beta, mean, variance], &layer);
                    let skip = skip.map(to_nhwc);
                    let epilogue = Epilogue { norm, activation: layer.activation, skip };
                    let ([b, _, height, width], shape, out) = (dims(&x), matrix(&x), dims(&w)[0]);
                    let y = matmul::pointwise_norm(&to_nhwc(x), shape, w, epilogue);
                    return from_nhwc(reshaped(y, &[b, height, width, out]));
                }
                _ => {}
            }
        }
        let y = forward(x, w, layer.conv.clone());
        if !norms(&y, &[&gamma, &beta, &mean, &variance]) {
            return reference::norm_inference::<Self>(
                y,
                gamma,
                beta,
                [mean, variance],
                skip,
                &layer,
            );
        }
        normalised(y, norm([gamma, beta, mean, variance], &layer), skip, &layer)
    }
}
