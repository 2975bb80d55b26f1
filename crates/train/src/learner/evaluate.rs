//! Evaluation of a network on a whole folder: every readable image counts exactly once.

use burn::tensor::{Device, Tensor, TensorData};
use nn::network::Network;
use serde::{Deserialize, Serialize};

use crate::datasets::batch::Batch;
use crate::datasets::listing::named;
use crate::datasets::loader::Loader;
use crate::datasets::loader::patient_epoch::PatientEpoch;
use crate::error::Error;
use crate::learner::confusion::Confusion;
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
    /// Share of images whose label has the largest logit, 0 to 1; in JSON percent, as everywhere.
    #[serde(serialize_with = "percent")]
    pub top1: f64,
    /// Share of images whose label is among the five largest logits, 0 to 1; in JSON percent.
    #[serde(serialize_with = "percent")]
    pub top5: f64,
    /// Mean cross-entropy without smoothing.
    pub loss: f64,
    /// One row per class, in logit order.
    pub classes: Vec<ClassRow>,
    /// How often which class was predicted as which.
    #[serde(skip)]
    pub confusion: Confusion,
    /// Images with a logit that is not finite, by their index in the folder. They count as wrong.
    #[serde(skip)]
    pub not_finite: Vec<usize>,
    /// Images per second, decoding included.
    pub img_per_s: f64,
    /// Images that the network was trained on, where the checkpoint knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trained_on: Option<usize>,
    /// Whether a signal ended it early.
    #[serde(skip)]
    pub interrupted: bool,
}

/// Writes a share as percent.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn percent<S: serde::Serializer>(share: &f64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(100.0 * share)
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
/// `progress` is called after every batch with the number of images done, `note` with sentences for
/// the user. A signal ends the evaluation after the current batch.
///
/// # Errors
/// An image that cannot be read, if the loader is strict; a folder without a readable image; a
/// storage that stays away.
pub fn evaluate(
    network: &Network,
    loader: &Loader,
    class_names: &[String],
    device: &Device,
    stop: &Stop,
    progress: impl FnMut(u64),
    note: &dyn Fn(&str),
) -> Result<EvalReport, Error> {
    let forward = |batch: &mut Batch| Ok(forward(network, batch, device));
    evaluate_each(&forward, loader, class_names, stop, progress, note, |_, _, _| {})
}

/// What gives the logits of a batch, `[n, classes]`. It may take the images out of the batch.
pub type ForwardBatch<'a> = dyn Fn(&mut Batch) -> Result<Tensor<2>, Error> + 'a;

/// The images of a batch as a tensor, taken out of it.
pub fn images(batch: &mut Batch, device: &Device) -> Tensor<4> {
    let values = std::mem::take(&mut batch.images);
    Tensor::from_data(TensorData::new(values, batch.shape), device)
}

/// The logits of a batch as the network gives them.
pub fn forward(network: &Network, batch: &mut Batch, device: &Device) -> Tensor<2> {
    network.forward(images(batch, device))
}

/// [`evaluate`] with another way to logits; `each` gets every image: its index in the folder, its
/// label, its logits.
///
/// # Errors
/// As [`evaluate`]; those of `forward`.
pub fn evaluate_each(
    forward: &ForwardBatch,
    loader: &Loader,
    class_names: &[String],
    stop: &Stop,
    mut progress: impl FnMut(u64),
    note: &dyn Fn(&str),
    mut each: impl FnMut(usize, usize, &[f32]),
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
    let mut confusion = Confusion::default();
    let mut unread = vec![0_u64; classes];
    for batch in PatientEpoch::new(loader, 0, 0, stop, note) {
        let mut batch = match batch {
            Err(error) if error.is_the_systems() && stop.requested().is_some() => {
                interrupted = true;
                break;
            }
            batch => batch?,
        };
        skipped.extend(batch.skipped.iter().map(|(p, why)| format!("{}: {why}", p.display())));
        batch.skipped_indices.iter().for_each(|&index| unread[loader.label(index)] += 1);
        let count = batch.labels.len();
        if count == 0 {
            continue;
        }
        let logits = forward(&mut batch)?;
        let targets = soft_targets(&batch.labels, classes, 0.0, &logits.device());
        let batch_loss = cross_entropy(logits.clone(), targets).into_scalar::<f32>();
        loss += f64::from(batch_loss) * count as f64;
        let values = logits.into_data().convert::<f32>().try_into_vec::<f32>().expect("f32");
        let rows_of_batch = values.chunks_exact(classes).zip(&batch.labels);
        for ((row, &label), &index) in rows_of_batch.zip(&batch.indices) {
            let label = label as usize;
            each(index, label, row);
            if !row.iter().all(|logit| logit.is_finite()) {
                not_finite.push(index);
                rows[label].images += 1;
                continue;
            }
            let rank = rank_of(row, label);
            let predicted = first_of(row);
            top1 += u64::from(rank == 0);
            top5 += u64::from(rank < 5);
            rows[label].images += 1;
            rows[label].correct += u64::from(rank == 0);
            rows[predicted].predicted += 1;
            confusion.add(label, predicted);
        }
        seen += count as u64;
        progress(seen);
        if stop.requested().is_some() {
            interrupted = true;
            break;
        }
    }
    if seen == 0 && !interrupted {
        return Err(Error::data("no readable image to evaluate; check the folder"));
    }
    let nothing_read =
        rows.iter().zip(&unread).filter(|(row, unread)| row.images == 0 && **unread > 0);
    let nothing_read: Vec<&str> = nothing_read.map(|(row, _)| row.class.as_str()).collect();
    if !nothing_read.is_empty() && !interrupted {
        note(&format!("no image could be read of {}", named(&nothing_read)));
    }
    let seen_or_one = seen.max(1) as f64;
    let share = |n: u64| n as f64 / seen_or_one;
    Ok(EvalReport {
        images: seen,
        skipped,
        top1: share(top1),
        top5: share(top5),
        loss: loss / seen_or_one,
        classes: rows,
        confusion,
        not_finite,
        img_per_s: seen as f64 / began.elapsed().as_secs_f64().max(1e-9),
        trained_on: None,
        interrupted,
    })
}

/// A logit as it is ranked: NaN last, so a broken network cannot score.
fn key(logit: f32) -> f32 {
    if logit.is_nan() { f32::NEG_INFINITY } else { logit }
}

/// The class of rank 0: the largest logit, of equal ones the first.
fn first_of(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, k| if key(row[k]) > key(row[best]) { k } else { best })
}

/// Number of classes ranked before `k`: those with a larger logit, or an equal one and a smaller
/// index.
fn rank_of(row: &[f32], k: usize) -> usize {
    let own = key(row[k]);
    row.iter().enumerate().filter(|&(j, &v)| key(v) > own || (key(v) == own && j < k)).count()
}

#[cfg(test)]
mod tests {
    use super::{first_of, rank_of};

    /// Mutations caught, each alone: the last of equal logits; NaN compared as it is.
    #[test]
    fn ties_go_to_the_smaller_index_and_nan_ranks_last() {
        let nan = f32::NAN;
        for row in
            [[1.0, 3.0, 3.0], [nan, 0.0, nan], [nan, nan, nan], [-1.0, nan, -1.0], [0.0, 2.0, 5.0]]
        {
            assert_eq!(rank_of(&row, first_of(&row)), 0, "{row:?}");
        }
        assert_eq!(rank_of(&[1.0, 3.0, 3.0, 2.0], 1), 0);
        assert_eq!(rank_of(&[1.0, 3.0, 3.0, 2.0], 2), 1);
    }
}
