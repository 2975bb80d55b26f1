//! The measured distributions of initial weights are those of torchvision and timm, for every
//! architecture.
//!
//! Mutations caught: the depthwise fan-out divided by the groups; a linear deviation of 0.02.

use burn::tensor::Device;
use nn::config::{Architecture, NetworkConfig};
use nn::layer_spec::{Init, Naming};
use nn::weights::state_dict::state_dict;

const ALL: [Architecture; 7] = [
    Architecture::MobilenetV1,
    Architecture::MobilenetV2,
    Architecture::MobilenetV3Large,
    Architecture::MobilenetV3Small,
    Architecture::Googlenet,
    Architecture::InceptionV3,
    Architecture::Xception,
];

fn deviation(values: &[f32]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt()
}

#[test]
fn every_tensor_has_the_deviation_of_its_rule() {
    for architecture in ALL {
        let mut config = NetworkConfig::new(architecture, 1000);
        config.auxiliary =
            matches!(architecture, Architecture::Googlenet | Architecture::InceptionV3);
        let network = config.init_seeded(&Device::flex(), 3);
        for (tensor, key) in state_dict(&network).iter().zip(config.keys(Naming::Torchvision)) {
            let [out, input, kh, kw] = match tensor.shape[..] {
                [o, i, h, w] => [o, i, h, w],
                [o, i] => [o, i, 1, 1],
                _ => [tensor.values.len(), 1, 1, 1],
            };
            let want = match key.init {
                Init::Constant(value) => {
                    assert!(tensor.values.iter().all(|v| f64::from(*v) == value), "{}", key.name);
                    continue;
                }
                Init::Normal { deviation } => deviation,
                Init::FanOutOfGroup if input == 1 => (2.0 / (kh * kw) as f64).sqrt(),
                Init::FanOut | Init::FanOutOfGroup => (2.0 / (out * kh * kw) as f64).sqrt(),
                Init::Uniform { bound } => bound / 3.0_f64.sqrt(),
            };
            let got = deviation(&tensor.values);
            // Five standard errors of a measured standard deviation.
            let allowed = 5.0 * want / (2.0 * tensor.values.len() as f64).sqrt();
            assert!((got - want).abs() < allowed, "{architecture:?} {}: {got} {want}", key.name);
        }
    }
}

/// Expected values by hand, not from the list of layers: MobileNetV3-Large's first depthwise
/// convolution has 16 channels and therefore fan-out 16 * 9 = 144 (Burn's own rule gives 9); its
/// classifier has deviation 0.01.
#[test]
fn depthwise_fan_out_is_not_divided_by_the_groups() {
    let config = NetworkConfig::new(Architecture::MobilenetV3Large, 1000);
    let state = state_dict(&config.init_seeded(&Device::flex(), 1));
    let measured = |name: &str| deviation(&state.iter().find(|t| t.name == name).unwrap().values);
    let depthwise = measured("features.1.block.0.0.weight");
    assert!((depthwise - (2.0_f64 / 144.0).sqrt()).abs() < 0.04, "{depthwise}");
    let classifier = measured("classifier.3.weight");
    assert!((classifier - 0.01).abs() < 1e-4, "{classifier}");
}

#[test]
fn a_seed_gives_the_same_weights_on_every_backend_and_another_seed_others() {
    let config = NetworkConfig { width: 0.1, ..NetworkConfig::new(Architecture::MobilenetV2, 3) };
    let on = |device: &Device, seed| state_dict(&config.init_seeded(device, seed));
    #[expect(deprecated, reason = "burn-ndarray is one of the backends asked for")]
    let ndarray = Device::ndarray();
    assert_eq!(on(&Device::flex(), 9), on(&ndarray, 9));
    assert_ne!(on(&Device::flex(), 9), on(&Device::flex(), 8));
}
