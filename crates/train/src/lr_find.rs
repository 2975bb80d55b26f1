//! `kindling lr-find`: the loss along an exponentially rising learning rate (arXiv:1506.01186, section 3.3), as CSV
//! and as a drawing, and a suggestion.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::checkpoint::write_atomically;
use crate::failure::Failure;
use crate::fit;
use crate::gradients::Gradients;
use crate::journal::{Journal, LogFormat};
use crate::lesson::{dropout_seed, lesson};
use crate::loader::Mode;
use crate::objective::Objective;
use crate::options::Options;
use crate::out;
use crate::state::Setup;

/// Weight of the past in the smoothed loss.
const SMOOTH: f64 = 0.9;
/// The search ends when the smoothed loss is so many times the least one.
const BLOWN: f64 = 4.0;

/// The words of `kindling lr-find`.
#[derive(Args)]
pub struct LrFind {
    #[command(flatten)]
    options: Options,
    /// TOML file with any of the options
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// First learning rate
    #[arg(long, default_value_t = 1e-6)]
    lr_first: f64,
    /// Last learning rate
    #[arg(long, default_value_t = 1.0)]
    lr_last: f64,
    /// Steps from the one to the other
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(10..))]
    steps: u64,
    /// Where the table goes; the drawing beside it as .svg
    #[arg(long, value_name = "FILE", default_value = "lr-find.csv")]
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
pub fn lr_find(args: &LrFind) -> Result<(), Failure> {
    if !(args.lr_first > 0.0 && args.lr_last > args.lr_first && args.lr_last.is_finite()) {
        return Err(Failure::usage("--lr-first: expected a number above 0 and below --lr-last"));
    }
    let options = match &args.config {
        Some(path) => args.options.over(&Options::read(path)?),
        None => args.options.over(&Options::default()),
    };
    let plan = crate::selection::follow_weights(options)?.plan()?;
    let chosen = plan.backend.open()?;
    let tape = chosen.device.clone().autodiff();
    let train = Arc::new(fit::open(&plan)?.0);
    let objective = Objective::new(&plan, &train, &chosen.device)?;
    let setup = Setup::new(&plan, &train, &tape)?;
    let mut state = setup.begin(&Journal::new(1, LogFormat::Text))?;
    let loader = fit::loader(&plan, &train, Mode::Train(plan.augment()), plan.batch_size);
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
        let dropout = dropout_seed(plan.seed, epoch, number);
        let lesson = lesson(&state.network, &objective, &mut batch, 1.0, dropout, &tape)?;
        let loss = lesson.loss;
        mean = SMOOTH * mean + (1.0 - SMOOTH) * loss;
        let smooth = mean / (1.0 - SMOOTH.powi(points.len() as i32 + 1));
        least = least.min(smooth);
        if !loss.is_finite() || (points.len() > 10 && smooth > BLOWN * least) {
            break;
        }
        points.push(Point { lr, loss, smooth });
        let mut gradients = Gradients::take(&state.network, lesson.gradients(&state.network)?);
        let norm = gradients.norm();
        if !norm.is_finite() {
            break;
        }
        if plan.clip_grad > 0.0 {
            let (mode, limit) = (plan.clip_mode, plan.clip_grad);
            gradients.clip(mode, limit, norm, &state.network, state.optimizer.settings());
        }
        state.network = state.optimizer.apply(lr, state.network, gradients);
    }
    let found = suggestion(&points).ok_or_else(|| {
        Failure::diverged(format!(
            "{} steps before the loss was not finite or four times its least; lower --lr-first",
            points.len()
        ))
    })?;
    let mut text = "lr,loss,smoothed\n".to_owned();
    for p in &points {
        let _ = writeln!(text, "{:.6e},{:.6},{:.6}", p.lr, p.loss, p.smooth);
    }
    write_atomically(&args.csv, text.as_bytes())?;
    let drawing = args.csv.with_extension("svg");
    write_atomically(&drawing, svg(&points, found).as_bytes())?;
    out!("{} steps, {} and {}", points.len(), args.csv.display(), drawing.display());
    out!("steepest descent       {:.2e}", found.steepest);
    out!("a tenth of the blow-up {:.2e}", found.tenth);
    out!("suggestion: --lr {:.1e}", found.steepest.min(found.tenth));
    Ok(())
}

/// The steepest descent over the logarithm of the rate, and a tenth of the rate of the least smoothed loss; from too
/// few points, nothing.
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

/// A drawing, 720 by 420: the losses as dots, the smoothed one as a line, the suggestions upright.
fn svg(points: &[Point], found: Suggestion) -> String {
    let (left, right, top, bottom) = (70.0, 700.0, 30.0, 370.0);
    let first = points.first().map_or(1e-6, |p| p.lr).log10();
    let last = points.last().map_or(1.0, |p| p.lr).log10();
    // The scale is that of the smoothed loss: a single dot may lie above it and is left out.
    let low = points.iter().map(|p| p.smooth.min(p.loss)).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|p| p.smooth).fold(f64::NEG_INFINITY, f64::max);
    let (low, high) = (low - 0.05 * (high - low), high + 0.1 * (high - low).max(1e-9));
    let x = |lr: f64| left + (right - left) * (lr.log10() - first) / (last - first).max(1e-9);
    let y = |loss: f64| bottom - (bottom - top) * (loss - low) / (high - low);
    let mut text = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"420\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"720\" height=\"420\" fill=\"white\"/>\n",
    );
    let mut put = |line: String| text.push_str(&(line + "\n"));
    for power in first.ceil() as i32..=last.floor() as i32 {
        let at = x(10.0_f64.powi(power));
        put(format!("<path d=\"M{at:.1} {top} V{bottom}\" stroke=\"#ddd\"/>"));
        put(format!("<text x=\"{at:.1}\" y=\"388\" text-anchor=\"middle\">1e{power}</text>"));
    }
    for i in 0..=4 {
        let loss = low + (high - low) * f64::from(i) / 4.0;
        let at = y(loss);
        put(format!("<path d=\"M{left} {at:.1} H{right}\" stroke=\"#ddd\"/>"));
        put(format!("<text x=\"62\" y=\"{:.1}\" text-anchor=\"end\">{loss:.2}</text>", at + 4.0));
    }
    for p in points.iter().filter(|p| p.loss <= high) {
        let (x, y) = (x(p.lr), y(p.loss));
        put(format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\" fill=\"#9bc\"/>"));
    }
    let line: Vec<String> =
        points.iter().map(|p| format!("{:.1},{:.1}", x(p.lr), y(p.smooth))).collect();
    let line = line.join(" ");
    put(format!("<polyline points=\"{line}\" fill=\"none\" stroke=\"#036\" stroke-width=\"2\"/>"));
    for (lr, colour, word, height) in
        [(found.steepest, "#c30", "steepest", 44), (found.tenth, "#393", "blow-up / 10", 60)]
    {
        let at = x(lr.clamp(10.0_f64.powf(first), 10.0_f64.powf(last)));
        put(format!(
            "<path d=\"M{at:.1} {top} V{bottom}\" stroke=\"{colour}\" stroke-dasharray=\"4\"/>"
        ));
        // Beside the line, on the side where there is room.
        let (shift, anchor) = if at > 560.0 { (-4.0, "end") } else { (4.0, "start") };
        put(format!(
            "<text x=\"{:.1}\" y=\"{height}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{word} {lr:.1e}</text>",
            at + shift
        ));
    }
    put("<text x=\"385\" y=\"410\" text-anchor=\"middle\">learning rate</text>".to_owned());
    put("<text x=\"385\" y=\"20\" text-anchor=\"middle\">loss of a batch, and smoothed</text>"
        .to_owned());
    text + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A valley whose slope is steepest at 1e-3 and whose floor is at 1e-1. Seen to fail with the steepest
    /// ascent.
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
        let drawing = svg(&points, found);
        assert_eq!(drawing.matches("<circle").count(), points.len());
    }
}
