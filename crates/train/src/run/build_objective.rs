//! The objective of a plan: its loss, the weights of its classes, its teacher.

use std::collections::HashMap;
use std::path::Path;

use burn::module::Module as _;
use burn::tensor::{Device, Tensor, TensorData};
use nn::weights::load::{HeadPolicy, load_state_dict};

use crate::config::plan::Plan;
use crate::datasets::image_folder::ImageFolder;
use crate::error::Error;
use crate::learner::loss::Loss;
use crate::learner::objective::{Objective, Teacher};
use crate::run::checkpoint::Checkpoint;
use crate::suggest::{did_you_mean, nearest};
use crate::text_list::{Line, lines, read_text};
use deploy::manifest::WeightsKind;

/// The objective of `plan` for the training images `train` on `device` (without autodiff), and a
/// note on its teacher.
///
/// # Errors
/// A file of class weights or a teacher that does not fit the data.
pub fn build_objective(
    plan: &Plan,
    train: &ImageFolder,
    device: &Device,
) -> Result<(Objective, Option<String>), Error> {
    let autodiff_device = device.clone().autodiff();
    let classes = train.classes.len();
    let weights = plan.training.class_weights.as_deref().map(|source| match source {
        "balanced" => Ok(balanced(train)),
        file => from_file(Path::new(file), &train.classes),
    });
    let weights = weights.transpose()?.map(|values| {
        Tensor::<2>::from_data(TensorData::new(values, [1, classes]), &autodiff_device)
    });
    let loss = Loss {
        binary: plan.training.bce_loss,
        threshold: plan.training.bce_target_thresh,
        summed: plan.training.bce_sum,
        gamma: plan.training.focal_gamma,
        weights,
    };
    let (teacher, note) = match &plan.training.teacher {
        Some(path) => {
            let (teacher, note) = open_teacher(path, plan, &train.classes, device)?;
            (Some(teacher), Some(note))
        }
        None => (None, None),
    };
    Ok((Objective { loss, smoothing: plan.regularisation.smoothing, classes, teacher }, note))
}

/// The inverse share of each class in the images, scaled to a mean of 1 over the images.
fn balanced(train: &ImageFolder) -> Vec<f32> {
    let classes = train.classes.len();
    let mut counts = vec![0_usize; classes];
    train.items.iter().for_each(|(_, label)| counts[*label] += 1);
    let all = train.items.len() as f64;
    counts.iter().map(|n| (all / (classes as f64 * (*n).max(1) as f64)) as f32).collect()
}

/// Reads the weight of every class, in the order of `classes`, from lines of `class,weight`.
fn from_file(path: &Path, classes: &[String]) -> Result<Vec<f32>, Error> {
    let file = path.display();
    let text = read_text(path).map_err(|why| {
        let near = did_you_mean(&file.to_string(), &["balanced", "none"]);
        Error::usage(format!("--class-weights: {file}{near}: {why}; give balanced, none or a file"))
    })?;
    let mut found = vec![None; classes.len()];
    let known: HashMap<&str, usize> = classes.iter().map(String::as_str).zip(0..).collect();
    for Line { number, text, .. } in lines(&text) {
        let wrong =
            |what: String| Error::usage(format!("--class-weights: {file}: line {number}: {what}"));
        let (class, weight) =
            text.rsplit_once(',').ok_or_else(|| wrong("expected `class,weight`".into()))?;
        let class = class.trim();
        let weight = weight.trim().parse::<f32>().ok().filter(|w| w.is_finite() && *w >= 0.0);
        let weight = weight.ok_or_else(|| wrong("the weight is no number of at least 0".into()))?;
        let Some(&index) = known.get(class) else {
            let near = nearest(class, classes)
                .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            return Err(wrong(format!("no class `{class}` in the data{near}")));
        };
        if found[index].replace(weight).is_some() {
            return Err(wrong(format!("`{class}` has a weight already; give each class one")));
        }
    }
    if let Some(index) = found.iter().position(Option::is_none) {
        let class = &classes[index];
        return Err(Error::usage(format!(
            "--class-weights: {file}: no weight for `{class}`; add a line `{class},1`"
        )));
    }
    Ok(found.into_iter().flatten().collect())
}

/// Opens the teacher at `path` for the classes of the data, with a note for the log.
fn open_teacher(
    path: &Path,
    plan: &Plan,
    classes: &[String],
    device: &Device,
) -> Result<(Teacher, String), Error> {
    let file = path.display();
    let mut checkpoint = Checkpoint::read(path)?;
    let weights = checkpoint.take(WeightsKind::Best)?;
    let manifest = checkpoint.manifest;
    if manifest.classes != classes {
        let odd = manifest.classes.iter().zip(classes).find(|(a, b)| a != b);
        let first = odd.map_or_else(String::new, |(a, b)| format!(", `{a}` where it has `{b}`"));
        return Err(Error::usage(format!(
            "--teacher: {file}: {} classes where the data has {}{first}; give a teacher that was \
             trained on the same classes",
            manifest.classes.len(),
            classes.len()
        )));
    }
    let min_size = manifest.network.architecture.min_size();
    if plan.data.img_size < min_size {
        return Err(Error::usage(format!(
            "--teacher: {file}: needs images of at least {min_size} pixels; raise --img-size"
        )));
    }
    let network = manifest.network.init_zero(&device.clone().autodiff());
    let (network, _) = load_state_dict(network, weights, HeadPolicy::Exact)
        .map_err(|e| Error::checkpoint(format!("{file}: {e}")))?;
    let (student, its) = (plan.preprocess(), manifest.preprocess);
    let (alpha, temperature) = (plan.training.distill_alpha, plan.training.distill_temperature);
    let teacher = Teacher::new(network.valid(), [&student, &its], alpha, temperature, device);
    let normalised = if teacher.renormalises() { ", renormalised for it" } else { "" };
    let size = match student.crop == its.crop {
        true => String::new(),
        false => format!(", which it was trained on at {} pixels", its.crop[0]),
    };
    let note = format!(
        "teacher: {} from {file} on the student's images of {} pixels{size}{normalised}",
        manifest.plan.network.model, plan.data.img_size
    );
    Ok((teacher, note))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations caught: the number of classes missing in the divisor.
    #[test]
    fn balanced_weights_are_the_inverse_of_the_shares() {
        let item = |label| (std::path::PathBuf::new(), label);
        let folder = ImageFolder {
            root: "x".into(),
            classes: vec!["a".into(), "b".into()],
            items: vec![item(0), item(0), item(0), item(1)],
            notes: Vec::new(),
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
