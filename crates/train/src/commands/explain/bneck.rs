//! `kindling explain bneck`: a block of MobileNetV3, layer by layer, with squeeze-excite and
//! h-swish where they stand.

use clap::Args;
use nn::activation::Activation;
use nn::geometry::Conv;
use nn::models::mobilenet_v3::blocks;

use crate::config::model::variant;
use crate::error::Error;
use crate::out;

/// Arguments of `kindling explain bneck`.
#[derive(Args)]
pub(super) struct BneckArgs {
    /// MobileNetV3; `kindling models` lists them
    #[arg(long, default_value = "mobilenet_v3_large", value_name = "NAME")]
    model: String,
    /// Block, counted from 1 in the order of the paper's table [range: 1 to 15, of Small 11]
    #[arg(long, default_value_t = 11, value_name = "N")]
    block: usize,
}

/// Prints the block's layers and where the gate and the activations stand.
pub(super) fn bneck(args: &BneckArgs) -> Result<(), Error> {
    let variant = variant(&args.model)?;
    let small = match variant.name {
        name if name.contains("v3_large") => false,
        name if name.contains("v3_small") => true,
        name => {
            return Err(Error::usage(format!(
                "--model {name}: no bneck blocks in it; take mobilenet_v3_large or mobilenet_v3_small"
            )));
        }
    };
    let blocks = blocks(small, &variant.config(1000));
    let Some(&(block, side)) = args.block.checked_sub(1).and_then(|i| blocks.get(i)) else {
        return Err(Error::usage(format!(
            "--block {}: {} has blocks 1 to {}",
            args.block,
            variant.name,
            blocks.len()
        )));
    };
    let activation = match block.activation {
        Activation::HardSwish => "h-swish",
        _ => "ReLU",
    };
    let [after, _] = block.depthwise().output_size([side, side]);
    out!(
        "{}, block {}: {} channels of {side}x{side} to {} of {after}x{after}, kernel {}, stride {}\n",
        variant.name,
        args.block,
        block.input,
        block.output,
        block.kernel,
        block.stride
    );
    out!("{:<34} {:>14} {:>9} {:>14}", "layer", "output", "weights", "multiply-adds");
    let (mut weights, mut adds) = (0, 0);
    let mut row = |name: String, conv: Conv, at: usize| {
        let [to, _] = conv.output_size([at, at]);
        let cost = conv.multiply_adds([at, at]);
        out!(
            "{name:<34} {:>14} {:>9} {cost:>14}",
            format!("{}x{to}x{to}", conv.output),
            conv.weights()
        );
        (weights, adds) = (weights + conv.weights(), adds + cost);
    };
    match block.expand() {
        Some(conv) => row(format!("1x1 expand, batch norm, {activation}"), conv, side),
        None => out!("{:<34} {:>14}", "1x1 expand", "omitted"),
    }
    let k = block.kernel;
    row(format!("{k}x{k} depthwise, batch norm, {activation}"), block.depthwise(), side);
    match block.squeezed {
        Some(squeezed) => {
            out!(
                "{:<34} {:>14}",
                "squeeze: mean of each channel",
                format!("{}x1x1", block.expanded)
            );
            row("excite: 1x1, ReLU".into(), Conv::pointwise(block.expanded, squeezed), 1);
            row("        1x1, h-sigmoid".into(), Conv::pointwise(squeezed, block.expanded), 1);
            let shape = format!("{}x{after}x{after}", block.expanded);
            out!("{:<34} {shape:>14}", "gate times map");
        }
        None => out!("{:<34} {:>14}", "squeeze-excite", "none here"),
    }
    row("1x1 project, batch norm, linear".into(), block.project(), after);
    let residual = block.stride == 1 && block.input == block.output;
    let skip = if residual { "input added" } else { "no skip" };
    out!("{:<34} {skip:>14} {weights:>9} {adds:>14}", "together");
    if let Some(squeezed) = block.squeezed {
        out!(
            "\nthe gate's hidden layer has {squeezed} channels, {}/4 rounded to a multiple of 8; its ReLU and \
             h-sigmoid\nstand between the depthwise and the projecting convolution, behind the {activation}",
            block.expanded
        );
    }
    out!(
        "\nh-swish(x) = x * min(max(x + 3, 0), 6) / 6 from {} on; ReLU before: there the maps are large and\n\
         a saving in the activation is worth most",
        if small { "block 4" } else { "block 7" }
    );
    Ok(())
}
