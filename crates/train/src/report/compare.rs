//! Several runs beside each other: accuracies, curves, options that differ, and whether the
//! difference is chance.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::device::OpenedDevice;
use crate::error::Error;
use crate::files::write_atomically;
use crate::learner::interval::wilson;
use crate::report::curves;
use crate::report::history::history;
use crate::report::metrics::mcnemar;
use crate::report::page::Page;
use crate::report::predictions::{Evaluated, evaluate};
use crate::signal::Stop;

/// Writes a page that compares runs, and returns it in a few lines for the console.
///
/// # Errors
/// As for the report of one run.
pub fn compare(
    runs: &[PathBuf],
    to: &Path,
    opened: &OpenedDevice,
    stop: &Stop,
) -> Result<Vec<String>, Error> {
    let name =
        |run: &PathBuf| run.file_name().unwrap_or(run.as_os_str()).to_string_lossy().into_owned();
    let names: Vec<String> = runs.iter().map(name).collect();
    let evaluated =
        runs.iter().map(|run| evaluate(run, opened, stop)).collect::<Result<Vec<_>, _>>()?;
    let histories: Vec<_> = runs
        .iter()
        .zip(&names)
        .map(|(run, name)| Ok((name.clone(), history(run)?)))
        .collect::<Result<_, Error>>()?;
    let mut page = Page::new("Comparison of runs", &names.join(" · "));
    page.section("Accuracy", "On each run's own validation images, with 95 % intervals.");
    let rows: Vec<Vec<String>> = evaluated
        .iter()
        .zip(&names)
        .map(|(run, name)| {
            let right = run.predictions.iter().filter(|one| one.is_right()).count() as u64;
            let (low, high) = wilson(right, run.report.images);
            vec![
                name.clone(),
                format!("{:.1} %", 100.0 * run.report.top1),
                format!("{:.1} to {:.1} %", 100.0 * low, 100.0 * high),
                format!("{:.3}", run.report.loss),
                run.report.images.to_string(),
            ]
        })
        .collect();
    page.table(&["run", "top-1", "95 % interval", "loss", "images"], &rows);
    let mut lines: Vec<String> =
        rows.iter().map(|row| format!("{}: top-1 {} ({})", row[0], row[1], row[2])).collect();
    page.section(
        "Is the difference chance?",
        "McNemar's exact test on the images that exactly one of two runs has right. Below 0.05 chance alone would \
         rarely do it.",
    );
    let mut pairs = Vec::new();
    for (number, first) in evaluated.iter().enumerate() {
        for (other, second) in evaluated.iter().enumerate().skip(number + 1) {
            let row = match disagreements(first, second) {
                Some((b, c)) => [b.to_string(), c.to_string(), format!("{:.3}", mcnemar(b, c))],
                None => ["-".into(), "-".into(), "other validation images".into()],
            };
            lines.push(format!(
                "{} against {}: {} images right in the first alone, {} in the second alone, p {}",
                names[number], names[other], row[0], row[1], row[2]
            ));
            pairs.push([vec![names[number].clone(), names[other].clone()], row.to_vec()].concat());
        }
    }
    page.table(&["run", "against", "right in the first alone", "in the second alone", "p"], &pairs);
    page.section("Curves", "");
    page.charts(curves::of_runs(&histories).iter().map(|chart| chart.svg()));
    page.section("Options that differ", "All others are equal.");
    let head: Vec<&str> =
        std::iter::once("option").chain(names.iter().map(String::as_str)).collect();
    page.table(&head, &differences(&evaluated));
    write_atomically(to, page.finish().as_bytes())?;
    lines.push(format!("report: {}", to.display()));
    Ok(lines)
}

/// Images that the first run alone has right, and the second alone; none where the runs have other
/// validation images: other names, classes or contents.
fn disagreements(first: &Evaluated, second: &Evaluated) -> Option<(u64, u64)> {
    let (first, second) = (answers(first), answers(second));
    let same = first.len() == second.len()
        && first
            .iter()
            .zip(&second)
            .all(|((a, x), (b, y))| a == b && x.class == y.class && x.crc == y.crc);
    if !same {
        return None;
    }
    let pairs = || first.values().zip(second.values());
    let alone = |one: bool| pairs().filter(|(a, b)| a.right != b.right && a.right == one).count();
    Some((alone(true) as u64, alone(false) as u64))
}

/// What a run says to an image, and which image it is.
struct Answer {
    class: String,
    crc: u32,
    right: bool,
}

/// The answers of a run by the path of the image below its class folders.
fn answers(run: &Evaluated) -> BTreeMap<String, Answer> {
    let mut bytes = Vec::new();
    let answers = run.predictions.iter().map(|one| {
        let path = &run.val.items[one.index].0;
        let below = path.strip_prefix(&run.val.root).unwrap_or(path);
        // An image that is gone since is none of both runs.
        let crc = run.val.read_bytes(one.index, &mut bytes).map_or(0, |()| crc32fast::hash(&bytes));
        let class = run.manifest.classes[one.label].clone();
        (below.to_string_lossy().into_owned(), Answer { class, crc, right: one.is_right() })
    });
    answers.collect()
}

/// The options that are not the same in all runs: a row of their values.
fn differences(runs: &[Evaluated]) -> Vec<Vec<String>> {
    let plans: Vec<Value> = runs
        .iter()
        .map(|run| serde_json::to_value(&run.manifest.plan).expect("a plan is plain data"))
        .collect();
    let mut keys: Vec<&String> = plans
        .iter()
        .flat_map(|plan| plan.as_object().into_iter().flat_map(|map| map.keys()))
        .collect();
    keys.sort();
    keys.dedup();
    let rows = keys.into_iter().filter(|key| plans.iter().any(|plan| plan[*key] != plans[0][*key]));
    rows.map(|key| {
        let value = |plan: &Value| match &plan[key] {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        std::iter::once(key.clone()).chain(plans.iter().map(value)).collect()
    })
    .collect()
}
