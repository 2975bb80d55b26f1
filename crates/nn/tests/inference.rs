//! Inference runs a batch image by image, on the MobileNets in two parts. The logits of a batch
//! must be those of its images.
//!
//! Mutations caught: images put together in another order; the first image used for all.

#![allow(deprecated, reason = "burn-ndarray is one of the backends asked for")]

use burn::tensor::{Device, Tensor, TensorData};
use nn::config::{Architecture, NetworkConfig};
use nn::init::uniform;

const IMAGES: usize = 5;

#[test]
fn a_batch_has_the_logits_of_its_images() {
    for device in [Device::flex(), Device::ndarray()] {
        for (architecture, size) in [
            (Architecture::MobilenetV1, 48),
            (Architecture::MobilenetV2, 48),
            (Architecture::MobilenetV3Large, 48),
            (Architecture::MobilenetV3Small, 40),
            (Architecture::Xception, 72),
        ] {
            let network = NetworkConfig::new(architecture, 7).init_seeded(&device, 3);
            let count = IMAGES * 3 * size * size;
            // Every image has another brightness and contrast.
            let pixel = |i: usize| {
                let image = (i / (3 * size * size)) as f64;
                ((1.0 + image) * (uniform(9, i as u64) - 0.5) + 2.0 * image) as f32
            };
            let pixels: Vec<f32> = (0..count).map(pixel).collect();
            let images =
                Tensor::<4>::from_data(TensorData::new(pixels, [IMAGES, 3, size, size]), &device);
            let values = |x: Tensor<2>| x.into_data().try_into_vec::<f32>().unwrap();
            let got = values(network.forward(images.clone()));
            let single = |i| values(network.forward(images.clone().narrow(0, i, 1)));
            let want: Vec<f32> = (0..IMAGES).flat_map(single).collect();
            let scale = want.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            assert!(scale > 0.0, "{architecture:?}: zero logits prove nothing");
            // The logits of two images differ by more than the tolerance.
            let difference = want[..7].iter().zip(&want[7..14]).map(|(a, b)| (a - b).abs());
            assert!(difference.fold(0.0, f32::max) > 1e-3 * scale, "{architecture:?}");
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() < 1e-5 * scale, "{architecture:?}: {got} for {want}");
            }
        }
    }
}
