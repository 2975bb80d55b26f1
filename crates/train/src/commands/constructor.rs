//! The call that builds a network in timm or torchvision, so that its weights give the same outputs
//! there.

use nn::config::{Architecture, NetworkConfig, Scaling};
use nn::geometry::Padding;
use nn::layer_spec::Naming;

/// timm's entries by architecture and width in hundredths.
const TIMM: &[(Architecture, &[(u32, &str)])] = &[
    (Architecture::MobilenetV1, &[(100, "mobilenetv1_100"), (125, "mobilenetv1_125")]),
    (
        Architecture::MobilenetV2,
        &[
            (35, "mobilenetv2_035"),
            (50, "mobilenetv2_050"),
            (75, "mobilenetv2_075"),
            (100, "mobilenetv2_100"),
            (140, "mobilenetv2_140"),
        ],
    ),
    (
        Architecture::MobilenetV3Large,
        &[(75, "mobilenetv3_large_075"), (100, "mobilenetv3_large_100")],
    ),
    (
        Architecture::MobilenetV3Small,
        &[
            (50, "mobilenetv3_small_050"),
            (75, "mobilenetv3_small_075"),
            (100, "mobilenetv3_small_100"),
        ],
    ),
    (Architecture::Xception, &[(100, "legacy_xception")]),
    (Architecture::Xception41, &[(100, "xception41")]),
    (Architecture::Xception65, &[(100, "xception65")]),
    (Architecture::Xception71, &[(100, "xception71")]),
    (Architecture::InceptionV3, &[(100, "inception_v3")]),
];

/// The Python call; none where the library has no such network. The call is for inference: dropout
/// keeps the library's default.
pub(super) fn constructor(config: &NetworkConfig, library: Naming) -> Option<String> {
    match library {
        Naming::Timm => timm(config),
        Naming::Torchvision => torchvision(config),
    }
}

/// Whether the widths are those of a library: `rule` is its rule, which matters at other widths
/// than 1.
fn widths_of(config: &NetworkConfig, rule: Scaling) -> bool {
    config.width == 1.0 || config.scaling == rule
}

fn timm(config: &NetworkConfig) -> Option<String> {
    if config.dilated
        || config.reduced_tail
        || config.transform_input
        || config.activation.is_some()
    {
        return None;
    }
    let hundredths = (config.width * 100.0).round() as u32;
    let exact = (config.width * 100.0 - f64::from(hundredths)).abs() < 1e-9;
    let (_, entries) = TIMM.iter().find(|(own, _)| *own == config.architecture)?;
    let (_, entry) = entries.iter().find(|(width, _)| *width == hundredths && exact)?;
    // timm rounds MobileNetV1's widths to multiples of 8.
    let rule = match config.architecture {
        Architecture::MobilenetV1 => Scaling::Torchvision,
        _ => Scaling::Paper,
    };
    if !widths_of(config, rule) {
        return None;
    }
    let mut arguments = format!("num_classes={}", config.num_classes);
    match config.architecture {
        // Their epsilon is fixed.
        Architecture::InceptionV3 if config.bn_eps == 1e-3 => arguments += ", aux_logits=False",
        Architecture::Xception if config.bn_eps == 1e-5 => {}
        Architecture::Xception41 | Architecture::Xception65 | Architecture::Xception71
            if config.bn_eps == 1e-3 => {}
        Architecture::InceptionV3
        | Architecture::Xception
        | Architecture::Xception41
        | Architecture::Xception65
        | Architecture::Xception71 => return None,
        _ => {
            if config.bn_eps != 1e-5 {
                arguments += &format!(", bn_eps={}", config.bn_eps);
            }
            if config.padding == Padding::Same {
                arguments += ", pad_type=\"same\"";
            }
        }
    }
    let entry = match config.minimal {
        // timm has the head of one width alone.
        _ if config.head_conv && hundredths == 100 => format!("{entry}h"),
        _ if config.head_conv => return None,
        // timm has TensorFlow's minimal networks alone.
        true if hundredths == 100 => format!("tf_{}", entry.replace("_100", "_minimal_100")),
        true => return None,
        false => (*entry).to_owned(),
    };
    if config.minimal && config.padding != Padding::Same {
        arguments += ", pad_type=\"\"";
    }
    if config.minimal && config.bn_eps == 1e-5 {
        arguments += ", bn_eps=1e-5";
    }
    Some(format!("timm.create_model(\"{entry}\", {arguments})"))
}

fn torchvision(config: &NetworkConfig) -> Option<String> {
    let name = match config.architecture {
        Architecture::MobilenetV2 => "mobilenet_v2",
        Architecture::MobilenetV3Large => "mobilenet_v3_large",
        Architecture::MobilenetV3Small => "mobilenet_v3_small",
        Architecture::Googlenet => "googlenet",
        Architecture::InceptionV3 => "inception_v3",
        Architecture::MobilenetV1
        | Architecture::Xception
        | Architecture::Xception41
        | Architecture::Xception65
        | Architecture::Xception71 => return None,
    };
    let inception = name == "googlenet" || name == "inception_v3";
    let other = config.padding == Padding::Same || config.minimal || config.activation.is_some();
    if other || !widths_of(config, Scaling::Torchvision) {
        return None;
    }
    let mut arguments = format!("num_classes={}", config.num_classes);
    if inception {
        // Their epsilon is fixed, and their third branch is 3x3.
        let branch = config.three_for_five || name == "inception_v3";
        if config.bn_eps != 1e-3 || !branch {
            return None;
        }
        let transform = if config.transform_input { "True" } else { "False" };
        arguments +=
            &format!(", aux_logits=False, init_weights=False, transform_input={transform}");
    } else {
        if config.width != 1.0 {
            arguments += &format!(", width_mult={}", config.width);
        }
        for (set, argument) in [(config.reduced_tail, "reduced_tail"), (config.dilated, "dilated")]
        {
            if set {
                arguments += &format!(", {argument}=True");
            }
        }
        let usual = if name == "mobilenet_v2" { 1e-5 } else { 1e-3 };
        if config.bn_eps != usual {
            arguments += &format!(
                ", norm_layer=functools.partial(torch.nn.BatchNorm2d, eps={})",
                config.bn_eps
            );
        }
    }
    Some(format!("torchvision.models.{name}({arguments})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nn::models::variants::Variant;

    fn call(name: &str, library: Naming) -> Option<String> {
        constructor(&Variant::parse(name).unwrap().config(10), library)
    }

    /// Mutations caught: epsilon omitted; the padding omitted; a width that the library rounds
    /// otherwise.
    #[test]
    fn a_network_is_called_with_what_departs_from_the_librarys_defaults() {
        let timm = |name| call(name, Naming::Timm);
        let expected = "timm.create_model(\"mobilenetv3_large_100\", num_classes=10, bn_eps=0.001)";
        assert_eq!(timm("mobilenet_v3_large").as_deref(), Some(expected));
        let expected = "timm.create_model(\"mobilenetv3_large_100\", num_classes=10)";
        assert_eq!(timm("mobilenetv3_large_100").as_deref(), Some(expected));
        let expected = "timm.create_model(\"mobilenetv1_100\", num_classes=10, bn_eps=0.001, \
                        pad_type=\"same\")";
        assert_eq!(timm("tf_mobilenet_v1").as_deref(), Some(expected));
        let expected = "timm.create_model(\"mobilenetv1_100h\", num_classes=10)";
        assert_eq!(timm("mobilenetv1_100h").as_deref(), Some(expected));
        let expected = "timm.create_model(\"xception65\", num_classes=10)";
        assert_eq!(timm("xception65").as_deref(), Some(expected));
        assert_eq!(timm("googlenet"), None);
        assert_eq!(timm("mobilenet_v3_large_dilated"), None);
        let torchvision = |name| call(name, Naming::Torchvision);
        let expected = "torchvision.models.mobilenet_v3_small(num_classes=10)";
        assert_eq!(torchvision("mobilenet_v3_small").as_deref(), Some(expected));
        assert_eq!(torchvision("mobilenetv3_small_075"), None);
        assert_eq!(torchvision("xception"), None);
        assert_eq!(torchvision("googlenet_5x5"), None);
    }
}
