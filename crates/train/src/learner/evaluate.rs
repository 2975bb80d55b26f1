//! A network over a whole folder, exactly: every readable image counts once, none twice.

use burn::tensor::{Device, Tensor, TensorData};
use nn::network::Network;
use serde::{Deserialize, Serialize};

use crate::datasets::loader::Loader;
use crate::error::Error;
use crate::learner::loss::{cross_entropy, soft_targets};
use crate::signal::Stop;

/// One class's row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassRow {
    /// Name of the class.
    pub class: String,
    /// Images of it.
    #[serde(rename = "pictures")]
    pub images: u64,
    /// Of these, rightly named.
    pub correct: u64,
    /// Images of any class that were given this name.
    pub predicted: u64,
}

/// The result over a folder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Readable images.
    #[serde(rename = "pictures")]
    pub images: u64,
    /// Unreadable ones, with the reason.
    pub skipped: Vec<String>,
    /// Share whose first guess is right, 0 to 1.
    pub top1: f64,
    /// Share whose label is among the first five guesses.
    pub top5: f64,
    /// Mean cross-entropy without smoothing.
    pub loss: f64,
    /// One row per class, in logit order.
    pub classes: Vec<ClassRow>,
    /// Counts `[true class][guess]`.
    #[serde(skip)]
    pub confusion: Vec<Vec<u64>>,
    /// Images per second, decoding included.
    pub img_per_s: f64,
    /// Whether a signal ended it early.
    #[serde(skip)]
    pub interrupted: bool,
}

/// What tells which epoch is best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EvalMetric {
    /// Top-1 accuracy.
    Top1,
    /// Top-5 accuracy.
    Top5,
    /// Cross-entropy, less is better.
    Loss,
}

impl EvalMetric {
    /// A number of the report that is larger the better it is; one that is not a number is the worst.
    pub fn score(self, report: &Report) -> f64 {
        let score = match self {
            EvalMetric::Top1 => report.top1,
            EvalMetric::Top5 => report.top5,
            EvalMetric::Loss => -report.loss,
        };
        // Stands in JSON, which has no infinity.
        if score.is_finite() { score } else { f64::MIN }
    }
}

/// Evaluates `network` (an inference copy on `device`) over the loader's one epoch.
///
/// `each` is told the number of images done after every batch.
///
/// # Errors
/// An image that cannot be read, when the loader is strict; an empty folder.
pub fn evaluate(
    network: &Network,
    loader: &Loader,
    class_names: &[String],
    device: &Device,
    stop: &Stop,
    mut each: impl FnMut(u64),
) -> Result<Report, Error> {
    let began = std::time::Instant::now();
    let classes = class_names.len();
    let (mut seen, mut first, mut five, mut loss) = (0_u64, 0_u64, 0_u64, 0.0_f64);
    let mut skipped = Vec::new();
    let mut rows: Vec<ClassRow> = class_names
        .iter()
        .map(|name| ClassRow { class: name.clone(), images: 0, correct: 0, predicted: 0 })
        .collect();
    let mut interrupted = false;
    let mut confusion = vec![vec![0_u64; classes]; classes];
    for batch in loader.epoch(0, 0) {
        let batch = batch?;
        skipped.extend(batch.skipped.iter().map(|(p, why)| format!("{}: {why}", p.display())));
        let count = batch.labels.len();
        if count == 0 {
            continue;
        }
        let images = Tensor::<4>::from_data(TensorData::new(batch.images, batch.shape), device);
        let logits = network.forward(images);
        let targets = soft_targets(&batch.labels, classes, 0.0, device);
        let batch_loss = cross_entropy(logits.clone(), targets).into_scalar::<f32>();
        loss += f64::from(batch_loss) * count as f64;
        let values = logits.into_data().convert::<f32>().try_into_vec::<f32>().expect("f32");
        for (row, &label) in values.chunks_exact(classes).zip(&batch.labels) {
            let label = label as usize;
            let rank = rank_of(row, label);
            let guess = (0..classes).find(|&k| rank_of(row, k) == 0).unwrap_or(0);
            first += u64::from(rank == 0);
            five += u64::from(rank < 5);
            rows[label].images += 1;
            rows[label].correct += u64::from(rank == 0);
            rows[guess].predicted += 1;
            confusion[label][guess] += 1;
        }
        seen += count as u64;
        each(seen);
        if stop.requested().is_some() {
            interrupted = true;
            break;
        }
    }
    if seen == 0 {
        return Err(Error::data("no readable image to evaluate; check the folder"));
    }
    let share = |n: u64| n as f64 / seen as f64;
    Ok(Report {
        images: seen,
        skipped,
        top1: share(first),
        top5: share(five),
        loss: loss / seen as f64,
        classes: rows,
        confusion,
        img_per_s: seen as f64 / began.elapsed().as_secs_f64().max(1e-9),
        interrupted,
    })
}

/// How many classes come before `k`: larger logits, and equal ones of a smaller index. A NaN counts
/// as smaller than everything, so a broken network cannot score.
fn rank_of(row: &[f32], k: usize) -> usize {
    let key = |v: f32| if v.is_nan() { f32::NEG_INFINITY } else { v };
    let own = key(row[k]);
    row.iter().enumerate().filter(|&(j, &v)| key(v) > own || (key(v) == own && j < k)).count()
}

#[cfg(test)]
mod tests {
    use super::rank_of;

    #[test]
    fn ties_go_to_the_smaller_index_and_nan_ranks_last() {
        assert_eq!(rank_of(&[1.0, 3.0, 3.0, 2.0], 1), 0);
        assert_eq!(rank_of(&[1.0, 3.0, 3.0, 2.0], 2), 1);
        assert_eq!(rank_of(&[f32::NAN, 0.0], 0), 1);
    }
}
