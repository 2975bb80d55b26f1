//! `kindling explain`: what a block costs and why, with one's own numbers.

mod bneck;
mod inception;

use clap::{Args, Subcommand};
use nn::block::separable::Separable;
use nn::config::Scaling;
use nn::cost::cost;
use nn::geometry::Conv;

use crate::commands::model_args::size_or_native;
use crate::config::model::variant;
use crate::error::Error;
use crate::out;

/// Arguments of `kindling explain`.
#[derive(Args)]
pub struct ExplainArgs {
    #[command(subcommand)]
    topic: Topic,
}

#[derive(Subcommand)]
enum Topic {
    /// Compare a standard with a depthwise-separable convolution
    Convolution(ConvolutionArgs),
    /// Compare an inverted residual with a standard convolution of its inner width
    InvertedResidual(InvertedResidualArgs),
    /// Show an Inception module, and the way from it to the separable convolution
    Inception(inception::InceptionArgs),
    /// Show a block of MobileNetV3 with squeeze-excite and h-swish in place
    Bneck(bneck::BneckArgs),
    /// Compare h-swish and h-sigmoid with swish and sigmoid
    HSwish,
    /// Show what the width and the resolution multiplier cost
    Multipliers(MultipliersArgs),
}

#[derive(Args)]
struct ConvolutionArgs {
    /// Kernel height and width, an odd number [range: 1 to 63]
    #[arg(long, default_value_t = 3, value_name = "PIXELS")]
    kernel: usize,
    /// Input channels [range: 1 to 65536]
    #[arg(long = "in", default_value_t = 3, value_name = "CHANNELS")]
    input: usize,
    /// Output channels [range: 1 to 65536]
    #[arg(long = "out", default_value_t = 4, value_name = "CHANNELS")]
    output: usize,
    /// Height and width of the input [range: 1 to 65536]
    #[arg(long, default_value_t = 5, value_name = "PIXELS")]
    size: usize,
    /// Stride [range: 1 to 65536]
    #[arg(long, default_value_t = 1, value_name = "PIXELS")]
    stride: usize,
}

#[derive(Args)]
struct InvertedResidualArgs {
    /// Input channels [range: 1 to 65536]
    #[arg(long = "in", default_value_t = 24, value_name = "CHANNELS")]
    input: usize,
    /// Output channels [range: 1 to 65536]
    #[arg(long = "out", default_value_t = 24, value_name = "CHANNELS")]
    output: usize,
    /// Expansion factor t [range: 1 to 65536]
    #[arg(long, default_value_t = 6, value_name = "T")]
    expansion: usize,
    /// Kernel height and width of the depthwise convolution, an odd number [range: 1 to 63]
    #[arg(long, default_value_t = 3, value_name = "PIXELS")]
    kernel: usize,
    /// Height and width of the input [range: 1 to 65536]
    #[arg(long, default_value_t = 56, value_name = "PIXELS")]
    size: usize,
    /// Stride [range: 1 to 65536]
    #[arg(long, default_value_t = 1, value_name = "PIXELS")]
    stride: usize,
}

#[derive(Args)]
struct MultipliersArgs {
    /// MobileNet; `kindling models` lists them
    #[arg(long, default_value = "mobilenet_v1", value_name = "NAME")]
    model: String,
}

/// Prints the explanation.
///
/// # Errors
/// A number of 0 or beyond reason, an even kernel, an unknown model.
pub fn explain(args: &ExplainArgs) -> Result<(), Error> {
    match &args.topic {
        Topic::Convolution(args) => convolution(args),
        Topic::InvertedResidual(args) => inverted(args),
        Topic::Inception(args) => inception::inception(args),
        Topic::Bneck(args) => bneck::bneck(args),
        Topic::HSwish => {
            h_swish();
            Ok(())
        }
        Topic::Multipliers(args) => multipliers(args),
    }
}

fn within(flag: &str, value: usize, most: usize) -> Result<(), Error> {
    match (1..=most).contains(&value) {
        true => Ok(()),
        false => Err(Error::usage(format!("--{flag}: `{value}`: expected 1 to {most}"))),
    }
}

fn odd(kernel: usize) -> Result<(), Error> {
    within("kernel", kernel, 63)?;
    match kernel % 2 {
        1 => Ok(()),
        _ => Err(Error::usage(format!("--kernel: `{kernel}`: expected an odd number"))),
    }
}

fn convolution(args: &ConvolutionArgs) -> Result<(), Error> {
    let ConvolutionArgs { kernel, input, output, size, stride } = *args;
    odd(kernel)?;
    for (flag, value) in [("in", input), ("out", output), ("size", size), ("stride", stride)] {
        within(flag, value, 65_536)?;
    }
    let standard = Conv::standard(input, output, kernel, stride);
    let separable = Separable::new(input, output, kernel, stride);
    let [side, _] = standard.output_size([size, size]);
    let (first, second) = (separable.depthwise, separable.pointwise);
    out!(
        "{input} channels of {size}x{size} to {output} of {side}x{side}, kernel {kernel}x{kernel}, stride {stride}\n"
    );
    out!("{:<22} {:>24} {:>12} {:>16}", "convolution", "weights", "", "multiply-adds");
    let line = |name: &str, how: String, weights: usize, adds: usize| {
        out!("{name:<22} {how:>24} {weights:>12} {adds:>16}");
    };
    let adds = standard.multiply_adds([size, size]);
    let dw = first.multiply_adds([size, size]);
    let pw = second.multiply_adds([side, side]);
    line("standard", format!("{kernel}*{kernel}*{input}*{output}"), standard.weights(), adds);
    line("depthwise", format!("{kernel}*{kernel}*{input}"), first.weights(), dw);
    line("pointwise", format!("{input}*{output}"), second.weights(), pw);
    let how = format!("{} + {}", first.weights(), second.weights());
    line("depthwise-separable", how, separable.weights(), dw + pw);
    let ratio = separable.weights() as f64 / standard.weights() as f64;
    out!(
        "\nratio 1/N + 1/Dk^2 = 1/{output} + 1/{} = {ratio:.4}: {:.2} times fewer weights",
        kernel * kernel,
        1.0 / ratio
    );
    let square = (kernel * kernel) as f64;
    // k^2 N / (N + k^2) >= k^2 - 1 from N = k^2 (k^2 - 1) on; it never reaches k^2.
    let from = square * (square - 1.0);
    out!(
        "with kernel {kernel} the saving stays below {square} and is at least {} from N = {from} on{}",
        square - 1.0,
        if kernel == 3 { " (\"8 to 9 times\", MobileNetV1, section 3.1)" } else { "" }
    );
    Ok(())
}

fn inverted(args: &InvertedResidualArgs) -> Result<(), Error> {
    let InvertedResidualArgs { input, output, expansion, kernel, size, stride } = *args;
    odd(kernel)?;
    let numbers = [
        ("in", input),
        ("out", output),
        ("size", size),
        ("stride", stride),
        ("expansion", expansion),
    ];
    for (flag, value) in numbers {
        within(flag, value, 65_536)?;
    }
    let hidden = input * expansion;
    let depthwise = Conv::depthwise(hidden, kernel, stride);
    let [side, _] = depthwise.output_size([size, size]);
    let rows = [
        ("1x1 expand, ReLU6", Conv::pointwise(input, hidden), size),
        ("depthwise, ReLU6", depthwise, size),
        ("1x1 project, linear", Conv::pointwise(hidden, output), side),
    ];
    out!(
        "inverted residual {input} -> {hidden} -> {output} at {size}x{size}, t = {expansion}, stride {stride}\n"
    );
    out!("{:<24} {:>10} {:>14} {:>16}", "layer", "weights", "multiply-adds", "output");
    let (mut weights, mut adds) = (0, 0);
    for (name, conv, at) in rows {
        if expansion == 1 && conv.is_pointwise() && name.contains("expand") {
            out!("{name:<24} {:>10}  (omitted, as t = 1)", "-");
            continue;
        }
        let [to, _] = conv.output_size([at, at]);
        let cost = conv.multiply_adds([at, at]);
        out!(
            "{name:<24} {:>10} {cost:>14} {:>16}",
            conv.weights(),
            format!("{}x{to}x{to}", conv.output)
        );
        (weights, adds) = (weights + conv.weights(), adds + cost);
    }
    let dense = Conv::standard(hidden, hidden, kernel, stride);
    out!("{:<24} {weights:>10} {adds:>14}", "together");
    out!(
        "\na standard {kernel}x{kernel} convolution at the same inner width {hidden} would hold {} weights, {:.0} \
         times as many",
        dense.weights(),
        dense.weights() as f64 / weights as f64
    );
    out!(
        "kept between blocks: {} values ({input} channels), inside: {} ({hidden} channels)",
        input * size * size,
        hidden * size * size
    );
    let residual = stride == 1 && input == output;
    out!(
        "the input is {}: stride 1 and equal widths are what it takes",
        if residual { "added to the output" } else { "not added" }
    );
    Ok(())
}

fn h_swish() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let hard = |x: f64| (x + 3.0).clamp(0.0, 6.0) / 6.0;
    out!("h-sigmoid(x) = min(max(x + 3, 0), 6) / 6;  h-swish(x) = x * h-sigmoid(x)\n");
    out!("{:>6} {:>9} {:>10} {:>9} {:>9}", "x", "sigmoid", "h-sigmoid", "swish", "h-swish");
    for half in (-8..=8).map(f64::from) {
        let x = half / 2.0;
        out!(
            "{x:>6.1} {:>9.4} {:>10.4} {:>9.4} {:>9.4}",
            sigmoid(x),
            hard(x),
            x * sigmoid(x),
            x * hard(x)
        );
    }
    let worst = (-800..=800)
        .map(|i| f64::from(i) / 100.0)
        .map(|x| (x * hard(x) - x * sigmoid(x)).abs())
        .fold(0.0, f64::max);
    out!(
        "\nlargest difference of h-swish and swish on [-8, 8]: {worst:.4}; minimum -0.375 at x = -1.5"
    );
    out!("slope of h-sigmoid 1/6 (Keras' and ONNX' default 0.2 is another function)");
}

fn multipliers(args: &MultipliersArgs) -> Result<(), Error> {
    let variant = variant(&args.model)?;
    let mut config = variant.config(1000);
    config.width = 0.5;
    config.validate().map_err(|why| Error::usage(format!("--model: {why}")))?;
    let sizes = [224, 192, 160, 128];
    out!("{}: multiply-adds (M) and parameters (M)", variant.name);
    if config.scaling == Scaling::Paper {
        out!("widths below 1 keep the head, as in the paper");
    }
    let heads: String = sizes.iter().map(|s| format!("{s:>10}")).collect();
    out!("\n{:>6} {heads} {:>12} {:>12}", "width", "parameters", "of width 1");
    let full = cost(&variant.config(1000), 224, 224);
    for width in [1.0, 0.75, 0.5, 0.25] {
        config.width = width;
        let mut row = String::new();
        for size in sizes {
            size_or_native(Some(size), config.architecture)?;
            row += &format!("{:>10.1}", cost(&config, size, size).multiply_adds as f64 / 1e6);
        }
        let own = cost(&config, 224, 224);
        out!(
            "{width:>6} {row} {:>12.2} {:>11.1}%",
            own.parameters as f64 / 1e6,
            100.0 * own.multiply_adds as f64 / full.multiply_adds as f64
        );
    }
    out!(
        "\nwidth alpha scales a pointwise layer by about alpha^2, a resolution rho every layer by rho^2"
    );
    Ok(())
}
