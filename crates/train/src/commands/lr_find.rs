//! `kindling lr-find`: the loss along an exponentially rising learning rate (arXiv:1506.01186,
//! section 3.3), as CSV and as a drawing, and a suggestion.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::commands::plan_args;
use crate::config::options::Options;
use crate::config::output::LogFormat;
use crate::datasets::loader::Mode;
use crate::error::Error;
use crate::files::write_atomically;
use crate::learner::forward_backward::{dropout_seed, forward};
use crate::optimizers::gradients::Gradients;
use crate::out;
use crate::plot::line_chart::{LineChart, Series};
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
    let chosen = plan.machine.backend.open_for(plan.machine.amp)?;
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

/// A drawing: the losses as dots, the smoothed one as a line, the suggestions upright.
fn drawing(points: &[Point], found: Suggestion) -> String {
    // The scale is that of the smoothed loss: a single dot may lie above it and is drawn at the
    // edge.
    let low = points.iter().map(|p| p.smooth.min(p.loss)).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|p| p.smooth).fold(f64::NEG_INFINITY, f64::max);
    let series = |name: &str, dots, value: fn(&Point) -> f64| Series {
        name: name.to_owned(),
        points: points.iter().map(|p| [p.lr, value(p)]).collect(),
        dots,
    };
    LineChart {
        title: "Loss along a rising rate".to_owned(),
        x: "learning rate".to_owned(),
        y: "cross-entropy, nats".to_owned(),
        log_x: true,
        y_range: Some([low, high + 0.1 * (high - low).max(1e-9)]),
        series: vec![
            series("smoothed", false, |p| p.smooth),
            series("of a batch", true, |p| p.loss),
        ],
        marks: vec![
            (found.steepest, format!("steepest {:.1e}", found.steepest)),
            (found.tenth, format!("blow-up / 10 {:.1e}", found.tenth)),
        ],
        ..LineChart::default()
    }
    .svg()
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
}
