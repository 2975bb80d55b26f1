//! The objective of a run: a loss on the labels and, with a teacher, distillation.

use burn::tensor::{Device, Tensor, TensorData};
use nn::network::Network;
use nn::outputs::TrainingOutputs;
use transforms::preprocess::Preprocess;

use crate::datasets::batch::Batch;
use crate::learner::loss::{Loss, distillation, targets};

/// The objective that a run minimises.
pub struct Objective {
    /// The loss on the labels.
    pub loss: Loss,
    /// Label smoothing, 0 to 1.
    pub smoothing: f64,
    /// Number of classes.
    pub classes: usize,
    /// The network to distil.
    pub teacher: Option<Teacher>,
}

impl Objective {
    /// The targets of a batch, `[b, classes]`, mixed if the batch is.
    pub fn targets(&self, batch: &Batch, device: &Device) -> Tensor<2> {
        targets(batch, self.classes, self.smoothing, device)
    }

    /// The teacher's logits `[b, classes]` for the student's images `[b, 3, h, w]`.
    pub fn teacher_logits(&self, images: &Tensor<4>) -> Option<Tensor<2>> {
        self.teacher.as_ref().map(|teacher| teacher.logits(images.clone().inner()))
    }

    /// The loss of a batch, a mean over its images. `targets` and `teacher_logits` are
    /// `[b, classes]`.
    pub fn loss(
        &self,
        outputs: &TrainingOutputs,
        targets: Tensor<2>,
        teacher_logits: Option<Tensor<2>>,
    ) -> Tensor<1> {
        let hard = self.loss.with_auxiliary(outputs, targets);
        let Some((teacher, logits)) = self.teacher.as_ref().zip(teacher_logits) else {
            return hard;
        };
        let logits = Tensor::from_inner(logits);
        let soft = distillation(outputs.logits.clone(), logits, teacher.temperature);
        hard.mul_scalar(1.0 - teacher.alpha) + soft.mul_scalar(teacher.alpha)
    }
}

/// A trained network that the run distils.
pub struct Teacher {
    network: Network,
    /// Factor and summand from the student's normalisation to the teacher's, `[1, 3, 1, 1]`.
    renormalise: Option<[Tensor<4>; 2]>,
    alpha: f64,
    temperature: f64,
}

impl Teacher {
    /// A teacher from its inference network on `device`. `student` and `teacher` are the
    /// preprocessing of both networks, of which the means and deviations matter; `alpha` is the
    /// weight of distillation beside the loss on the labels, 0 to 1.
    pub fn new(
        network: Network,
        [student, teacher]: [&Preprocess; 2],
        alpha: f64,
        temperature: f64,
        device: &Device,
    ) -> Self {
        let row = |value: &dyn Fn(usize) -> f32| {
            let values: Vec<f32> = (0..3).map(value).collect();
            Tensor::<4>::from_data(TensorData::new(values, [1, 3, 1, 1]), device)
        };
        let differs = student.mean != teacher.mean || student.std != teacher.std;
        let renormalise = differs.then(|| {
            let factor = row(&|c| student.std[c] / teacher.std[c]);
            [factor, row(&|c| (student.mean[c] - teacher.mean[c]) / teacher.std[c])]
        });
        Self { network, renormalise, alpha, temperature }
    }

    /// Whether the student's images are normalised anew for the teacher.
    pub fn renormalises(&self) -> bool {
        self.renormalise.is_some()
    }

    fn logits(&self, images: Tensor<4>) -> Tensor<2> {
        let images = match &self.renormalise {
            Some([factor, summand]) => images * factor.clone() + summand.clone(),
            None => images,
        };
        self.network.forward(images)
    }
}
