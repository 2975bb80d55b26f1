//! Gradients at branches, maps that several layers read: in f32 through a branch, on wgpu too
//! (lavapipe in CI), against f64 without one.

#[path = "random/random.rs"]
mod random;
#[path = "random/tensors.rs"]
mod tensors;

use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Tensor};
use kernels::cpu::activation::FusedActivation;
use kernels::cpu::max_pool::PoolWindow;
use kernels::ops::branch::branch;
use kernels::ops::conv_norm_activation::{NormTensors, conv_norm_activation, convolution};
use kernels::ops::conv_norm_config::ConvNormConfig;
use kernels::ops::elementwise::{relu, sum};
use kernels::ops::pooling::max_pool;
use kernels::ops::separable::separable_norm_activation;
use random::close;
use tensors::{hosts, tensor, values};

fn options(padding: usize, groups: usize) -> ConvOptions<2> {
    ConvOptions { stride: [1; 2], padding: [(padding, padding); 2], dilation: [1; 2], groups }
}

const SHAPE: [usize; 4] = [2, 20, 7, 9];

/// The sum of some of seven readers of one map, with a loss that weighs every value differently:
/// the result and the gradients of the map and two weights. `which` numbers the readers.
fn readers(device: &Device, dtype: DType, branches: bool, which: &[usize]) -> Vec<Vec<f32>> {
    let device = device.clone().autodiff();
    let [b, c, h, w] = SHAPE;
    let x = tensor(1, SHAPE, &device, dtype);
    let (pointwise, depthwise) =
        (tensor(2, [c, c, 1, 1], &device, dtype), tensor(3, [c, 1, 3, 3], &device, dtype));
    let norm = || NormTensors {
        gamma: tensor(4, [c], &device, dtype),
        beta: tensor(5, [c], &device, dtype),
    };
    let layer = ConvNormConfig {
        conv: options(0, 1),
        epsilon: 1e-3,
        activation: FusedActivation::HardSwish,
        running: None,
    };
    // The map is the result of a layer, so that no leaf keeps its gradient.
    let before = convolution(x.clone(), depthwise.clone(), None, options(1, c));
    let map = if branches { branch(before) } else { before };
    let reader = |number: usize| {
        let map = map.clone();
        match number {
            0 => conv_norm_activation(map, pointwise.clone(), norm(), None, layer.clone()).0,
            // The skip path of a layer behind another layer that reads the map too.
            1 => {
                let y = convolution(map.clone(), pointwise.clone(), None, options(0, 1));
                conv_norm_activation(y, pointwise.clone(), norm(), Some(map), layer.clone()).0
            }
            2 => {
                let window = PoolWindow { kernel: 3, stride: 1, before: 1, output: [h, w] };
                max_pool(map, window)
            }
            3 => relu(map),
            4 => {
                let weights = [depthwise.clone(), pointwise.clone()];
                separable_norm_activation(map, weights, norm(), options(1, c), layer.clone()).0
            }
            5 => sum(map.clone(), map),
            // A reader outside this crate.
            _ => map.clone() * map,
        }
    };
    let y = which.iter().map(|number| reader(*number)).reduce(sum).expect("a reader");
    let weights = tensor::<4>(9, [b, c, h, w], &device.clone().without_autodiff(), dtype);
    let grads = (y.clone() * Tensor::from_inner(weights)).sum().backward();
    let mut found = vec![values(y.inner()), values(x.grad(&grads).expect("a gradient"))];
    found.push(values(depthwise.grad(&grads).expect("a gradient")));
    if let Some(gradient) = pointwise.grad(&grads) {
        found.push(values(gradient));
    }
    found
}

/// Mutations caught: the second gradient in place of the sum, the branch's sum not passed on, the
/// gradients that Burn holds dropped, a sum of values in the first one's order where the second is
/// in torch's, ReLU's derivative 1 at 0, no ReLU where a second owner holds the map, the sum's
/// gradient for one of its parts, the first part twice.
#[test]
fn the_readers_gradients_add_up() {
    let wgpu = Device::wgpu_options().init().expect("an adapter; install mesa-vulkan-drivers");
    for device in hosts().into_iter().chain([wgpu]) {
        let alone: Vec<Vec<usize>> = (0..7).map(|number| vec![number]).collect();
        let several = [vec![0, 2], vec![3, 5, 6], vec![6, 1, 0], vec![0, 1, 2, 3, 4, 5, 6]];
        for which in alone.iter().chain(&several) {
            let got = readers(&device, DType::F32, true, which);
            let want = readers(&Device::flex(), DType::F64, false, which);
            assert_eq!(got.len(), want.len());
            for (number, (got, want)) in got.iter().zip(&want).enumerate() {
                close(&format!("{device:?} {which:?} {number}"), got, want, 1e-4);
            }
        }
    }
}

/// The bits are those of Burn's additions.
///
/// Mutations caught: the second gradient in place of the sum, a sum of values that lie in different
/// orders.
#[test]
fn a_branch_changes_no_bit() {
    for device in hosts() {
        let run = |branches| readers(&device, DType::F32, branches, &[0, 1, 2, 4]);
        assert_eq!(run(true), run(false), "{device:?}");
    }
}

/// A branch behind another branch, two such graphs at once, a third one dropped.
///
/// Mutations caught: one sum for all branches, ReLU's derivative 1 at 0, a branch's last gradient
/// in place of the sum.
#[test]
fn every_branch_has_its_own_sum() {
    let device = Device::flex().autodiff();
    let graph = |seed: u64| {
        let x = tensor(seed, SHAPE, &device, DType::F32);
        let outer = branch(x.clone());
        let inner = branch(relu(outer.clone()));
        (x, sum(sum(relu(inner.clone()), inner), outer))
    };
    let (first, second) = (graph(1), graph(2));
    drop(graph(3));
    let gradient = |(x, y): (Tensor<4>, Tensor<4>)| {
        let each = values(x.clone().inner()).into_iter();
        let want: Vec<f32> = each.map(|x| if x > 0.0 { 3.0 } else { 1.0 }).collect();
        assert_eq!(values(x.grad(&y.sum().backward()).expect("a gradient")), want);
    };
    gradient(second);
    gradient(first);
}
