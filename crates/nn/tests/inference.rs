//! In inference a batch is run image by image, the MobileNets in two parts. Planted and seen red: images put
//! together in another order, the first image taken for all.

#![allow(deprecated, reason = "burn-ndarray is one of the backends asked for")]

use burn::tensor::{Device, Tensor, TensorData};
use nn::init::uniform;
use nn::network::{Architecture, NetworkConfig};

const IMAGES: usize = 5;

#[test]
fn a_batch_gives_what_its_images_give() {
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
            // Every image with another brightness and contrast.
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
            assert!(scale > 0.0, "{architecture:?}: logits of zero tell nothing");
            // The images differ by more than what is tolerated.
            let apart = want[..7].iter().zip(&want[7..14]).map(|(a, b)| (a - b).abs());
            assert!(apart.fold(0.0, f32::max) > 1e-3 * scale, "{architecture:?}");
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() < 1e-5 * scale, "{architecture:?}: {got} for {want}");
            }
        }
    }
}
