//! Evaluation of a network on a whole folder: every readable image counts exactly once.

use burn::tensor::{Device, Tensor, TensorData};
use nn::network::Network;
use serde::{Deserialize, Serialize};

use crate::datasets::loader::Loader;
use crate::error::Error;
use crate::learner::loss::{cross_entropy, soft_targets};
use crate::signal::Stop;

/// The results of one class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassRow {
    /// Name of the class.
    pub class: String,
    /// Images of the class.
    #[serde(rename = "pictures")]
    pub images: u64,
    /// Images of the class that were predicted correctly.
    pub correct: u64,
    /// Images of any class that were predicted as this one.
    pub predicted: u64,
}

/// The result of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvalReport {
    /// Number of readable images.
    #[serde(rename = "pictures")]
    pub images: u64,
    /// Unreadable images, each with the reason.
    pub skipped: Vec<String>,
    /// Share of images whose label has the largest logit, 0 to 1.
    pub top1: f64,
    /// Share of images whose label is among the five largest logits, 0 to 1.
    pub top5: f64,
    /// Mean cross-entropy without smoothing.
    pub loss: f64,
    /// One row per class, in logit order.
    pub classes: Vec<ClassRow>,
    /// Counts `[true class][predicted class]`.
    #[serde(skip)]
    pub confusion: Vec<Vec<u64>>,
    /// Images with a logit that is not finite, by their index in the folder. They count as wrong.
    #[serde(skip)]
    pub not_finite: Vec<usize>,
    /// Images per second, decoding included.
    pub img_per_s: f64,
    /// Whether a signal ended it early.
    #[serde(skip)]
    pub interrupted: bool,
}

/// The metric by which the best epoch is chosen.
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
    /// The metric as a score, larger is better. A value that is not finite is the worst.
    pub fn score(self, report: &EvalReport) -> f64 {
        let score = match self {
            EvalMetric::Top1 => report.top1,
            EvalMetric::Top5 => report.top5,
            EvalMetric::Loss => -report.loss,
        };
        // The score is written as JSON, which has no infinity.
        if score.is_finite() { score } else { f64::MIN }
    }
}

/// Evaluates `network` (an inference copy on `device`) on the loader's epoch 0.
///
/// `progress` is called after every batch with the number of images done. A signal ends the
/// evaluation after the current batch.
///
/// # Errors
/// An image that cannot be read, if the loader is strict; a folder without a readable image.
pub fn evaluate(
    network: &Network,
    loader: &Loader,
    class_names: &[String],
    device: &Device,
    stop: &Stop,
    mut progress: impl FnMut(u64),
) -> Result<EvalReport, Error> {
    let began = std::time::Instant::now();
    let classes = class_names.len();
    let (mut seen, mut top1, mut top5, mut loss) = (0_u64, 0_u64, 0_u64, 0.0_f64);
    let mut skipped = Vec::new();
    let mut rows: Vec<ClassRow> = class_names
        .iter()
        .map(|name| ClassRow { class: name.clone(), images: 0, correct: 0, predicted: 0 })
        .collect();
    let (mut interrupted, mut not_finite) = (false, Vec::new());
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
        let rows_of_batch = values.chunks_exact(classes).zip(&batch.labels);
        for ((row, &label), &index) in rows_of_batch.zip(&batch.indices) {
            let label = label as usize;
            if !row.iter().all(|logit| logit.is_finite()) {
                not_finite.push(index);
                rows[label].images += 1;
                continue;
            }
            let rank = rank_of(row, label);
            let predicted = (0..classes).find(|&k| rank_of(row, k) == 0).unwrap_or(0);
            top1 += u64::from(rank == 0);
            top5 += u64::from(rank < 5);
            rows[label].images += 1;
            rows[label].correct += u64::from(rank == 0);
            rows[predicted].predicted += 1;
            confusion[label][predicted] += 1;
        }
        seen += count as u64;
        progress(seen);
        if stop.requested().is_some() {
            interrupted = true;
            break;
        }
    }
    if seen == 0 {
        return Err(Error::data("no readable image to evaluate; check the folder"));
    }
    let share = |n: u64| n as f64 / seen as f64;
    Ok(EvalReport {
        images: seen,
        skipped,
        top1: share(top1),
        top5: share(top5),
        loss: loss / seen as f64,
        classes: rows,
        confusion,
        not_finite,
        img_per_s: seen as f64 / began.elapsed().as_secs_f64().max(1e-9),
        interrupted,
    })
}

/// Number of classes ranked before `k`: those with a larger logit, or an equal one and a smaller
/// index. All logits are finite.
fn rank_of(row: &[f32], k: usize) -> usize {
    let own = row[k];
    row.iter().enumerate().filter(|&(j, &v)| v > own || (v == own && j < k)).count()
}

#[cfg(test)]
mod tests {
    use super::rank_of;

    #[test]
    fn ties_go_to_the_smaller_index() {
        assert_eq!(rank_of(&[1.0, 3.0, 3.0, 2.0], 1), 0);
        assert_eq!(rank_of(&[1.0, 3.0, 3.0, 2.0], 2), 1);
    }
}
