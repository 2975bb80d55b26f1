//! `kindling explain inception`: a module of GoogLeNet in numbers, and the way from it to the
//! separable convolution.

use clap::Args;
use nn::block::inception::{SimplifiedInception, grouped_towers};
use nn::block::separable::Separable;
use nn::geometry::Conv;
use nn::models::googlenet::modules;

use crate::error::Error;
use crate::out;
use crate::suggest::did_you_mean;

/// Arguments of `kindling explain inception`.
#[derive(Args)]
pub(super) struct InceptionArgs {
    /// Row of GoogLeNet's table 1, 3a to 5b
    #[arg(long, default_value = "3a", value_name = "ROW")]
    module: String,
}

/// Prints a module's branches, the steps to the separable convolution, and their identity,
/// computed.
pub(super) fn inception(args: &InceptionArgs) -> Result<(), Error> {
    let names: Vec<String> = modules().map(|(name, ..)| name.to_owned()).collect();
    let Some((name, module, side)) = modules().find(|(name, ..)| *name == args.module) else {
        let near = did_you_mean(&args.module, &names);
        return Err(Error::usage(format!(
            "--module {}: no row of table 1{near}; there are {}",
            args.module,
            names.join(", ")
        )));
    };
    let size = [side, side];
    let output = module.output();
    out!(
        "GoogLeNet, module {name} (table 1): {} channels of {side}x{side}\n\
         {} | {}-{} | {}-{} | pool-{} = {output} channels of {side}x{side}\n",
        module.input,
        module.one,
        module.three[0],
        module.three[1],
        module.five[0],
        module.five[1],
        module.pool
    );
    out!("{:<14} {:<24} {:>9} {:>15}", "branch", "layers", "weights", "multiply-adds");
    let convs = module.convolutions(5).map(|(_, conv)| conv);
    let branches: [(&str, &str, &[Conv]); 4] = [
        ("#1x1", "", &convs[..1]),
        ("#3x3", "", &convs[1..3]),
        ("#5x5", "", &convs[3..5]),
        ("pool proj", "max pool 3x3, ", &convs[5..]),
    ];
    let (mut weights, mut adds) = (0, 0);
    for (branch, before, convs) in branches {
        let layers: Vec<String> = convs
            .iter()
            .map(|conv| format!("{0}x{0} to {1}", conv.kernel[0], conv.output))
            .collect();
        let own: usize = convs.iter().map(Conv::weights).sum();
        let cost: usize = convs.iter().map(|conv| conv.multiply_adds(size)).sum();
        out!("{branch:<14} {:<24} {own:>9} {cost:>15}", format!("{before}{}", layers.join(", ")));
        (weights, adds) = (weights + own, adds + cost);
    }
    out!("{:<14} {:<24} {weights:>9} {adds:>15}", "concatenated", format!("{output} channels"));
    let naive = Conv::standard(module.input, module.three[1], 3, 1).weights()
        + Conv::standard(module.input, module.five[1], 5, 1).weights()
        + convs[0].weights()
        + convs[5].weights();
    out!(
        "\nwithout the 1x1 convolutions before 3x3 and 5x5 (as in figure 2a): {naive} weights, {:.2} times as many",
        naive as f64 / weights as f64
    );
    way(output, side);
    Ok(())
}

/// From the 5x5 convolution to the separable one, at equal channels in and out.
fn way(channels: usize, side: usize) {
    let size = [side, side];
    let conv = |kernel| Conv::standard(channels, channels, kernel, 1);
    let line = |name: &str, source: &str, weights: usize, adds: usize| {
        out!("{name:<38} {source:<22} {weights:>8} {adds:>11}");
    };
    out!("\nthe way from there, {channels} channels of {side}x{side} to as many:\n");
    out!("{:<38} {:<22} {:>8} {:>11}", "layers", "source", "weights", "M mult-adds");
    let cost = |convs: &[Conv]| {
        let weights: usize = convs.iter().map(Conv::weights).sum();
        let adds: usize = convs.iter().map(|conv| conv.multiply_adds(size)).sum();
        (weights, adds)
    };
    let strips = [conv(1).with_kernel([1, 3]), conv(1).with_kernel([3, 1])];
    let one = Conv::pointwise(channels, channels);
    let towers = SimplifiedInception::spatial(channels, 4);
    let separable = Separable::new(channels, channels, 3, 1);
    let extreme = SimplifiedInception::spatial(channels, channels);
    let steps: [(&str, &str, &[Conv]); 7] = [
        ("5x5", "Inception v1", &[conv(5)]),
        ("3x3, 3x3: the same field of view", "v3, figure 5", &[conv(3), conv(3)]),
        ("1x3, 3x1: that of one 3x3", "v3, figure 6", &strips),
        ("1x1, 3x3 (one tower)", "Xception, figure 2", &[one, conv(3)]),
        ("1x1, 3x3 in 4 towers", "Xception, figure 3", &[one, towers]),
        ("1x1, 3x3 in one tower a channel", "Xception, figure 4", &[one, extreme]),
        (
            "3x3 depthwise, 1x1: separable",
            "Xception, MobileNet",
            &[separable.depthwise, separable.pointwise],
        ),
    ];
    for (name, source, convs) in steps {
        let (weights, adds) = cost(convs);
        let adds = (adds as f64 / 1e6).round() as usize;
        line(name, source, weights, adds);
    }
    out!(
        "\ntowers of 1x1 and 3x3 side by side are one 1x1 and one grouped 3x3 convolution; computed here in \
         f64,\nlargest difference: {:.0e} (2 towers), {:.0e} (4), {:.0e} (one a channel)",
        grouped_towers(8, 8, 2),
        grouped_towers(8, 8, 4),
        grouped_towers(8, 8, 8)
    );
    out!(
        "the extreme form and the separable convolution differ in the order of their two layers alone"
    );
}
