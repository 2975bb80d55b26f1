//! `kindling export`: a checkpoint as a file that other runtimes take.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use deploy::classifier::Classifier;
use deploy::onnx::{Description, IMAGE, INPUT, LOGITS, OnnxModel, to_onnx, to_onnx_of_images};
use deploy::quantization::Quantization;
use deploy::web::{WebRuntime, folder, page};
use nn::geometry::Padding;
use nn::weights::state_dict::state_dict_as;
use transforms::preprocess::Preprocess;

use crate::commands::checkpoint_args::{WeightsArgs, chosen, load_classifier};
use crate::commands::convert::{Float, Names, loaded_in_python, write};
use crate::commands::int8::{Int8Args, quantized};
use crate::commands::web_runtime::web_runtime;
use crate::config::plan::Plan;
use crate::datasets::layout::val_folder;
use crate::datasets::listing::first_image;
use crate::device::Backend;
use crate::error::Error;
use crate::files::{self, create_folders, extension, write_atomically};
use crate::out;
use crate::run::checkpoint::Checkpoint;

/// The kind of file to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For ONNX Runtime, OpenVINO and other runtimes
    Onnx,
    /// Weights for timm or torchvision, under their names
    Safetensors,
    /// One HTML file that classifies pictures in the browser, without a server
    Web,
}

impl Format {
    const ALL: [Self; 3] = [Self::Onnx, Self::Safetensors, Self::Web];

    /// The ending of the file's name.
    fn ending(self) -> &'static str {
        match self {
            Self::Onnx => "onnx",
            Self::Safetensors => "safetensors",
            Self::Web => "html",
        }
    }
}

/// Who prepares images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Preprocessing {
    /// Whoever runs the file, as its metadata says
    Caller,
    /// The file: its input are the bytes of decoded images, of any size. For ONNX Runtime on a CPU
    Graph,
}

/// Arguments of `kindling export`.
#[derive(Args)]
pub struct ExportArgs {
    /// Checkpoint, or the folder of a run [default: the newest run in checkpoints]
    #[arg(value_name = "CKPT")]
    checkpoint: Option<PathBuf>,
    /// Format of the file [default: by the ending of --output, otherwise onnx]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
    /// Names of a .safetensors file, and the library whose call is printed
    #[arg(long, value_enum, default_value = "timm", value_name = "SCHEME")]
    names: Names,
    /// File to write; for `web` also a folder, for a server [default: CKPT with the ending of the
    /// format]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    weights: WeightsArgs,
    /// Folder with the files of npm's onnxruntime-web for a page [default: the package, fetched
    /// once]
    #[arg(long, value_name = "DIR", hide_short_help = true)]
    runtime: Option<PathBuf>,
    /// Image on which the file is compared with the checkpoint [default: one of the training's
    /// evaluation, otherwise a drawn one]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    image: Option<PathBuf>,
    /// Where images are resized, cropped and normalised, for ONNX
    #[arg(long, value_enum, default_value = "caller", value_name = "WHO", hide_short_help = true)]
    preprocessing: Preprocessing,
    #[command(flatten)]
    int8: Int8Args,
}

/// The image of the comparison where there is no photo.
const DRAWN: &str = "a drawn one";

/// Writes the file and says what it takes, and how it was checked. A file that does not pass its
/// check is not written.
///
/// # Errors
/// A checkpoint or image that cannot be read; a file that answers otherwise than the checkpoint.
pub fn export(args: &ExportArgs) -> Result<(), Error> {
    let path = chosen(args.checkpoint.as_deref())?;
    let (format, output) = match (args.format, &args.output) {
        // A folder for a web server.
        (Some(Format::Web), Some(output)) if output.extension().is_none() => {
            (Format::Web, output.clone())
        }
        (Some(format), Some(output)) => {
            extension(output, &[format.ending()])?;
            (format, output.clone())
        }
        (None, Some(output)) => {
            let ending = extension(output, &Format::ALL.map(Format::ending))?;
            let own = Format::ALL.into_iter().find(|format| format.ending() == ending);
            (own.expect("one of them"), output.clone())
        }
        (None | Some(Format::Onnx), None) => {
            let ending = match (args.int8.int8, args.preprocessing) {
                (false, Preprocessing::Caller) => "onnx",
                (true, Preprocessing::Caller) => "int8.onnx",
                (false, Preprocessing::Graph) => "image.onnx",
                (true, Preprocessing::Graph) => "image.int8.onnx",
            };
            (Format::Onnx, path.with_extension(ending))
        }
        (Some(format), None) => (format, path.with_extension(format.ending())),
    };
    if args.preprocessing == Preprocessing::Graph && format != Format::Onnx {
        return Err(Error::usage(format!(
            "--preprocessing graph: {}: it is for ONNX alone",
            output.display()
        )));
    }
    if args.int8.int8 && format != Format::Onnx {
        return Err(Error::usage(format!(
            "--int8: {}: 8-bit integers are for ONNX alone; in a browser they are slower than floats",
            output.display()
        )));
    }
    // For the comparison: the CPU, as everywhere.
    let classifier = load_classifier(&path, args.weights, &Backend::Flex.open()?.device)?;
    match format {
        Format::Onnx => onnx(args, &path, &output, &classifier),
        Format::Web => web(args, &path, &output, &classifier),
        Format::Safetensors => {
            let (network, names) = (classifier.network(), args.names.into());
            write(&output, &state_dict_as(network, names), Float::F32)?;
            out!("{}: {names:?} names", output.display());
            out!("{}", loaded_in_python(&output, network.config(), names));
            out!("{}", preparation(classifier.preprocess()));
            Ok(())
        }
    }
}

/// What an ONNX file says about its checkpoint.
fn description(path: &Path, plan: &Plan) -> Result<Description, Error> {
    let bytes = files::read(path).map_err(|error| {
        Error::checkpoint(format!("{}: cannot read it: {error}", path.display()))
    })?;
    let model = plan.network.model.clone();
    Ok(Description { model, source_crc32: Some(crc32fast::hash(&bytes)) })
}

/// A checked ONNX model of a checkpoint.
struct CheckedOnnx {
    model: OnnxModel,
    description: Description,
    /// The image of the check.
    image: String,
}

/// The ONNX model of a checkpoint, checked on an image of its data.
fn checked(args: &ExportArgs, path: &Path, classifier: &Classifier) -> Result<CheckedOnnx, Error> {
    let plan = Checkpoint::read(path)?.manifest.plan;
    let (image, mut named) = picture(args.image.as_deref(), &plan.data.data_dir)?;
    let description = description(path, &plan)?;
    let mut onnx = to_onnx(classifier, &description, image.as_deref());
    if let (Err(deploy::error::Error::Bytes(_)), None) = (&onnx, &args.image) {
        // Nobody named the damaged image.
        onnx = to_onnx(classifier, &description, None);
        DRAWN.clone_into(&mut named);
    }
    let onnx = onnx.map_err(|error| match error {
        deploy::error::Error::Bytes(why) => Error::data(format!("{named}: {why}")),
        error => Error::checkpoint(format!("{}: {error}; no file was written", path.display())),
    })?;
    Ok(CheckedOnnx { model: onnx, description, image: named })
}

fn onnx(
    args: &ExportArgs,
    path: &Path,
    output: &Path,
    classifier: &Classifier,
) -> Result<(), Error> {
    if args.int8.int8 {
        return int8(args, path, output, classifier);
    }
    let CheckedOnnx { model: OnnxModel { mut bytes, difference }, image, description } =
        checked(args, path, classifier)?;
    if args.preprocessing == Preprocessing::Graph {
        bytes = of_images(path, classifier, &description, None)?;
    }
    write_atomically(output, &bytes)?;
    said(args, output, &bytes, classifier, "ONNX opset 18");
    out!(
        "checked: rten ran the file on a random image and on {image}, alone and together; logits differ by at \
         most {difference:.0e} of their size"
    );
    out!("classes and preparation are in its metadata; docs/guide.md#export shows how to run it");
    Ok(())
}

fn int8(
    args: &ExportArgs,
    path: &Path,
    output: &Path,
    classifier: &Classifier,
) -> Result<(), Error> {
    let plan = Checkpoint::read(path)?.manifest.plan;
    let description = description(path, &plan)?;
    let (OnnxModel { mut bytes, difference }, quantization) =
        quantized(&args.int8, path, &plan, classifier, &description)?;
    if args.preprocessing == Preprocessing::Graph {
        bytes = of_images(path, classifier, &description, Some(&quantization))?;
    }
    write_atomically(output, &bytes)?;
    said(args, output, &bytes, classifier, "ONNX opset 18, int8 (QDQ)");
    out!(
        "checked: rten ran the file on calibration images; logits differ from the rounded network's by \
         {difference:.0e} of their size"
    );
    out!("runtimes round elsewhere: measure the file in yours; docs/guide.md#int8 shows how");
    Ok(())
}

/// The form of a file that prepares images itself.
fn of_images(
    path: &Path,
    classifier: &Classifier,
    description: &Description,
    quantization: Option<&Quantization>,
) -> Result<Vec<u8>, Error> {
    to_onnx_of_images(classifier, description, quantization).map_err(|error| {
        Error::checkpoint(format!(
            "--preprocessing graph: {}: {error}; omit the flag: the metadata says how to prepare images",
            path.display()
        ))
    })
}

/// What a file takes and gives.
fn said(args: &ExportArgs, output: &Path, bytes: &[u8], classifier: &Classifier, form: &str) {
    let config = classifier.network().config();
    let rule = classifier.preprocess();
    let [height, width] = rule.crop;
    let size = match config.padding == Padding::Same {
        true => format!("{height}, {width}"),
        false => "height, width".to_owned(),
    };
    out!("{}: {:.1} MB, {form}", output.display(), bytes.len() as f64 / 1e6);
    if args.preprocessing == Preprocessing::Graph {
        out!(
            "input `{IMAGE}` [batch, height, width, 3] bytes, decoded and upright -> output `{LOGITS}` [batch, {}] f32",
            config.num_classes
        );
        out!("for ONNX Runtime on a CPU: other runtimes resize in another way, or refuse");
        return;
    }
    out!(
        "input `{INPUT}` [batch, 3, {size}] f32 -> output `{LOGITS}` [batch, {}] f32",
        config.num_classes
    );
    out!("{}", preparation(rule));
}

fn web(
    args: &ExportArgs,
    path: &Path,
    output: &Path,
    classifier: &Classifier,
) -> Result<(), Error> {
    let onnx = checked(args, path, classifier)?;
    let [module, wasm] = web_runtime(args.runtime.as_deref())?;
    let runtime = WebRuntime { module: &module, wasm: &wasm };
    if output.extension().is_none() {
        create_folders(output)?;
        for (name, bytes) in folder(classifier, &onnx.description, &onnx.model, runtime) {
            write_atomically(&output.join(name), &bytes)?;
        }
        out!("{}: index.html with its model and runtime, for a web server", output.display());
        out!("browsers open it over http alone; without a server --output FILE.html is one page");
        return Ok(());
    }
    let page = page(classifier, &onnx.description, &onnx.model, runtime);
    write_atomically(output, page.as_bytes())?;
    out!("{}: {:.1} MB, one page with the model in it", output.display(), page.len() as f64 / 1e6);
    out!("open it in a browser: no server is needed, and pictures stay on the device");
    Ok(())
}

/// How an image becomes the input, in words.
fn preparation(rule: &Preprocess) -> String {
    let [height, width] = rule.crop;
    let exif = if rule.exif { "turned by its EXIF orientation, " } else { "" };
    let filter = serde_json::json!(rule.interpolation);
    format!(
        "an image is {exif}resized to a short edge of {} ({}, antialiased), cropped to {height}x{width} in the \
         middle, RGB / 255, less {:?}, by {:?}",
        rule.resize,
        filter.as_str().unwrap_or_default(),
        rule.mean,
        rule.std
    )
}

/// The bytes of the image for the comparison and its name: the one that is given, one that the run
/// evaluated on, or none.
fn picture(given: Option<&Path>, data_dir: &Path) -> Result<(Option<Vec<u8>>, String), Error> {
    let read = |path: &Path| {
        files::read(path)
            .map_err(|error| Error::data(format!("{}: cannot read it: {error}", path.display())))
    };
    if let Some(path) = given {
        return Ok((Some(read(path)?), path.display().to_string()));
    }
    let folder = val_folder(data_dir).unwrap_or_else(|| data_dir.to_path_buf());
    let found = first_image(&folder).and_then(|path| Some((read(&path).ok()?, path)));
    Ok(match found {
        Some((bytes, path)) => (Some(bytes), path.display().to_string()),
        None => (None, DRAWN.to_owned()),
    })
}
