//! `KINDLING_KERNELS=stock` takes Burn's own operations and Burn's own autodiff, in every bit.
//!
//! Mutations caught: a hand-written backward pass in the layer's place, kernels where nothing is
//! differentiated.

#[path = "random/random.rs"]
mod random;

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData, activation, module};
use kernels::cpu::activation::FusedActivation;
use kernels::ops::conv_norm_activation::{NormTensors, conv_norm_activation, convolution};
use kernels::ops::conv_norm_config::ConvNormConfig;
use kernels::ops::cpu_tensor::supports;
use kernels::ops::pooling::global_mean;
use random::{close, random};

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().expect("floats")
}

fn leaf<const D: usize>(seed: u64, shape: [usize; D], device: &Device) -> Tensor<D> {
    let values = random(seed, shape.iter().product());
    Tensor::from_data(TensorData::new(values, shape), device).require_grad()
}

#[test]
fn stock_is_what_burn_computes() {
    // SAFETY: the process has no other thread that reads the environment yet.
    unsafe { std::env::set_var("KINDLING_KERNELS", "stock") };
    let device = Device::flex().autodiff();
    let (dw, pw) = ([16, 1, 3, 3], [24, 16, 1, 1]);
    let options = |groups, padding| ConvOptions {
        stride: [1; 2],
        padding: [(padding, padding); 2],
        dilation: [1; 2],
        groups,
    };
    let run = |burn: bool| {
        let x = leaf(1, [3, 16, 9, 7], &device);
        let (w1, w2) = (leaf(2, dw, &device), leaf(3, pw, &device));
        let (gamma, beta) = (leaf(4, [24], &device), leaf(5, [24], &device));
        let leaves = (w1.clone(), w2.clone(), gamma.clone(), beta.clone());
        let y = match burn {
            true => {
                let y = module::conv2d(x.clone(), w1, None, options(16, 1));
                let y = module::conv2d(y, w2, None, options(1, 0));
                let y = module::batch_norm_train(y, gamma, beta, 1e-3).output;
                let [b, c, _, _] = y.dims();
                module::adaptive_avg_pool2d(activation::relu(y), [1, 1]).reshape([b, c])
            }
            false => {
                assert!(!supports(&x), "the kernels are in use");
                let y = convolution(x.clone(), w1, None, options(16, 1));
                let layer = ConvNormConfig {
                    conv: options(1, 0),
                    epsilon: 1e-3,
                    activation: FusedActivation::Relu,
                    running: None,
                };
                let norm = NormTensors { gamma, beta };
                global_mean(conv_norm_activation(y, w2, norm, None, layer).0)
            }
        };
        let grads = (y.clone() * y.clone()).sum().backward();
        let (w1, w2, gamma, beta) = leaves;
        [
            values(y.inner()),
            values(x.grad(&grads).expect("a gradient")),
            values(w1.grad(&grads).expect("a gradient")),
            values(w2.grad(&grads).expect("a gradient")),
            values(gamma.grad(&grads).expect("a gradient")),
            values(beta.grad(&grads).expect("a gradient")),
        ]
    };
    for (i, (got, want)) in run(false).iter().zip(&run(true)).enumerate() {
        close(&format!("part {i}"), got, want, 0.0);
    }
    // The same without autodiff.
    let plain = |burn: bool| {
        let device = Device::flex();
        let tensor = |seed, shape: [usize; 4]| {
            Tensor::<4>::from_data(
                TensorData::new(random(seed, shape.iter().product()), shape),
                &device,
            )
        };
        let (x, w) = (tensor(1, [3, 40, 9, 7]), tensor(2, [24, 40, 3, 3]));
        values(match burn {
            true => module::conv2d(x, w, None, options(1, 1)),
            false => convolution(x, w, None, options(1, 1)),
        })
    };
    assert_eq!(plain(false), plain(true));
}
