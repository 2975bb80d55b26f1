//! Evaluation of a network on a whole folder: every readable image counts exactly once.

use std::time::Instant;

use burn::tensor::{Device, Tensor};
use nn::network::Network;
use serde::{Deserialize, Serialize};

use crate::datasets::batch::Batch;
use crate::datasets::listing::named;
use crate::datasets::loader::Loader;
use crate::datasets::loader::patient_epoch::PatientEpoch;
use crate::distributed::communicator::Communicator;
use crate::error::Error;
use crate::learner::confusion::Confusion;
use crate::learner::device_images::images;
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
    progress: impl FnMut(u64),
    note: &dyn Fn(&str),
    each: impl FnMut(usize, usize, &[f32]),
) -> Result<EvalReport, Error> {
    let began = Instant::now();
    let sums = EvalSums::of(forward, loader, class_names.len(), stop, progress, note, each)?;
    sums.report(class_names, began, note)
}

/// [`evaluate_each`] by a group of ranks, each of which has a share of the batches in its loader. Every
/// rank gets the report on all of them.
///
/// # Errors
/// As [`evaluate`]; a rank that is lost.
pub fn evaluate_shared(
    forward: &ForwardBatch,
    loader: &Loader,
    class_names: &[String],
    stop: &Stop,
    progress: impl FnMut(u64),
    note: &dyn Fn(&str),
    communicator: &dyn Communicator,
) -> Result<EvalReport, Error> {
    let began = Instant::now();
    let each = |_: usize, _: usize, _: &[f32]| {};
    let own = EvalSums::of(forward, loader, class_names.len(), stop, progress, note, each)?;
    let mut all = communicator.gather_values(own)?.into_iter();
    let first = all.next().expect("a group has a rank");
    all.fold(first, EvalSums::plus).report(class_names, began, note)
}

/// The counts of an evaluation, or of a rank's share of it.
#[derive(Serialize, Deserialize)]
struct EvalSums {
    seen: u64,
    top1: u64,
    top5: u64,
    /// The bits of the sum of losses: JSON has no infinity.
    loss: u64,
    skipped: Vec<String>,
    /// Of each class: images, correct ones, predictions, images that could not be read.
    classes: Vec<[u64; 4]>,
    /// Label, prediction, images.
    confusion: Vec<(usize, usize, u64)>,
    not_finite: Vec<usize>,
    interrupted: bool,
}

impl EvalSums {
    fn of(
        forward: &ForwardBatch,
        loader: &Loader,
        classes: usize,
        stop: &Stop,
        mut progress: impl FnMut(u64),
        note: &dyn Fn(&str),
        mut each: impl FnMut(usize, usize, &[f32]),
    ) -> Result<Self, Error> {
        let (mut seen, mut top1, mut top5, mut loss) = (0_u64, 0_u64, 0_u64, 0.0_f64);
        let mut skipped = Vec::new();
        let mut rows = vec![[0_u64; 4]; classes];
        let (mut interrupted, mut not_finite) = (false, Vec::new());
        let mut confusion = Confusion::default();
        for batch in PatientEpoch::new(loader, 0, 0, stop, note) {
            let mut batch = match batch {
                Err(error) if error.is_the_systems() && stop.requested().is_some() => {
                    interrupted = true;
                    break;
                }
                batch => batch?,
            };
            skipped.extend(batch.skipped.iter().map(|(p, why)| format!("{}: {why}", p.display())));
            batch.skipped_indices.iter().for_each(|&index| rows[loader.label(index)][3] += 1);
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
                rows[label][0] += 1;
                if !row.iter().all(|logit| logit.is_finite()) {
                    not_finite.push(index);
                    continue;
                }
                let rank = rank_of(row, label);
                let predicted = first_of(row);
                top1 += u64::from(rank == 0);
                top5 += u64::from(rank < 5);
                rows[label][1] += u64::from(rank == 0);
                rows[predicted][2] += 1;
                confusion.add(label, predicted);
            }
            seen += count as u64;
            progress(seen);
            if stop.requested().is_some() {
                interrupted = true;
                break;
            }
        }
        let (loss, confusion) = (loss.to_bits(), confusion.pairs().collect());
        Ok(Self {
            seen,
            top1,
            top5,
            loss,
            skipped,
            classes: rows,
            confusion,
            not_finite,
            interrupted,
        })
    }

    /// Both shares together.
    fn plus(mut self, other: Self) -> Self {
        self.seen += other.seen;
        self.top1 += other.top1;
        self.top5 += other.top5;
        self.loss = (f64::from_bits(self.loss) + f64::from_bits(other.loss)).to_bits();
        self.skipped.extend(other.skipped);
        for (own, other) in self.classes.iter_mut().zip(other.classes) {
            own.iter_mut().zip(other).for_each(|(own, other)| *own += other);
        }
        self.confusion.extend(other.confusion);
        self.not_finite.extend(other.not_finite);
        self.interrupted |= other.interrupted;
        self
    }

    fn report(
        self,
        class_names: &[String],
        began: Instant,
        note: &dyn Fn(&str),
    ) -> Result<EvalReport, Error> {
        let Self { seen, interrupted, .. } = self;
        if seen == 0 && !interrupted {
            return Err(Error::data("no readable image to evaluate; check the folder"));
        }
        let named_rows = || class_names.iter().zip(&self.classes);
        let nothing_read: Vec<&str> = named_rows()
            .filter(|(_, [images, .., unread])| *images == 0 && *unread > 0)
            .map(|(class, _)| class.as_str())
            .collect();
        if !nothing_read.is_empty() && !interrupted {
            note(&format!("no image could be read of {}", named(&nothing_read)));
        }
        let row = |(class, &[images, correct, predicted, _]): (&String, &[u64; 4])| ClassRow {
            class: class.clone(),
            images,
            correct,
            predicted,
        };
        let classes = named_rows().map(row).collect();
        let mut confusion = Confusion::default();
        for (label, predicted, images) in self.confusion {
            confusion.add_many(label, predicted, images);
        }
        let seen_or_one = seen.max(1) as f64;
        Ok(EvalReport {
            images: seen,
            skipped: self.skipped,
            top1: self.top1 as f64 / seen_or_one,
            top5: self.top5 as f64 / seen_or_one,
            loss: f64::from_bits(self.loss) / seen_or_one,
            classes,
            confusion,
            not_finite: self.not_finite,
            img_per_s: seen as f64 / began.elapsed().as_secs_f64().max(1e-9),
            trained_on: None,
            interrupted,
        })
    }
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
