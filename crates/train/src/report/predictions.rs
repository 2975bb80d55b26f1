//! What the network of a run says to every validation image.

use std::path::Path;
use std::sync::Arc;

use burn::module::Module as _;

use crate::datasets::batch::Batch;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::loader::Mode;
use crate::datasets::quarantine::relative;
use crate::device::OpenedDevice;
use crate::error::Error;
use crate::learner::evaluate::{EvalReport, evaluate_each, forward};
use crate::run::checkpoint::{Checkpoint, Manifest};
use crate::run::open_data;
use crate::run::retention::{BEST, LAST};
use crate::run::run_folder::quoted;
use crate::signal::Stop;
use nn::weights::kind::WeightsKind;

/// What the network says to an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Index of the image in its folder.
    pub index: usize,
    /// Its class.
    pub label: usize,
    /// The class with the largest probability.
    pub guess: usize,
    /// Its probability, 0 to 1.
    pub probability: f32,
    /// The probability of the image's own class.
    pub label_probability: f32,
}

impl Prediction {
    /// From the logits of an image.
    pub fn new(index: usize, label: usize, logits: &[f32]) -> Self {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f32> = logits.iter().map(|logit| (logit - most).exp()).collect();
        let sum: f32 = weights.iter().sum();
        let better = |best: usize, k: usize| if weights[k] > weights[best] { k } else { best };
        let guess = (1..weights.len()).fold(0, better);
        let probability = |class: usize| weights[class] / sum;
        let (probability, label_probability) = (probability(guess), probability(label));
        Self { index, label, guess, probability, label_probability }
    }

    /// Whether the guess is right.
    pub fn is_right(&self) -> bool {
        self.guess == self.label
    }
}

/// The evaluation of a run's best checkpoint on the validation images of the run.
pub(super) struct Evaluated {
    pub(super) manifest: Manifest,
    pub(super) val: Arc<ImageFolder>,
    pub(super) train: Arc<ImageFolder>,
    pub(super) report: EvalReport,
    pub(super) predictions: Vec<Prediction>,
}

/// Evaluates the best checkpoint in a run folder, or the last where there is no best one.
///
/// # Errors
/// No checkpoint, or a damaged one; data that are no more there.
pub(super) fn evaluate(
    folder: &Path,
    opened: &OpenedDevice,
    stop: &Stop,
) -> Result<Evaluated, Error> {
    let path = [BEST, LAST].map(|name| folder.join(name)).into_iter().find(|path| path.exists());
    let path = path.ok_or_else(|| {
        Error::checkpoint(format!(
            "{}: no checkpoint in it; give the folder of a run",
            folder.display()
        ))
    })?;
    let mut checkpoint = Checkpoint::read(&path)?;
    let network = checkpoint.take_network(WeightsKind::Best, &path, &opened.device)?;
    let manifest = checkpoint.manifest;
    let images = open_data::open_for_run(&manifest.plan, Some(manifest.data), folder)?;
    let (train, val) = (Arc::new(images.train), Arc::new(images.val));
    let batch = manifest.plan.training.val_batch_size;
    let loader = open_data::loader(&manifest.plan, &val, Mode::Eval, batch);
    let mut predictions = Vec::with_capacity(val.items.len());
    let each = |index: usize, label: usize, logits: &[f32]| {
        predictions.push(Prediction::new(index, label, logits));
    };
    let network = network.valid();
    let report = evaluate_each(
        &|batch: &mut Batch| Ok(forward(&network, batch, &opened.device)),
        &loader,
        &manifest.classes,
        stop,
        |_| {},
        &|_| {},
        each,
    )?;
    if let Some(&first) = report.not_finite.first() {
        return Err(Error::diverged(format!(
            "{}: the logits of {} images are not finite numbers, first those of {}; take an earlier checkpoint",
            path.display(),
            report.not_finite.len(),
            val.items[first].0.display()
        )));
    }
    if report.interrupted {
        return Err(Error::usage("interrupted"));
    }
    Ok(Evaluated { manifest, val, train, report, predictions })
}

/// The predictions as CSV: a row for each image, or for each mistake.
pub fn predictions_csv(
    predictions: &[Prediction],
    folder: &ImageFolder,
    classes: &[String],
    wrong: bool,
) -> String {
    let mut text = "path,class,prediction,probability,class_probability,correct\n".to_owned();
    for prediction in predictions.iter().filter(|one| !(wrong && one.is_right())) {
        let path = &folder.items[prediction.index].0;
        let name =
            relative(&folder.root, path).unwrap_or_else(|| path.to_string_lossy().into_owned());
        text += &format!(
            "{},{},{},{:.6},{:.6},{}\n",
            quoted(&name),
            quoted(&classes[prediction.label]),
            quoted(&classes[prediction.guess]),
            prediction.probability,
            prediction.label_probability,
            u8::from(prediction.is_right())
        );
    }
    text
}
