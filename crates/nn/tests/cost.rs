//! Parameters and multiply-adds of every architecture, exact to one parameter and to 0.01 M
//! multiply-adds. The expected values were counted on torchvision 0.29.2 and timm 1.0.31.
//!
//! Mutations caught: the paper's stride 2 in MobileNetV1's last block; timm's widths for
//! torchvision's.

use nn::config::{Architecture, NetworkConfig};
use nn::cost::cost;
use nn::geometry::Padding;
use nn::models::variants::Variant;

/// Checks a configuration: parameters, and pairs of image size and multiply-adds in 0.01 M.
#[track_caller]
fn check(config: &NetworkConfig, parameters: u64, sizes: &[(usize, u64)]) {
    for &(size, hundredths) in sizes {
        let cost = cost(config, size, size);
        assert_eq!(cost.parameters, parameters, "{config:?}");
        let rounded = (cost.multiply_adds as f64 / 1e4).round() as u64;
        assert_eq!(rounded, hundredths, "{size}: {config:?}");
    }
}

fn config(architecture: Architecture, width: f64) -> NetworkConfig {
    NetworkConfig { width, ..NetworkConfig::new(architecture, 1000) }
}

fn named(name: &str) -> NetworkConfig {
    Variant::parse(name).unwrap().config(1000)
}

#[test]
#[rustfmt::skip]
fn mobilenets_v1_and_v2() {
    let v1 = |width| config(Architecture::MobilenetV1, width);
    check(&v1(0.25),   470_072, &[(224,  4103), (192,  3021), (160,  2106), (128, 1357)]);
    check(&v1(0.50), 1_331_592, &[(224, 14950), (192, 10997), (160,  7652), (128, 4916)]);
    check(&v1(0.75), 2_585_560, &[(224, 32540), (192, 23927), (160, 16640), (128, 10677)]);
    check(&v1(1.00), 4_231_976, &[(224, 56874), (192, 41812), (160, 29068), (128, 18640)]);
    check(&v1(1.25), 6_270_840, &[(224, 87952), (192, 64652), (160, 44936), (128, 28805)]);
    check(&named("mobilenetv1_100h"), 5_282_600, &[(224, 62012), (192, 45587)]);
    let v2 = |width| config(Architecture::MobilenetV2, width);
    check(&v2(0.35), 1_677_128, &[(224,  5929), (192,  4390), (160,  3087), (128, 2022), (96, 1193)]);
    check(&v2(0.50), 1_968_680, &[(224,  9713), (192,  7170), (160,  5018), (128, 3258), (96, 1889)]);
    check(&v2(0.75), 2_636_424, &[(224, 20907), (192, 15394), (160, 10730), (128, 6913), (96, 3945)]);
    check(&v2(1.00), 3_504_872, &[(224, 30077), (192, 22132), (160, 15408), (128, 9907), (96, 5629)]);
    check(&v2(1.30), 5_386_792, &[(224, 50937), (192, 37468), (160, 26070), (128, 16745), (96, 9492)]);
    check(&v2(1.40), 6_108_776, &[(224, 58220), (192, 42821), (160, 29792), (128, 19131), (96, 10840)]);
}

#[test]
#[rustfmt::skip]
fn mobilenet_v3_with_both_rules_and_all_variants() {
    let large = |width| config(Architecture::MobilenetV3Large, width);
    check(&large(0.35),   997_064, &[(224,  3528), (256,  4584), (192,  2613), (160,  1838), (128, 1205), (96, 712)]);
    check(&large(0.50), 1_734_576, &[(224,  6496), (256,  8444), (192,  4808), (160,  3380), (128, 2211), (96, 1302)]);
    check(&large(0.75), 3_377_576, &[(224, 14003), (256, 18213), (192, 10355), (160,  7268), (128, 4742), (96, 2777)]);
    check(&large(1.00), 5_483_032, &[(224, 21659), (256, 28166), (192, 16019), (160, 11247), (128, 7343), (96, 4306)]);
    check(&large(1.25), 8_164_744, &[(224, 34346), (256, 44680), (192, 25390), (160, 17812), (128, 11612), (96, 6789)]);
    let small = |width| config(Architecture::MobilenetV3Small, width);
    check(&small(0.35),   558_744, &[(224, 1124), (256, 1453), (192, 839), (160, 597), (128, 400), (96, 246)]);
    check(&small(0.50),   917_264, &[(224, 1897), (256, 2454), (192, 1414), (160, 1006), (128, 672), (96, 412)]);
    check(&small(0.75), 1_653_920, &[(224, 3912), (256, 5067), (192, 2910), (160, 2063), (128, 1369), (96, 830)]);
    check(&small(1.00), 2_542_856, &[(224, 5651), (256, 7318), (192, 4207), (160, 2985), (128, 1985), (96, 1207)]);
    check(&small(1.25), 3_644_912, &[(224, 8816), (256, 11425), (192, 6554), (160, 4641), (128, 3076), (96, 1858)]);
    check(&named("mobilenet_v3_large_reduced_tail"), 2_569_352, &[(224, 18230)]);
    check(&named("mobilenet_v3_large_dilated"),      5_483_032, &[(224, 35482)]);
    check(&named("mobilenet_v3_small_reduced_tail"), 1_099_672, &[(224, 4376)]);
    check(&named("mobilenet_v3_small_dilated"),      2_542_856, &[(224, 10651)]);
    check(&named("mobilenetv3_large_075"),           3_993_528, &[(224, 15456)]);
    check(&named("mobilenetv3_large_100"),           5_483_032, &[(224, 21659)]);
    check(&named("mobilenetv3_small_050"),           1_593_224, &[(224, 2419)]);
    check(&named("mobilenetv3_small_075"),           2_041_872, &[(224, 4340)]);
    check(&named("tf_mobilenetv3_large_minimal_100"), 3_924_288, &[(224, 20914)]);
    check(&named("tf_mobilenetv3_small_minimal_100"), 2_044_736, &[(224, 5229)]);
}

#[test]
fn inceptions_and_xception() {
    let with_heads = |name| NetworkConfig { auxiliary: true, ..named(name) };
    check(&named("googlenet"), 6_624_904, &[(224, 149_838)]);
    check(&named("googlenet_5x5"), 7_005_832, &[(224, 158_267)]);
    check(&with_heads("googlenet"), 13_004_888, &[(224, 149_838)]);
    check(&with_heads("googlenet_5x5"), 13_385_816, &[(224, 158_267)]);
    check(&named("inception_v3"), 23_834_568, &[(299, 571_322), (224, 283_792)]);
    check(&with_heads("inception_v3"), 27_161_264, &[(299, 571_322)]);
    check(&named("xception"), 22_855_952, &[(299, 835_740), (224, 455_288)]);
    check(&named("xception41"), 26_969_560, &[(299, 920_413), (224, 497_639)]);
    check(&named("xception65"), 39_916_312, &[(299, 1_385_268), (224, 750_026)]);
    check(&named("xception71"), 42_338_736, &[(299, 1_794_655), (224, 974_234)]);
}

/// On these networks SAME and symmetric padding give maps of one size, and therefore one cost.
#[test]
fn padding_does_not_change_the_cost() {
    for name in ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large"] {
        let same = NetworkConfig { padding: Padding::Same, ..named(name) };
        assert_eq!(cost(&same, 224, 224), cost(&named(name), 224, 224), "{name}");
    }
}

/// A sum of parameters alone would not notice two layers exchanged. The module must also have as
/// many tensors as the list of layers, which `state_dict` asserts.
#[test]
fn every_variant_can_be_built_and_has_the_tensors_of_its_layer_list() {
    let device = burn::tensor::Device::flex();
    for variant in nn::models::variants::VARIANTS {
        let config = NetworkConfig { num_classes: 7, ..variant.config(7) };
        config.validate().unwrap();
        let network = config.init_zero(&device);
        let state = nn::weights::state_dict::state_dict(&network);
        let parameters: usize =
            state.iter().filter(|t| !t.name.contains("running_")).map(|t| t.values.len()).sum();
        assert_eq!(parameters as u64, cost(&config, 299, 299).parameters, "{}", variant.name);
    }
}
