//! A confusion matrix: rows are the true classes, columns the predicted ones.

use crate::plot::svg::{Svg, shortened};

/// Most classes whose matrix can be read.
pub const MOST: usize = 50;

/// Most classes whose counts stand in the cells.
const NUMBERED: usize = 20;

/// Letters of a class name.
const LETTERS: usize = 18;

/// The matrix as SVG. `count(truth, predicted)` is a number of images; a row is shaded by its
/// share.
pub fn confusion(classes: &[String], count: impl Fn(usize, usize) -> u64) -> String {
    let side = match classes.len() {
        ..=12 => 40.0,
        13..=NUMBERED => 30.0,
        _ => 16.0,
    };
    let longest = classes.iter().map(|class| class.chars().count().min(LETTERS)).max().unwrap_or(1);
    let margin = 34.0 + 7.0 * longest as f64;
    let size = classes.len() as f64 * side;
    let (width, height) = (margin + size + 12.0, margin + size + 12.0);
    let mut svg = Svg::new(
        width.max(320.0),
        height,
        "Confusion matrix: rows are true classes, columns predicted ones; shades are shares of the row",
    );
    svg.word([margin + size / 2.0, 14.0], "middle", "muted", "predicted class");
    svg.add(&format!(
        "<text transform=\"translate(13 {:.1}) rotate(-90)\" text-anchor=\"middle\" \
         class=\"muted\">true class</text>",
        margin + size / 2.0
    ));
    for (truth, class) in classes.iter().enumerate() {
        let top = margin + truth as f64 * side;
        let name = shortened(class, LETTERS);
        svg.word([margin - 6.0, top + side / 2.0 + 4.0], "end", "", &name);
        svg.add(&format!(
            "<text transform=\"translate({:.1} {:.1}) rotate(-90)\">{}</text>",
            top + side / 2.0 + 4.0,
            margin - 6.0,
            crate::plot::svg::escape(&name)
        ));
        let images: u64 = (0..classes.len()).map(|predicted| count(truth, predicted)).sum();
        for (predicted, guess) in classes.iter().enumerate() {
            let (here, left) = (count(truth, predicted), margin + predicted as f64 * side);
            let share = here as f64 / images.max(1) as f64;
            let colour = u8::from(truth != predicted);
            // A single mistake among a thousand has to be seen.
            let shade = if here == 0 { 0.03 } else { 0.12 + 0.8 * share };
            svg.add(&format!(
                "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"2\" \
                 fill=\"var(--c{colour})\" fill-opacity=\"{shade:.2}\"><title>{} taken for {}: {here} of \
                 {images}</title></rect>",
                side - 2.0,
                side - 2.0,
                crate::plot::svg::escape(class),
                crate::plot::svg::escape(guess)
            ));
            if here > 0 && classes.len() <= NUMBERED {
                let at = [left + side / 2.0 - 1.0, top + side / 2.0 + 4.0];
                let light = shade > 0.6;
                let style = if light { " style=\"fill:var(--paper)\"" } else { "" };
                svg.add(&format!(
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\"{style}>{here}</text>",
                    at[0], at[1]
                ));
            }
        }
    }
    svg.finish()
}
