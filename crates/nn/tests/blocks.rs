//! Every block on flex and wgpu (lavapipe in CI) against ndarray: outputs and all gradients, on odd
//! sizes, borders and strides. The backends implement their operations independently, so an error
//! of one of them shows.
//!
//! Mutations caught, on one backend: the two sides of SAME padding exchanged; weights 1.0001 times
//! as large.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use nn::activation::Activation;
use nn::block::conv_norm_activation::ConvNormActivation;
use nn::block::convolution::Convolution;
use nn::block::inception::{Inception, InceptionModule, SimplifiedInception};
use nn::block::inverted_residual::{Bottleneck, InvertedResidual};
use nn::block::pooling::{global_mean, max_pool, mean_pool};
use nn::block::separable::{DepthwiseSeparable, Separable, SeparableConvolution};
use nn::block::squeeze_excite::SqueezeExcite;
use nn::config::Norm;
use nn::geometry::{Conv, Padding, Pool};
use nn::init::uniform;

const NORM: Norm = Norm { epsilon: 1e-3, momentum: 0.1 };

/// Uniform in (-1, 1).
fn random(stream: u64, count: usize) -> Vec<f32> {
    (0..count as u64).map(|i| (2.0 * uniform(stream, i) - 1.0) as f32).collect()
}

/// Fills every tensor of a module with random values, scales around 1 and all others around 0. The
/// field is the stream of the last tensor.
struct RandomFill(u64);

impl ModuleMapper for RandomFill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0 += 1;
        let require = param.is_require_grad();
        let (id, tensor, mapper) = param.consume();
        let one = D == 1 && tensor.clone().mean().into_scalar::<f32>() > 0.5;
        let (offset, scale) = if one { (1.0, 0.3) } else { (0.0, 0.5) };
        let shape = tensor.shape();
        let values: Vec<f32> =
            random(self.0, shape.num_elements()).into_iter().map(|v| offset + scale * v).collect();
        let filled = Tensor::from_data(TensorData::new(values, shape), &tensor.device());
        Param::from_mapped_value(id, filled.set_require_grad(require), mapper)
    }
}

/// Collects the gradients of a module in parameter order.
struct GradientCollector<'a>(&'a GradientsParams, Vec<Vec<f32>>);

impl ModuleVisitor for GradientCollector<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.0.get::<D>(param.id) {
            self.1.push(gradient.into_data().try_into_vec::<f32>().unwrap());
        }
    }
}

/// The output, the gradient of the input and the gradients of the parameters.
fn run<M: Module>(
    module: M,
    forward: &dyn Fn(&M, Tensor<4>) -> Tensor<4>,
    shape: [usize; 4],
    device: &Device,
) -> Vec<Vec<f32>> {
    let module = module.map(&mut RandomFill(100));
    let data = TensorData::new(random(1, shape.iter().product()), shape);
    let x = Tensor::<4>::from_data(data, device).require_grad();
    let y = forward(&module, x.clone());
    let size = y.dims();
    let weights = TensorData::new(random(2, size.iter().product()), size);
    let loss = (y.clone() * Tensor::from_data(weights, device)).sum();
    let mut grads = loss.backward();
    let mut found = vec![
        y.inner().into_data().try_into_vec::<f32>().unwrap(),
        x.grad_remove(&mut grads).unwrap().into_data().try_into_vec::<f32>().unwrap(),
    ];
    let mut collector = GradientCollector(&GradientsParams::from_grads(grads, &module), Vec::new());
    module.visit(&mut collector);
    found.append(&mut collector.1);
    found
}

#[track_caller]
fn check<M: Module>(
    name: &str,
    devices: &[Device],
    build: impl Fn(&Device) -> M,
    forward: impl Fn(&M, Tensor<4>) -> Tensor<4>,
    shape: [usize; 4],
) {
    let all: Vec<_> = devices.iter().map(|d| run(build(d), &forward, shape, d)).collect();
    for (other, device) in all[1..].iter().zip(&devices[1..]) {
        assert_eq!(all[0].len(), other.len(), "{name}");
        for (part, (a, b)) in all[0].iter().zip(other).enumerate() {
            assert_eq!(a.len(), b.len(), "{name} part {part}");
            let largest = a.iter().fold(1e-3_f32, |m, v| m.max(v.abs()));
            for (x, y) in a.iter().zip(b) {
                let error = (x - y).abs() / largest;
                assert!(error < 3e-5, "{name} part {part} on {device:?}: {x} against {y}");
            }
        }
    }
}

#[expect(deprecated, reason = "burn-ndarray is one of the backends asked for")]
fn devices() -> Vec<Device> {
    let wgpu = Device::wgpu_options().init().expect("an adapter; install mesa-vulkan-drivers");
    [Device::ndarray(), Device::flex(), wgpu].map(Device::autodiff).into()
}

#[test]
fn every_block_agrees_on_three_backends() {
    let devices = devices();
    let convolutions = [
        ("standard 3x3 stride 2", Conv::standard(3, 8, 3, 2)),
        ("standard 7x7 stride 2", Conv::standard(3, 8, 7, 2)),
        ("standard 5x5", Conv::standard(4, 6, 5, 1)),
        ("1x7", Conv::standard(5, 6, 1, 1).with_kernel([1, 7])),
        ("7x1", Conv::standard(5, 6, 1, 1).with_kernel([7, 1])),
        ("valid 3x3 stride 2", Conv::standard(4, 6, 3, 2).with_padding(Padding::Valid)),
        ("pointwise", Conv::pointwise(7, 10)),
        ("pointwise stride 2", Conv::standard(6, 8, 1, 2)),
        ("depthwise 3x3", Conv::depthwise(9, 3, 1)),
        ("depthwise 3x3 stride 2", Conv::depthwise(9, 3, 2)),
        ("depthwise 5x5", Conv::depthwise(8, 5, 1)),
        ("depthwise 5x5 stride 2", Conv::depthwise(8, 5, 2)),
        ("depthwise 5x5 dilated", Conv::depthwise(8, 5, 1).with_dilation(2)),
        ("depthwise 3x3 stride 2 SAME", Conv::depthwise(8, 3, 2).with_padding(Padding::Same)),
        ("depthwise 5x5 stride 2 SAME", Conv::depthwise(8, 5, 2).with_padding(Padding::Same)),
        ("grouped 3x3", Conv::standard(6, 9, 3, 1).with_groups(3)),
    ];
    for (name, conv) in convolutions {
        for size in [[9, 12], [7, 5]] {
            let shape = [2, conv.input, size[0], size[1]];
            check(name, &devices, |d| Convolution::with_bias(conv, d), |m, x| m.forward(x), shape);
        }
    }
    for activation in
        [Activation::Linear, Activation::Relu, Activation::Relu6, Activation::HardSwish]
    {
        let block =
            |d: &Device| ConvNormActivation::new(Conv::pointwise(5, 6), NORM, activation, d);
        check(activation.name(), &devices, block, |m, x| m.forward(x), [2, 5, 6, 7]);
    }
    let gate = |d: &Device| SqueezeExcite::new(8, 4, d);
    check("squeeze-excite", &devices, gate, |m, x| m.forward(x), [2, 8, 5, 6]);
    for (stride, output, squeezed) in [(1, 6, Some(8)), (2, 6, None), (1, 8, None)] {
        let row = Bottleneck {
            input: 6,
            kernel: 5,
            expanded: 18,
            output,
            squeezed,
            activation: Activation::HardSwish,
            stride,
            dilation: 1,
            padding: Padding::Symmetric,
        };
        let block = |d: &Device| InvertedResidual::new(&row, NORM, d);
        check("inverted residual", &devices, block, |m, x| m.forward(x), [2, 6, 9, 6]);
    }
    let separable = Separable::new(6, 10, 3, 2);
    let block = |d: &Device| DepthwiseSeparable::new(separable, NORM, Activation::Relu6, d);
    check("MobileNetV1's block", &devices, block, |m, x| m.forward(x), [2, 6, 9, 6]);
    let block = |d: &Device| SeparableConvolution::new(separable, NORM, Activation::Relu, d);
    check("Xception's separable convolution", &devices, block, |m, x| m.forward(x), [2, 6, 9, 6]);
    let row = Inception { input: 6, one: 4, three: [3, 5], five: [2, 3], pool: 4 };
    for five in [3, 5] {
        let block = |d: &Device| InceptionModule::new(&row, five, NORM, d);
        check("inception", &devices, block, |m, x| m.forward(x), [2, 6, 7, 8]);
    }
    // Wide enough for minimal filtering (Winograd) in the 3x3 layers, with tiles of four and of
    // two.
    let row = Inception { input: 32, one: 16, three: [24, 32], five: [16, 16], pool: 16 };
    for size in [[29, 28], [14, 13]] {
        let block = |d: &Device| InceptionModule::new(&row, 3, NORM, d);
        let shape = [2, 32, size[0], size[1]];
        check("wide inception", &devices, block, |m, x| m.forward(x), shape);
    }
    for towers in [1, 3, 6] {
        let block = |d: &Device| SimplifiedInception::new(5, 6, towers, d);
        check("simplified inception", &devices, block, |m, x| m.forward(x), [2, 5, 7, 6]);
    }
    // Pooling has no weights. A 1x1 convolution before it gives the harness a module.
    let layer = |d: &Device| Convolution::new(Conv::pointwise(4, 4), d);
    let pools = [
        Pool::new(3, 2),
        Pool::new(3, 2).ceil(),
        Pool::new(2, 2).ceil(),
        Pool::new(3, 1).padded(1),
        Pool::new(3, 2).padded(1),
    ];
    for pool in pools {
        for shape in [[2, 4, 9, 12], [1, 4, 8, 7]] {
            let name = format!("{pool:?}");
            check(&name, &devices, layer, |m, x| max_pool(m.forward(x), pool), shape);
            check(&name, &devices, layer, |m, x| mean_pool(m.forward(x), pool), shape);
        }
    }
    let mean = |m: &Convolution, x| {
        let y: Tensor<2> = global_mean(m.forward(x));
        let [b, c] = y.dims();
        y.reshape([b, c, 1, 1])
    };
    check("global mean", &devices, layer, mean, [2, 4, 5, 7]);
}
