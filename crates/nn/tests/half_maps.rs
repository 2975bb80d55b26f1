//! Networks whose maps are f16, on a GPU: as near those of f32 as rounding lets them be, with
//! weights, statistics and logits of f32.
//!
//! Batch norm of few images makes a network amplify every rounding, so a limit is measured: what
//! noise of the size of f16's rounding does in f32, in the images alone.
//!
//! Mutations caught: the flattened map of an auxiliary head in f16; maps of f32 after all.

use burn::module::Module as _;
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor, TensorData};
use nn::config::{Architecture, NetworkConfig};
use nn::layer_spec::Naming;
use nn::weights::state_dict::{gradients, state_dict};

const ALL: [Architecture; 5] = [
    Architecture::MobilenetV1,
    Architecture::MobilenetV3Small,
    Architecture::Googlenet,
    Architecture::InceptionV3,
    Architecture::Xception,
];
/// How much further apart 16 bits in every map may be than noise in the images.
const LIMIT: f64 = 6.0;
const BATCH: usize = 8;

/// How far two lists are apart, as a share of the second.
fn apart(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let pairs = got.iter().zip(want);
    let off = square(&mut pairs.map(|(a, b)| f64::from(a - b)));
    off / square(&mut want.iter().map(|v| f64::from(*v))).max(1e-12)
}

#[test]
fn every_network_is_near_itself_in_16_bits() {
    let device = Device::wgpu_options().init().expect("an adapter; install mesa-vulkan-drivers");
    if !device.supports_dtype(DType::F16) {
        return; // the adapter has no such values
    }
    let autodiff = device.clone().autodiff();
    for architecture in ALL {
        let size = match architecture {
            Architecture::InceptionV3 => 75,
            Architecture::Xception => 65,
            _ => 64,
        };
        let mut config = NetworkConfig::new(architecture, 5);
        config.auxiliary = architecture == Architecture::Googlenet;
        config.dropout = 0.0;
        // The running statistics are those of the batch, as if it had been trained for long.
        config.bn_momentum = 1.0;
        if matches!(architecture, Architecture::MobilenetV1 | Architecture::MobilenetV3Small) {
            config.width = 0.35;
        }
        // Images that differ in shade and direction, so that no channel is nearly constant.
        let value = |i: usize| {
            let (image, pixel) = (i / (3 * size * size), i % (size * size));
            let (y, x) = ((pixel / size) as f32 / size as f32, (pixel % size) as f32 / size as f32);
            let angle = image as f32 * 0.8;
            let wave = (12.0 * (x * angle.cos() + y * angle.sin())).sin();
            wave + 0.3 * (image as f32 - 3.5) + ((i * 7919) % 101) as f32 / 300.0
        };
        let values: Vec<f32> = (0..BATCH * 3 * size * size).map(value).collect();
        let rounded = |(i, value): (usize, &f32)| {
            let noise = ((i * 2_654_435_761) >> 9) % 2001;
            value * (1.0 + 0.0005 * (noise as f32 / 1000.0 - 1.0))
        };
        let noisy: Vec<f32> = values.iter().enumerate().map(rounded).collect();
        let whole = results(&config, &values, &autodiff);
        let near = results(&config, &noisy, &autodiff);
        let half = results(&NetworkConfig { half_maps: true, ..config }, &values, &autodiff);
        for (i, what) in ["logits", "gradient", "statistics", "inference"].iter().enumerate() {
            let (off, limit) = (apart(&half[i], &whole[i]), LIMIT * apart(&near[i], &whole[i]));
            assert!(off < limit, "{architecture:?}: {what} {off} apart, at most {limit}");
            assert!(off > 0.0, "{architecture:?}: {what}: maps of f32");
        }
    }
}

/// Logits of a training pass, gradients, running statistics, logits of inference.
fn results(config: &NetworkConfig, values: &[f32], autodiff: &Device) -> [Vec<f32>; 4] {
    let network = config.init_seeded(autodiff, 3);
    let size = (values.len() / (3 * BATCH)).isqrt();
    let images = |device: &Device| {
        let data = TensorData::new(values.to_vec(), [BATCH, 3, size, size]);
        Tensor::<4>::from_data(data, device)
    };
    let outputs = network.forward_train(images(autodiff), 1);
    let mut loss = outputs.logits.clone().square().mean();
    for auxiliary in &outputs.auxiliary {
        assert_eq!(auxiliary.logits.dtype(), DType::F32);
        loss = loss + auxiliary.logits.clone().square().mean().mul_scalar(0.3);
    }
    assert_eq!(outputs.logits.dtype(), DType::F32);
    let found = GradientsParams::from_grads(loss.mul_scalar(64.0).backward(), &network);
    let all = gradients(&network, &found, Naming::Torchvision);
    let gradient = all.into_iter().flat_map(|t| t.values).collect();
    let statistics = state_dict(&network).into_iter().filter(|t| t.name.contains("running_"));
    let statistics = statistics.flat_map(|t| t.values).collect();
    let logits = network.valid().forward(images(&autodiff.clone().inner()));
    assert_eq!(logits.dtype(), DType::F32);
    let read = |t: Tensor<2>| t.into_data().try_into_vec::<f32>().expect("f32");
    [read(outputs.logits.inner()), gradient, statistics, read(logits)]
}
