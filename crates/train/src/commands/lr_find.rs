//! `kindling lr-find`: the loss along an exponentially rising learning rate (arXiv:1506.01186,
//! section 3.3), as CSV and as a drawing, and a suggestion.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::commands::plan_args;
use crate::commands::svg::Svg;
use crate::config::options::Options;
use crate::config::output::LogFormat;
use crate::datasets::loader::Mode;
use crate::error::Error;
use crate::files::write_atomically;
use crate::learner::forward_backward::{dropout_seed, forward};
use crate::optimizers::gradients::Gradients;
use crate::out;
use crate::run::build_objective::build_objective;
use crate::run::logger::Logger;
use crate::run::open_data;
use crate::run::state::RunContext;

/// Weight of the past in the smoothed loss.
const SMOOTH: f64 = 0.9;
/// The search ends when the smoothed loss is so many times the least one.
const BLOWN: f64 = 4.0;

/// Arguments of `kindling lr-find`.
#[derive(Args)]
pub struct LrFindArgs {
    #[command(flatten)]
    options: Options,
    /// TOML file of options, like `args.toml` of a run [default: none]
    #[arg(short, long, value_name = "FILE", help_heading = "Training")]
    config: Option<PathBuf>,
    /// Learning rate of the first step [range: above 0, below --lr-last]
    #[arg(long, default_value_t = 1e-6, value_name = "LR", help_heading = "Learning-rate search")]
    lr_first: f64,
    /// Learning rate of the last step [range: above --lr-first]
    #[arg(long, default_value_t = 1.0, value_name = "LR", help_heading = "Learning-rate search")]
    lr_last: f64,
    /// Steps of the search [range: at least 10]
    #[arg(long, default_value_t = 100, value_name = "N", help_heading = "Learning-rate search")]
    #[arg(value_parser = clap::value_parser!(u64).range(10..))]
    steps: u64,
    /// CSV file of the losses; the drawing is beside it as .svg
    #[arg(long, value_name = "FILE", default_value = "lr-find.csv")]
    #[arg(help_heading = "Learning-rate search")]
    csv: PathBuf,
}

/// A step of the search.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    lr: f64,
    loss: f64,
    smooth: f64,
}

/// What the curve says.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Suggestion {
    /// Where the loss falls fastest.
    steepest: f64,
    /// A tenth of where it begins to rise for good.
    tenth: f64,
}

/// Runs the subcommand.
///
/// # Errors
/// Faults of options, data, backend and files; a loss that is not finite from the first step on.
pub fn lr_find(args: &LrFindArgs) -> Result<(), Error> {
    if !(args.lr_first > 0.0 && args.lr_last > args.lr_first && args.lr_last.is_finite()) {
        return Err(Error::usage("--lr-first: expected a number above 0 and below --lr-last"));
    }
    if args.csv.extension().is_some_and(|own| own == "svg") {
        return Err(Error::usage(format!(
            "--csv {}: the drawing gets this name; give one ending in .csv",
            args.csv.display()
        )));
    }
    let plan = plan_args::plan(&args.options, args.config.as_deref())?;
    let chosen = plan.machine.backend.open()?;
    let autodiff_device = chosen.device.clone().autodiff();
    let train = Arc::new(open_data::open(&plan)?.0);
    let (objective, _) = build_objective(&plan, &train, &chosen.device)?;
    let context = RunContext::new(&plan, &train, &autodiff_device)?;
    let mut state = context.initial_state(&Logger::new(1, LogFormat::Text))?;
    let loader =
        open_data::loader(&plan, &train, Mode::Train(plan.augment()), plan.training.batch_size)
            .caching(&open_data::caching(&plan));
    let batches = (0..).flat_map(|epoch| {
        loader.epoch(epoch, 0).enumerate().map(move |(number, batch)| (epoch, number + 1, batch))
    });
    let mut points: Vec<Point> = Vec::new();
    let rise = (args.lr_last / args.lr_first).ln() / (args.steps - 1) as f64;
    let (mut mean, mut least) = (0.0, f64::INFINITY);
    for (step, (epoch, number, batch)) in batches.take(args.steps as usize).enumerate() {
        let mut batch = batch?;
        if batch.labels.is_empty() {
            continue;
        }
        let lr = args.lr_first * (rise * step as f64).exp();
        let dropout = dropout_seed(plan.training.seed, epoch, number);
        let forward =
            forward(&state.network, &objective, &mut batch, 1.0, dropout, &autodiff_device)?;
        let loss = forward.loss;
        mean = SMOOTH * mean + (1.0 - SMOOTH) * loss;
        let smooth = mean / (1.0 - SMOOTH.powi(points.len() as i32 + 1));
        least = least.min(smooth);
        if !loss.is_finite() || (points.len() > 10 && smooth > BLOWN * least) {
            break;
        }
        points.push(Point { lr, loss, smooth });
        let mut gradients = Gradients::take(&state.network, forward.gradients(&state.network)?);
        let norm = gradients.norm();
        if !norm.is_finite() {
            break;
        }
        if plan.optimizer.clip_grad > 0.0 {
            let (mode, limit) = (plan.optimizer.clip_mode, plan.optimizer.clip_grad);
            gradients.clip(mode, limit, norm, &state.network, state.optimizer.groups());
        }
        state.network = state.optimizer.apply(lr, state.network, gradients);
    }
    let found = suggestion(&points).ok_or_else(|| {
        Error::diverged(format!(
            "{} steps before the loss was not finite or four times its least; lower --lr-first",
            points.len()
        ))
    })?;
    let mut text = "lr,loss,smoothed\n".to_owned();
    for p in &points {
        let _ = writeln!(text, "{:.6e},{:.6},{:.6}", p.lr, p.loss, p.smooth);
    }
    write_atomically(&args.csv, text.as_bytes())?;
    let svg_path = args.csv.with_extension("svg");
    write_atomically(&svg_path, drawing(&points, found).as_bytes())?;
    out!("{} steps, {} and {}", points.len(), args.csv.display(), svg_path.display());
    out!("steepest descent       {:.2e}", found.steepest);
    out!("a tenth of the blow-up {:.2e}", found.tenth);
    out!("suggestion: --lr {:.1e}", found.steepest.min(found.tenth));
    Ok(())
}

/// The steepest descent over the logarithm of the rate, and a tenth of the rate of the least
/// smoothed loss; from too few points, nothing.
fn suggestion(points: &[Point]) -> Option<Suggestion> {
    let least = points.iter().min_by(|a, b| a.smooth.total_cmp(&b.smooth))?;
    let before = points.iter().take_while(|p| p.lr <= least.lr).count();
    if points.len() < 10 {
        return None;
    }
    // Over five steps: a single one is noise.
    let steepest = points[..before.max(6)]
        .windows(6)
        .min_by(|a, b| (a[5].smooth - a[0].smooth).total_cmp(&(b[5].smooth - b[0].smooth)))?[2]
        .lr;
    Some(Suggestion { steepest, tenth: least.lr / 10.0 })
}

/// Left, right, top and bottom of the curve in the drawing of 720 by 420.
const FRAME: [f64; 4] = [70.0, 700.0, 64.0, 370.0];

/// A drawing: the losses as dots, the smoothed one as a line, the suggestions upright, their words
/// above the curve.
fn drawing(points: &[Point], found: Suggestion) -> String {
    let [left, right, top, bottom] = FRAME;
    let first = points.first().map_or(1e-6, |p| p.lr).log10();
    let last = points.last().map_or(1.0, |p| p.lr).log10();
    // The scale is that of the smoothed loss: a single dot may lie above it and is left out.
    let low = points.iter().map(|p| p.smooth.min(p.loss)).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|p| p.smooth).fold(f64::NEG_INFINITY, f64::max);
    let (low, high) = (low - 0.05 * (high - low), high + 0.1 * (high - low).max(1e-9));
    let x = |lr: f64| left + (right - left) * (lr.log10() - first) / (last - first).max(1e-9);
    let y = |loss: f64| bottom - (bottom - top) * (loss - low) / (high - low);
    let mut svg = Svg::new(720, 420, 12);
    for (lr, words) in ticks(first, last) {
        let at = x(lr);
        svg.add(&format!("<path d=\"M{at:.1} {top} V{bottom}\" stroke=\"#ddd\"/>"));
        svg.add(&format!("<text x=\"{at:.1}\" y=\"388\" text-anchor=\"middle\">{words}</text>"));
    }
    let digits = if high - low < 0.2 { 4 } else { 2 };
    for i in 0..=4 {
        let loss = low + (high - low) * f64::from(i) / 4.0;
        let at = y(loss);
        svg.add(&format!("<path d=\"M{left} {at:.1} H{right}\" stroke=\"#ddd\"/>"));
        svg.add(&format!(
            "<text x=\"62\" y=\"{:.1}\" text-anchor=\"end\">{loss:.digits$}</text>",
            at + 4.0
        ));
    }
    for p in points.iter().filter(|p| p.loss <= high) {
        let (x, y) = (x(p.lr), y(p.loss));
        svg.add(&format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\" fill=\"#9bc\"/>"));
    }
    svg.curve(points.iter().map(|p| [x(p.lr), y(p.smooth)]), "#036");
    let inside = |lr: f64| x(lr.clamp(10.0_f64.powf(first), 10.0_f64.powf(last)));
    let lines = [(found.steepest, "#c30", "steepest"), (found.tenth, "#393", "blow-up / 10")];
    let label_positions = label_positions(lines.map(|(lr, ..)| inside(lr)));
    for ((lr, colour, word), label) in lines.into_iter().zip(label_positions) {
        let Label { at, height, side } = label;
        svg.add(&format!(
            "<path d=\"M{at:.1} {:.1} V{bottom}\" stroke=\"{colour}\" stroke-dasharray=\"4\"/>",
            height - 10.0
        ));
        let anchor = if side < 0.0 { "end" } else { "start" };
        svg.add(&format!(
            "<text x=\"{:.1}\" y=\"{height}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{word} {lr:.1e}</text>",
            at + 4.0 * side
        ));
    }
    svg.add("<text x=\"385\" y=\"410\" text-anchor=\"middle\">learning rate</text>");
    svg.add("<text x=\"385\" y=\"18\" text-anchor=\"middle\">loss of a batch, and smoothed</text>");
    svg.finish()
}

/// Powers of ten between two exponents, as many as have room for their words; where there are fewer
/// than two, both ends.
fn ticks(first: f64, last: f64) -> Vec<(f64, String)> {
    let powers = first.ceil() as i32..=last.floor() as i32;
    let width = (FRAME[1] - FRAME[0]) / (last - first).max(1e-9);
    let every = (45.0 / width).ceil().max(1.0) as usize;
    let found: Vec<(f64, String)> =
        powers.step_by(every).map(|p| (10.0_f64.powi(p), format!("1e{p}"))).collect();
    if found.len() > 1 {
        return found;
    }
    [first, last].map(|end| 10.0_f64.powf(end)).map(|lr| (lr, format!("{lr:.1e}"))).to_vec()
}

/// Where the words of an upright line stand.
#[derive(Clone, Copy, Debug)]
struct Label {
    /// The x of the line.
    at: f64,
    /// Base line of the words.
    height: f64,
    /// Left of the line (-1) or right of it (1).
    side: f64,
}

impl Label {
    /// The words take less than this.
    const WIDTH: f64 = 130.0;

    fn span(self) -> [f64; 2] {
        let end = self.at + self.side * Self::WIDTH;
        [self.at.min(end), self.at.max(end)]
    }

    /// Whether the words are within the drawing, and no longer line than their own goes through
    /// them.
    fn is_free(self, other: Label) -> bool {
        let [from, to] = self.span();
        let apart = (other.at - self.at) * self.side;
        let crossed = other.height < self.height && apart > 1.0 && apart < Self::WIDTH;
        from >= 0.0 && to <= 720.0 && !crossed
    }
}

/// The words of two lines in two rows above the curve, such that no line goes through the words of
/// the other.
fn label_positions(at: [f64; 2]) -> [Label; 2] {
    let rows = [[34.0, 52.0], [52.0, 34.0]];
    let sides = [[-1.0, 1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, -1.0]];
    let label = |i: usize, rows: [f64; 2], sides: [f64; 2]| Label {
        at: at[i],
        height: rows[i],
        side: sides[i],
    };
    let all = rows
        .into_iter()
        .flat_map(|rows| sides.into_iter().map(move |sides| [0, 1].map(|i| label(i, rows, sides))));
    let mut free = all.filter(|[a, b]| a.is_free(*b) && b.is_free(*a));
    free.next().expect("the lower row has room on the side away from the other line")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A valley whose slope is steepest at 1e-3 and whose floor is at 1e-1. Mutations caught: the
    /// steepest ascent.
    #[test]
    fn the_suggestions_are_the_slope_and_a_tenth_of_the_floor() {
        let points: Vec<Point> = (0..61)
            .map(|i| {
                let power = -6.0 + 0.1 * f64::from(i);
                let fall = 2.0 / (1.0 + ((power + 3.0) * 4.0).exp());
                let climb = if power > -1.0 { (power + 1.0) * 3.0 } else { 0.0 };
                let loss = fall + climb;
                Point { lr: 10.0_f64.powf(power), loss, smooth: loss }
            })
            .collect();
        let found = suggestion(&points).unwrap();
        assert!((found.steepest.log10() + 3.0).abs() < 0.2, "{found:?}");
        assert!((found.tenth.log10() + 2.0).abs() < 0.05, "{found:?}");
        assert!(suggestion(&points[..5]).is_none());
        let drawing = drawing(&points, found);
        assert_eq!(drawing.matches("<circle").count(), points.len());
    }

    /// Wherever the two lines stand. Mutations caught: the rows fixed.
    #[test]
    fn no_line_goes_through_the_words_of_the_other() {
        for a in 70..=700 {
            for b in (70..=700).step_by(7).chain([a]) {
                let [one, two] = label_positions([f64::from(a), f64::from(b)]);
                assert_ne!(one.height, two.height);
                let upper = if one.height < two.height { one } else { two };
                let lower = if one.height < two.height { two } else { one };
                for label in [upper, lower] {
                    let [from, to] = label.span();
                    assert!(from >= 0.0 && to <= 720.0, "{label:?}");
                }
                // The upper one's line goes down beside the lower one's words, or along its own
                // line.
                let apart = (upper.at - lower.at) * lower.side;
                assert!(apart <= 1.0 || apart >= Label::WIDTH, "{upper:?} {lower:?}");
            }
        }
    }

    /// Mutations caught: the powers alone, however few.
    #[test]
    fn ticks_have_room_and_there_are_some() {
        for (first, last) in [(-30.0, 0.0), (-6.0, 0.0), (-3.0, -2.8), (-5.2, -1.1), (-100.0, 2.0)]
        {
            let ticks = ticks(first, last);
            assert!((2..=16).contains(&ticks.len()), "{first} {last}: {ticks:?}");
            let apart = (ticks[1].0.log10() - ticks[0].0.log10()) * 630.0 / (last - first);
            assert!(apart > 40.0, "{first} {last}: {apart}");
        }
    }
}
