//! What `train` says before the first batch and after the last.

use std::path::Path;

use serde_json::{Value, json};

use crate::config::plan::Plan;
use crate::datasets::image_folder::ImageFolder;
use crate::learner::interval::wilson;
use crate::run::log_lines::DOT;
use crate::run::retention::{BEST, LAST};
use crate::run::trainer::RunOutcome;
use nn::cost::cost;

/// What is trained, on what, and how: two lines.
pub(super) fn head(
    plan: &Plan,
    (train, val): (&ImageFolder, &ImageFolder),
    backend: &str,
    ranks: usize,
) -> [String; 2] {
    let classes = train.classes.len();
    let size = plan.data.img_size;
    let cost = cost(&plan.network(classes), size, size);
    let file =
        plan.network.pretrained_path.as_ref().map(|path| {
            path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
        });
    let weights = match plan.network.pretrained.clone().or(file) {
        Some(name) => format!("weights {name}"),
        None => "random weights".to_owned(),
    };
    let what = [
        plan.network.model.clone(),
        weights,
        format!(
            "{}: {} training and {} validation images, {classes} classes",
            plan.data.data_dir.display(),
            train.items.len(),
            val.items.len()
        ),
        format!("{size}x{size} pixels"),
    ];
    let recipe = plan.training.recipe.as_ref().map(|name| format!("recipe {name}"));
    let word = |value: Value| value.as_str().unwrap_or_default().to_owned();
    let how = [
        format!("{} at lr {}", word(json!(plan.optimizer.opt)), plan.optimizer.lr),
        format!("batch {}", plan.training.batch_size * plan.training.grad_accum_steps),
        format!("{} epochs", plan.total_epochs()),
        match ranks {
            1 => format!("{backend}, {} threads", rayon::current_num_threads()),
            _ => format!("{backend}, {ranks} ranks of {} threads", rayon::current_num_threads()),
        },
        format!(
            "{:.2} M parameters, {:.1} M multiply-adds",
            cost.parameters as f64 / 1e6,
            cost.multiply_adds as f64 / 1e6
        ),
    ];
    [what.join(DOT), recipe.into_iter().chain(how).collect::<Vec<_>>().join(DOT)]
}

/// The result of a run that ended, as JSON (accuracies in percent, epochs from 0) and for people.
pub(super) fn closing(
    outcome: &RunOutcome,
    folder: &Path,
    page: Option<&Path>,
) -> (Value, Vec<String>) {
    let images = outcome.report.as_ref().map(|report| report.images);
    let interval = outcome.best.zip(images).map(|(best, images)| {
        let (low, high) = wilson((best.top1 * images as f64).round() as u64, images);
        (best, images, 100.0 * low, 100.0 * high)
    });
    let result = json!({
        "run": folder.to_string_lossy(),
        "steps": outcome.steps,
        "best_epoch": outcome.best.map(|b| b.epoch),
        "best_top1": outcome.best.map(|b| 100.0 * b.top1),
        "best_top1_interval": interval.map(|(.., low, high)| [low, high]),
        "top1": outcome.report.as_ref().map(|r| 100.0 * r.top1),
        "top5": outcome.report.as_ref().map(|r| 100.0 * r.top5),
    });
    let (mut lines, mut model) = (Vec::new(), folder.join(LAST));
    if let Some((best, images, low, high)) = interval {
        lines.push(format!(
            "best: top-1 {:.1} % at epoch {} ({low:.1} to {high:.1} % with 95 % confidence, {images} images)",
            100.0 * best.top1,
            best.epoch + 1
        ));
        model = folder.join(BEST);
    }
    let page = page.map(|page| format!("{DOT}report: {}", page.display()));
    lines.push(format!("model: {}{}", model.display(), page.unwrap_or_default()));
    lines.push(format!("next: kindling predict IMAGE --checkpoint {}", model.display()));
    (result, lines)
}
