//! What a run minimises: the loss of its plan, the weights of its classes, its teacher.

use std::path::Path;

use burn::module::Module as _;
use burn::tensor::{Device, Tensor, TensorData};
use nn::network::{Network, Outputs};
use nn::weights::{HeadPolicy, load_state_dict};

use crate::config::options::nearest;
use crate::config::plan::Plan;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::loader::Batch;
use crate::error::Error;
use crate::learner::loss::{Loss, distillation, targets};
use crate::run::checkpoint::{Checkpoint, WeightsKind};

/// The loss of a run.
pub struct Objective {
    loss: Loss,
    smoothing: f64,
    classes: usize,
    teacher: Option<Teacher>,
    alpha: f64,
    temperature: f64,
}

impl Objective {
    /// That of a plan, for the training images of `train`.
    ///
    /// # Errors
    /// A file of class weights or a teacher that does not fit.
    pub fn new(plan: &Plan, train: &ImageFolder, device: &Device) -> Result<Self, Error> {
        let autodiff_device = device.clone().autodiff();
        let classes = train.classes.len();
        let weights = plan.class_weights.as_deref().map(|given| match given {
            "balanced" => Ok(balanced(train)),
            file => from_file(Path::new(file), &train.classes),
        });
        let weights = weights.transpose()?.map(|values| {
            Tensor::<2>::from_data(TensorData::new(values, [1, classes]), &autodiff_device)
        });
        let loss = Loss {
            binary: plan.bce_loss,
            threshold: plan.bce_target_thresh,
            summed: plan.bce_sum,
            gamma: plan.focal_gamma,
            weights,
        };
        let teacher = match &plan.teacher {
            Some(path) => Some(Teacher::open(path, plan, &train.classes, device)?),
            None => None,
        };
        Ok(Self {
            loss,
            smoothing: plan.smoothing,
            classes,
            teacher,
            alpha: plan.distill_alpha,
            temperature: plan.distill_temperature,
        })
    }

    /// What is said of the teacher at the beginning.
    pub fn notes(&self) -> Vec<String> {
        self.teacher.iter().map(|teacher| teacher.note.clone()).collect()
    }

    /// The targets of a batch, mixed where its images are, `[b, classes]`.
    pub fn targets(&self, batch: &Batch, device: &Device) -> Tensor<2> {
        targets(batch, self.classes, self.smoothing, device)
    }

    /// The teacher's logits `[b, classes]` for the student's images.
    pub fn teacher_logits(&self, images: &Tensor<4>) -> Option<Tensor<2>> {
        self.teacher.as_ref().map(|teacher| teacher.logits(images.clone().inner()))
    }

    /// The loss of a batch, a mean over its images.
    pub fn loss(
        &self,
        outputs: &Outputs,
        targets: Tensor<2>,
        teacher_logits: Option<Tensor<2>>,
    ) -> Tensor<1> {
        let hard = self.loss.with_auxiliary(outputs, targets);
        let Some(teacher_logits) = teacher_logits else { return hard };
        let teacher_logits = Tensor::from_inner(teacher_logits);
        let soft = distillation(outputs.logits.clone(), teacher_logits, self.temperature);
        hard.mul_scalar(1.0 - self.alpha) + soft.mul_scalar(self.alpha)
    }
}

/// The inverse of each class's share of the images, their mean over the images being 1.
fn balanced(train: &ImageFolder) -> Vec<f32> {
    let classes = train.classes.len();
    let mut counts = vec![0_usize; classes];
    train.items.iter().for_each(|(_, label)| counts[*label] += 1);
    let all = train.items.len() as f64;
    counts.iter().map(|n| (all / (classes as f64 * (*n).max(1) as f64)) as f32).collect()
}

fn from_file(path: &Path, classes: &[String]) -> Result<Vec<f32>, Error> {
    let place = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| {
        Error::usage(format!("--class-weights: {place}: {e}; give balanced, none or a file"))
    })?;
    let mut found = vec![None; classes.len()];
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |what: String| {
            Error::usage(format!("--class-weights: {place}: line {}: {what}", number + 1))
        };
        let (class, weight) =
            line.rsplit_once(',').ok_or_else(|| wrong("expected `class,weight`".into()))?;
        let class = class.trim();
        let weight = weight.trim().parse::<f32>().ok().filter(|w| w.is_finite() && *w >= 0.0);
        let weight = weight.ok_or_else(|| wrong("the weight is no number of at least 0".into()))?;
        let Some(index) = classes.iter().position(|own| own == class) else {
            let near = nearest(class, classes)
                .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            return Err(wrong(format!("no class `{class}` in the data{near}")));
        };
        found[index] = Some(weight);
    }
    if let Some(index) = found.iter().position(Option::is_none) {
        let class = &classes[index];
        return Err(Error::usage(format!(
            "--class-weights: {place}: no weight for `{class}`; add a line `{class},1`"
        )));
    }
    Ok(found.into_iter().flatten().collect())
}

/// A trained network that the run learns from.
struct Teacher {
    network: Network,
    /// Factor and summand from the student's normalisation to the teacher's, `[1, 3, 1, 1]`.
    renormalise: Option<[Tensor<4>; 2]>,
    note: String,
}

impl Teacher {
    fn open(path: &Path, plan: &Plan, classes: &[String], device: &Device) -> Result<Self, Error> {
        let place = path.display();
        let mut checkpoint = Checkpoint::read(path)?;
        let weights = checkpoint.take(WeightsKind::Best)?;
        let manifest = checkpoint.manifest;
        if manifest.classes != classes {
            let odd = manifest.classes.iter().zip(classes).find(|(a, b)| a != b);
            let first =
                odd.map_or_else(String::new, |(a, b)| format!(", `{a}` where it has `{b}`"));
            return Err(Error::usage(format!(
                "--teacher: {place}: {} classes where the data has {}{first}; give a teacher that \
                 was trained on the same classes",
                manifest.classes.len(),
                classes.len()
            )));
        }
        let least = manifest.network.architecture.least_size();
        if plan.img_size < least {
            return Err(Error::usage(format!(
                "--teacher: {place}: needs images of at least {least} pixels; raise --img-size"
            )));
        }
        let network = manifest.network.init_zero(&device.clone().autodiff());
        let (network, _) = load_state_dict(network, weights, HeadPolicy::Exact)
            .map_err(|e| Error::checkpoint(format!("{place}: {e}")))?;
        let (own, its) = (plan.preprocess(), manifest.preprocess);
        let row = |value: &dyn Fn(usize) -> f32| {
            let values: Vec<f32> = (0..3).map(value).collect();
            Tensor::<4>::from_data(TensorData::new(values, [1, 3, 1, 1]), device)
        };
        let other = own.mean != its.mean || own.std != its.std;
        let renormalise = other.then(|| {
            let factor = row(&|c| own.std[c] / its.std[c]);
            [factor, row(&|c| (own.mean[c] - its.mean[c]) / its.std[c])]
        });
        let normalised = if other { ", renormalised for it" } else { "" };
        let size = match own.crop == its.crop {
            true => String::new(),
            false => format!(", which it was trained on at {} pixels", its.crop[0]),
        };
        let note = format!(
            "teacher: {} from {place} on the student's images of {} pixels{size}{normalised}",
            manifest.plan.model, plan.img_size
        );
        Ok(Self { network: network.valid(), renormalise, note })
    }

    fn logits(&self, images: Tensor<4>) -> Tensor<2> {
        let images = match &self.renormalise {
            Some([factor, summand]) => images * factor.clone() + summand.clone(),
            None => images,
        };
        self.network.forward(images)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen to fail without the number of classes in the divisor.
    #[test]
    fn balanced_weights_are_the_inverse_of_the_shares() {
        let item = |label| (std::path::PathBuf::new(), label);
        let folder = ImageFolder {
            root: "x".into(),
            classes: vec!["a".into(), "b".into()],
            items: vec![item(0), item(0), item(0), item(1)],
            notes: Vec::new(),
            exif: false,
            shards: None,
        };
        let weights = balanced(&folder);
        assert!((weights[0] - 2.0 / 3.0).abs() < 1e-6 && (weights[1] - 2.0).abs() < 1e-6);
    }

    #[test]
    fn a_file_of_weights_names_every_class_once() {
        let path = std::env::temp_dir().join(format!("kindling-weights-{}", std::process::id()));
        let classes = ["trouser".to_owned(), "a, b".to_owned()];
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            from_file(&path, &classes).map_err(|e| e.message)
        };
        assert_eq!(read("trouser,2\n\na, b,0.5\n").unwrap(), [2.0, 0.5]);
        assert!(read("trouser,2\n").unwrap_err().contains("no weight for `a, b`"));
        assert!(read("trousers,2\n").unwrap_err().contains("did you mean `trouser`"));
        assert!(read("trouser,-1\n").unwrap_err().contains("line 1"));
        std::fs::remove_file(&path).unwrap();
    }
}
