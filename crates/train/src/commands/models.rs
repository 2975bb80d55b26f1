//! `kindling models`: the variants with their size, cost and published accuracy.

use clap::Args;
use nn::cost::cost;
use nn::models::variants::VARIANTS;

use crate::out;
use crate::published_weights::PublishedWeights;
use crate::terminal::{width, wrapped};

/// The arguments of `kindling models`.
#[derive(Args)]
pub struct ModelsArgs {
    /// List the published weights that `train` fetches [default: the models]
    #[arg(long)]
    weights: bool,
    /// Print the weights as JSON [default: a table]
    #[arg(long, requires = "weights")]
    json: bool,
}

/// Lists the models, or the published weights.
pub fn models(args: &ModelsArgs) {
    match args.weights {
        true => weights(args.json),
        false => variants(),
    }
}

/// Prints the published weights.
fn weights(json: bool) {
    let all = PublishedWeights::all();
    if json {
        let rows: Vec<serde_json::Value> = all
            .iter()
            .map(|weights| {
                let mut row = serde_json::to_value(weights).expect("plain data");
                let path = weights.path();
                row["cached"] = path.exists().into();
                row["path"] = path.to_string_lossy().into();
                row
            })
            .collect();
        out!("{}", serde_json::to_string_pretty(&rows).expect("plain data"));
        return;
    }
    out!("{:<42} {:>6} {:>6} {:>5}  {:<12} here", "weights", "top-1", "top-5", "MB", "licence");
    for weights in all {
        out!(
            "{:<42} {:>6.2} {:>6} {:>5.0}  {:<12} {}",
            weights.name,
            weights.top1,
            weights.top5.map_or_else(|| "-".to_owned(), |top5| format!("{top5:.2}")),
            weights.megabytes,
            weights.licence,
            if weights.path().exists() { "yes" } else { "-" }
        );
    }
    out!("accuracy on ImageNet-1k as published, percent; addresses and files: --json");
}

/// Prints one line for each variant, 80 columns wide.
fn variants() {
    out!(
        "{:<33}{:>4} {:>7} {:>9} {:>6} {:>6}  source",
        "model",
        "size",
        "M param",
        "M mul-add",
        "top-1",
        "top-5"
    );
    let percent = |p: Option<f64>| p.map_or_else(|| "-".to_owned(), |p| format!("{p:.2}"));
    for v in VARIANTS {
        let size = v.architecture.native_size();
        let cost = cost(&v.config(1000), size, size);
        out!(
            "{:<33}{size:>4} {:>7.2} {:>9.0} {:>6} {:>6}  {}",
            v.name,
            cost.parameters as f64 / 1e6,
            cost.multiply_adds as f64 / 1e6,
            percent(v.top1),
            percent(v.top5),
            v.source
        );
    }
    let legend = "for 1000 classes; multiply-adds of convolutions and linear layers; accuracy on ImageNet-1k as \
                  published, not measured here; any width with --width; `kindling summary MODEL` has exact numbers";
    out!("{}", wrapped(legend, width(), 0));
}
