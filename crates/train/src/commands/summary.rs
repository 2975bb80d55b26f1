//! `kindling summary`: a network layer by layer, from its tables, without a tensor.

use clap::Args;
use nn::layer_spec::{LayerOperation, LayerSpec, Naming};
use serde::Serialize;

use crate::commands::model_args::{ModelArgs, size_or_native};
use crate::error::Error;
use crate::out;

/// Arguments of `kindling summary`.
#[derive(Args)]
pub struct SummaryArgs {
    /// Model; `kindling models` lists them [default: --model]
    #[arg(value_name = "MODEL")]
    name: Option<String>,
    #[command(flatten)]
    selection: ModelArgs,
    /// Height and width of the image [default: the native size of the model] [range: up to 16384]
    #[arg(long, visible_aliases = ["imgsz", "image-size"], value_name = "PIXELS")]
    img_size: Option<usize>,
    /// Name the layers as timm does [default: as torchvision does]
    #[arg(long)]
    timm: bool,
    /// Print JSON [default: text]
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct SummaryRow {
    layer: String,
    operation: String,
    kernel: String,
    stride: usize,
    groups: usize,
    activation: &'static str,
    input: [usize; 3],
    output: [usize; 3],
    parameters: u64,
    multiply_adds: u64,
    /// Size of the output of one image in f32.
    bytes: u64,
    auxiliary: bool,
}

fn row(layer: &LayerSpec) -> SummaryRow {
    let square = |side: usize| format!("{side}x{side}");
    let (operation, kernel, stride, groups) = match layer.operation {
        LayerOperation::Convolution { conv, bias, norm } => {
            let kind = match (conv.is_depthwise(), conv.kernel) {
                (true, _) => "depthwise",
                (false, [1, 1]) => "pointwise",
                _ => "convolution",
            };
            let more = match (norm, bias) {
                (true, _) => " + norm",
                (_, true) => " + bias",
                _ => "",
            };
            let [kh, kw] = conv.kernel;
            (format!("{kind}{more}"), format!("{kh}x{kw}"), conv.stride, conv.groups)
        }
        LayerOperation::MaxPool(pool) => ("max pool".into(), square(pool.kernel), pool.stride, 1),
        LayerOperation::MeanPool(pool) => ("mean pool".into(), square(pool.kernel), pool.stride, 1),
        LayerOperation::AdaptiveMean(side) => (format!("mean to {side}x{side}"), "-".into(), 1, 1),
        LayerOperation::Linear => ("linear + bias".into(), "-".into(), 1, 1),
    };
    SummaryRow {
        layer: layer.name.clone(),
        operation,
        kernel,
        stride,
        groups,
        activation: layer.activation.name(),
        input: layer.input,
        output: layer.output,
        parameters: layer.parameters(),
        multiply_adds: layer.multiply_adds(),
        bytes: 4 * layer.output.iter().product::<usize>() as u64,
        auxiliary: layer.auxiliary,
    }
}

/// Prints the table.
///
/// # Errors
/// An unknown model, an impossible departure or size.
pub fn summary(args: &SummaryArgs) -> Result<(), Error> {
    let mut selection = args.selection.clone();
    selection.model = args.name.clone().or(selection.model);
    let config = selection.config(&[], None)?;
    let size = size_or_native(args.img_size, config.architecture)?;
    let naming = if args.timm { Naming::Timm } else { Naming::Torchvision };
    let rows: Vec<SummaryRow> = config.layers(size, size, naming).iter().map(row).collect();
    if args.json {
        out!("{}", serde_json::to_string_pretty(&rows).expect("plain data"));
        return Ok(());
    }
    let wide = rows.iter().map(|r| r.layer.len()).max().unwrap_or(5).max(5);
    out!(
        "{:<wide$} {:<19} {:>6} {:>6} {:>3} {:>15} {:>11} {:>13} {:>9}",
        "layer",
        "operation",
        "kernel",
        "stride",
        "NL",
        "output",
        "parameters",
        "multiply-adds",
        "kB"
    );
    let shape = |s: [usize; 3]| format!("{}x{}x{}", s[0], s[1], s[2]);
    for r in &rows {
        out!(
            "{:<wide$} {:<19} {:>6} {:>6} {:>3} {:>15} {:>11} {:>13} {:>9.1}{}",
            r.layer,
            r.operation,
            r.kernel,
            r.stride,
            r.activation,
            shape(r.output),
            r.parameters,
            r.multiply_adds,
            r.bytes as f64 / 1e3,
            if r.auxiliary { "  training only" } else { "" }
        );
    }
    let main = || rows.iter().filter(|r| !r.auxiliary);
    let share = |kind: &str| {
        let part: u64 =
            main().filter(|r| r.operation.starts_with(kind)).map(|r| r.multiply_adds).sum();
        100.0 * part as f64 / main().map(|r| r.multiply_adds).sum::<u64>().max(1) as f64
    };
    out!(
        "{} layers, {} parameters, {} multiply-adds at {size}x{size} (depthwise {:.1} %, pointwise {:.1} %), \
         {:.1} MB of layer outputs per image in f32",
        rows.len(),
        rows.iter().map(|r| r.parameters).sum::<u64>(),
        main().map(|r| r.multiply_adds).sum::<u64>(),
        share("depthwise"),
        share("pointwise"),
        main().map(|r| r.bytes).sum::<u64>() as f64 / 1e6
    );
    Ok(())
}
