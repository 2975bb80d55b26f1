//! A reliability diagram: how often the network is right where it is so sure.

use crate::plot::scale::Scale;
use crate::plot::svg::Svg;

/// A bin of confidences.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bin {
    /// Images.
    pub images: u64,
    /// Share of them that is right.
    pub accuracy: f64,
    /// Mean confidence.
    pub confidence: f64,
}

/// The diagram as SVG.
pub fn reliability(bins: &[Bin]) -> String {
    let (width, height) = (520.0, 300.0);
    let (left, right, top, bottom) = (56.0, width - 16.0, 34.0, height - 44.0);
    let mut svg = Svg::new(width, height, "Reliability: accuracy over confidence");
    svg.add(&format!(
        "<text x=\"{left}\" y=\"18\" font-size=\"14\" font-weight=\"600\">Accuracy where the network is so sure</text>"
    ));
    let x = Scale { values: [0.0, 100.0], pixels: [left, right], log: false };
    let y = Scale { values: [0.0, 100.0], pixels: [bottom, top], log: false };
    for tick in [0.0, 20.0, 40.0, 60.0, 80.0, 100.0] {
        svg.line([left, y.at(tick)], [right, y.at(tick)], "grid");
        svg.word([left - 6.0, y.at(tick) + 4.0], "end", "muted", &format!("{tick:.0}"));
        svg.word([x.at(tick), bottom + 17.0], "middle", "muted", &format!("{tick:.0}"));
    }
    for (number, bin) in bins.iter().enumerate().filter(|(_, bin)| bin.images > 0) {
        let edge = |number: usize| x.at(100.0 * number as f64 / bins.len() as f64);
        let at = y.at(100.0 * bin.accuracy);
        svg.add(&format!(
            "<rect x=\"{:.1}\" y=\"{at:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"var(--c0)\" \
             fill-opacity=\".75\"><title>{} images: {:.1} % right at a confidence of {:.1} %</title></rect>",
            edge(number) + 1.0,
            edge(number + 1) - edge(number) - 2.0,
            (bottom - at).max(1.0),
            bin.images,
            100.0 * bin.accuracy,
            100.0 * bin.confidence
        ));
    }
    svg.add(&format!(
        "<path d=\"M{left} {bottom}L{right} {top}\" stroke=\"var(--c1)\" stroke-dasharray=\"5 4\"/>"
    ));
    svg.word([f64::midpoint(left, right), height - 8.0], "middle", "muted", "confidence, %");
    svg.add(&format!(
        "<text transform=\"translate(13 {:.1}) rotate(-90)\" text-anchor=\"middle\" \
         class=\"muted\">right, %</text>",
        f64::midpoint(top, bottom)
    ));
    svg.finish()
}
