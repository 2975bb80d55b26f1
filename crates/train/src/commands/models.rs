//! `kindling models`: the variants with their size, cost and published accuracy.

use nn::cost::cost;
use nn::models::variants::VARIANTS;

use crate::out;

/// Prints one line for each variant.
pub fn models() {
    out!(
        "{:<32} {:>6} {:>5} {:>11} {:>14} {:>7} {:>7}  source",
        "model",
        "width",
        "size",
        "parameters",
        "multiply-adds",
        "top-1",
        "top-5"
    );
    let percent = |p: Option<f64>| p.map_or_else(|| "-".to_owned(), |p| format!("{p:.2}"));
    for v in VARIANTS {
        let size = v.architecture.native_size();
        let cost = cost(&v.config(1000), size, size);
        out!(
            "{:<32} {:>6} {size:>5} {:>11} {:>14} {:>7} {:>7}  {}",
            v.name,
            v.width,
            cost.parameters,
            cost.multiply_adds,
            percent(v.top1),
            percent(v.top5),
            v.source
        );
    }
    out!(
        "for 1000 classes; multiply-adds of convolutions and linear layers; accuracy on ImageNet-1k as \
         published, not measured here; any width with --width"
    );
}
