//! `kindling export --int8`: calibration, and what the rounding costs on images with labels.

use std::path::{Path, PathBuf};

use clap::Args;
use deploy::classifier::Classifier;
use deploy::onnx::{Description, OnnxModel, OnnxRunner, to_onnx_int8};
use deploy::quantization::{Quantization, quantize};

use crate::commands::predict::gather;
use crate::config::plan::Plan;
use crate::datasets::image_folder::ImageFolder;
use crate::error::Error;
use crate::files;
use crate::run::open_data;
use crate::{err, out};

/// Flags of `export --int8`.
#[derive(Args)]
pub(super) struct Int8Args {
    /// Write ONNX in 8-bit integers: a quarter of the size, and two to three times as fast where
    /// the runtime and the processor have integer kernels [default: floats]
    #[arg(long, help_heading = "int8")]
    pub(super) int8: bool,
    /// With --int8: folder of images from which the ranges are taken [default: the images of the
    /// training]
    #[arg(long, requires = "int8", value_name = "DIR", help_heading = "int8")]
    calibrate: Option<PathBuf>,
    /// Calibration images, spread evenly over the folder [range: 1 to 2000]
    #[arg(long, requires = "int8", default_value_t = 128, value_name = "N", help_heading = "int8")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=2000), hide_short_help = true)]
    calibration_images: u32,
    /// With --int8: folder with `val/<class>/*` or `<class>/*` on which both forms are evaluated
    /// [default: the images of the training's evaluation]
    #[arg(long, requires = "int8", value_name = "DIR", help_heading = "int8")]
    eval: Option<PathBuf>,
    /// Images of the evaluation at most, spread evenly over the folder [range: at least 1]
    #[arg(
        long,
        requires = "int8",
        default_value_t = 1000,
        value_name = "N",
        help_heading = "int8"
    )]
    #[arg(value_parser = clap::value_parser!(u32).range(1..), hide_short_help = true)]
    eval_images: u32,
    /// Write the file even where more than 2 points of accuracy are lost [default: refuse]
    #[arg(long, requires = "int8", help_heading = "int8")]
    force: bool,
}

/// Points of top-1 accuracy that may be lost.
const MAY_LOSE: f64 = 2.0;
/// Images in a pass of the evaluation.
const BATCH: usize = 16;

/// Images of a command, by number.
enum Images {
    Files(Vec<PathBuf>),
    Folder(ImageFolder),
}

impl Images {
    fn len(&self) -> usize {
        match self {
            Self::Files(files) => files.len(),
            Self::Folder(folder) => folder.items.len(),
        }
    }

    /// The network's input for an image; none where it cannot be read.
    fn prepared(&self, index: usize, classifier: &Classifier) -> Option<Vec<f32>> {
        let mut bytes = Vec::new();
        match self {
            Self::Files(files) => bytes = files::read(&files[index]).ok()?,
            Self::Folder(folder) => folder.read_bytes(index, &mut bytes).ok()?,
        }
        classifier.prepare(&bytes).ok()
    }
}

/// At most `most` of `count` numbers, spread evenly.
fn spread(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let taken = count.min(most);
    (0..taken).map(move |i| i * count / taken)
}

/// The images with labels on which the two forms are compared.
struct Comparison {
    images: usize,
    /// Right answers in floats and in integers.
    right: [usize; 2],
    /// Images to which both give the same class.
    agree: usize,
}

/// The ONNX model of a classifier in integers, how it is rounded, and what its rounding costs, on
/// the console.
///
/// # Errors
/// No image to calibrate on; more than 2 points of accuracy lost without `--force`.
pub(super) fn quantized(
    args: &Int8Args,
    checkpoint: &Path,
    plan: &Plan,
    classifier: &Classifier,
    description: &Description,
) -> Result<(OnnxModel, Quantization), Error> {
    let (images, whose) = calibration(args, checkpoint, plan)?;
    let mut values = Vec::new();
    let mut unread = 0;
    for index in spread(images.len(), args.calibration_images as usize) {
        match images.prepared(index, classifier) {
            Some(image) => values.extend(image),
            None => unread += 1,
        }
    }
    if unread > 0 {
        err!("note: {unread} calibration images cannot be read and are omitted");
    }
    if values.is_empty() {
        return Err(Error::data(format!("{whose}: no image of it can be read")));
    }
    let failed = |error: deploy::error::Error| {
        Error::checkpoint(format!("{}: {error}; no file was written", checkpoint.display()))
    };
    let quantization = quantize(classifier, values).map_err(failed)?;
    out!("calibrated on {} images of {whose}", quantization.images);
    let model = to_onnx_int8(classifier, description, &quantization).map_err(failed)?;
    match evaluated(args, checkpoint, plan, classifier)? {
        Some((folder, whose)) => {
            let found =
                compared(&folder, args.eval_images as usize, classifier, &model).map_err(failed)?;
            report_loss(&found, &whose, args.force)?;
        }
        None => err!(
            "note: the loss of accuracy was not measured: there are no images with labels; give --eval DIR"
        ),
    }
    Ok((model, quantization))
}

/// The images for the ranges and their name.
fn calibration(args: &Int8Args, checkpoint: &Path, plan: &Plan) -> Result<(Images, String), Error> {
    if let Some(folder) = &args.calibrate {
        return Ok((
            Images::Files(gather(std::slice::from_ref(folder))?),
            folder.display().to_string(),
        ));
    }
    let root = plan.data.data_dir.display().to_string();
    match open_data::splits(plan, checkpoint.parent()) {
        Ok((train, _)) if !train.items.is_empty() => {
            Ok((Images::Folder(train), format!("{root}, those of the training")))
        }
        _ => Err(Error::usage(format!(
            "--int8: {root}: the images of the training are not there; give --calibrate DIR with about a \
             hundred images like them"
        ))),
    }
}

/// The images with labels and their name; none where there are none and nobody named any.
fn evaluated(
    args: &Int8Args,
    checkpoint: &Path,
    plan: &Plan,
    classifier: &Classifier,
) -> Result<Option<(ImageFolder, String)>, Error> {
    if let Some(folder) = &args.eval {
        let images = ImageFolder::open_val(folder, None, classifier.classes())?;
        return Ok(Some((images, folder.display().to_string())));
    }
    let own = open_data::splits(plan, checkpoint.parent()).ok().map(|(_, val)| val);
    let own = own.filter(|val| !val.items.is_empty() && val.classes == classifier.classes());
    let name = format!("{}, those of the evaluation", plan.data.data_dir.display());
    Ok(own.map(|val| (val, name)))
}

/// Both forms on the same images: the classifier, and the file run by rten.
fn compared(
    folder: &ImageFolder,
    most: usize,
    classifier: &Classifier,
    model: &OnnxModel,
) -> Result<Comparison, deploy::error::Error> {
    let runner = OnnxRunner::new(&model.bytes, classifier)?;
    let mut found = Comparison { images: 0, right: [0; 2], agree: 0 };
    let chosen: Vec<usize> = spread(folder.items.len(), most).collect();
    let images = Images::Folder(folder.clone());
    let classes = classifier.classes().len();
    for chunk in chosen.chunks(BATCH) {
        let prepared = chunk.iter().filter_map(|&index| {
            Some((images.prepared(index, classifier)?, folder.items[index].1))
        });
        let (values, labels): (Vec<Vec<f32>>, Vec<_>) = prepared.unzip();
        let values = values.concat();
        if values.is_empty() {
            continue;
        }
        let integers = runner.logits(&values)?;
        let floats = classifier.classify_prepared(values);
        for ((float, row), label) in
            floats.into_iter().zip(integers.chunks_exact(classes)).zip(labels)
        {
            let best = |row: &[f32]| (0..classes).max_by(|&a, &b| row[a].total_cmp(&row[b]));
            let answers = [best(float?.logits()), best(row)].map(|index| index.unwrap_or(0));
            found.images += 1;
            found.agree += usize::from(answers[0] == answers[1]);
            for (right, answer) in found.right.iter_mut().zip(answers) {
                *right += usize::from(answer == label);
            }
        }
    }
    Ok(found)
}

/// Says what the rounding costs.
///
/// # Errors
/// More than [`MAY_LOSE`] points, unless it is forced.
fn report_loss(found: &Comparison, whose: &str, force: bool) -> Result<(), Error> {
    let &Comparison { images, right, agree } = found;
    if images == 0 {
        return Err(Error::data(format!("{whose}: no image of it can be read")));
    }
    let percent = |count: usize| 100.0 * count as f64 / images as f64;
    let [floats, integers] = right.map(percent);
    let line = format!(
        "top-1 {floats:.1} % in floats, {integers:.1} % in int8; the same class for {:.1} % of {images} images of \
         {whose}",
        percent(agree)
    );
    let lost = floats - integers;
    if lost > MAY_LOSE && !force {
        return Err(Error::checkpoint(format!(
            "int8 loses {lost:.1} points: {line}; no file was written: calibrate on more images (--calibrate, \
             --calibration-images), or write it anyway with --force"
        )));
    }
    out!("{line}");
    Ok(())
}
