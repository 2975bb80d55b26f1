//! The command line: parse, dispatch, print the one sentence of a failure, return the exit code.
//!
//! Exit codes: 0 done, 2 usage, 3 data, 4 out of time and saved, 5 diverged, 6 checkpoint, 7 backend, 8 file,
//! 130/143 interrupted by SIGINT/SIGTERM with the run saved.
#![expect(clippy::print_stderr, reason = "this is the console's front door")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use burn::module::Module as _;
use burn::tensor::Device;
use clap::{Args, Parser, Subcommand, ValueEnum};
use kernels::isa::Isa;
use kernels::ops::threads::inside;
use nn::cost::cost;
use nn::models::variants::VARIANTS;
use nn::network::Network;
use nn::weights::{HeadPolicy, load_state_dict};
use safetensors::tensor::{Dtype, TensorView};

use crate::commands::average::{Merge, Reestimate, average, reestimate};
use crate::commands::bench::{Bench, bench};
use crate::commands::convert::{Convert, convert};
use crate::commands::data::{Data, data};
use crate::commands::explain::{Explain, explain};
use crate::commands::forward::{Forward, forward};
use crate::commands::lr_find::{LrFind, lr_find};
use crate::commands::predict::{gather, predict};
use crate::commands::profile::{Profile, profile};
use crate::commands::replay::{Replay, replay};
use crate::commands::summary::{Summary, summary};
use crate::commands::train::{Train, train};
use crate::config::recipe::{Recipes, recipes};
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::loader::{Loader, LoaderConfig, Mode};
use crate::datasets::quarantine;
use crate::device;
use crate::device::Backend;
use crate::error::Error;
use crate::learner::evaluate::{Report, evaluate};
use crate::out;
use crate::run::checkpoint::{Checkpoint, Manifest, WeightsKind, write_atomically};
use crate::run::fit;
use crate::run::logger::{LogFormat, Logger, accuracy_line};
use crate::run::run_folder;
use crate::run::run_folder::quoted;
use crate::signal::Stop;
use transforms::decode::decode;
use transforms::preprocess::{Interpolation, Preprocess};

/// Trains, evaluates and ships efficient image classifiers.
#[derive(Parser)]
#[command(name = "kindling", version, propagate_version = true, args_override_self = true)]
struct Program {
    #[command(subcommand)]
    command: Command,
    /// Threads of the CPU kernels [default: as many as cores]
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,
    /// Instructions of the CPU kernels: portable, neon, avx2 or avx512 [default: the machine's largest set]
    #[arg(long, global = true, value_name = "NAME")]
    isa: Option<String>,
}

/// Makes the one pool of threads and chooses the instructions, where they are given; before anything has run.
fn prepare(threads: Option<u32>, isa: Option<&str>) -> Result<(), Error> {
    if let Some(isa) = isa {
        Isa::force(isa).map_err(|why| Error::usage(format!("--isa: {why}")))?;
    }
    let Some(threads) = threads else { return Ok(()) };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads as usize)
        .build_global()
        .map_err(|why| Error::usage(format!("--threads {threads}: {why}")))
}

#[derive(Subcommand)]
enum Command {
    /// Train a network on a folder of images
    #[command(args_override_self = true, allow_negative_numbers = true)]
    Train(Box<Train>),
    /// Evaluate a checkpoint on a folder of images
    #[command(alias = "val", alias = "validate")]
    Eval(Eval),
    /// Name the images in files and folders
    Predict(Predict),
    /// Write exactly what the network is fed
    Preprocess(PreprocessArgs),
    /// List the variants with parameters, multiply-adds, published accuracy and source
    Models,
    /// List published ways to train, for `train --recipe`
    Recipes(Recipes),
    /// Print a network layer by layer
    Summary(Box<Summary>),
    /// Show what convolutions, blocks and multipliers cost, with your numbers
    Explain(Explain),
    /// Convert weights between files and naming schemes
    Convert(Box<Convert>),
    /// Run a network, or training steps, on tensors from a file
    Forward(Box<Forward>),
    /// Measure how many images a second a network trains on or infers
    Bench(Box<Bench>),
    /// Measure each layer of a network against what this machine could do at best
    Profile(Box<Profile>),
    /// Look after a folder of images
    #[command(subcommand)]
    Data(Data),
    /// Look for a learning rate: the loss along a rising one, as CSV and SVG
    #[command(name = "lr-find", args_override_self = true)]
    LrFind(Box<LrFind>),
    /// Write a checkpoint whose weights are the mean of several
    Average(Merge),
    /// Estimate the statistics of batch norm anew
    #[command(name = "bn-reestimate")]
    Reestimate(Reestimate),
    /// Run a batch again whose loss or gradient was not finite
    Replay(Replay),
    /// Say what a checkpoint is
    Inspect {
        /// The checkpoint
        #[arg(value_name = "CKPT")]
        checkpoint: PathBuf,
        /// Print the whole manifest as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct Eval {
    /// The checkpoint
    #[arg(long, value_name = "CKPT")]
    checkpoint: PathBuf,
    #[command(flatten)]
    weights: Weights,
    /// Folder with val/<class>/* or <class>/* [default: that of the training]
    #[arg(value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Name of the split folder [default: val, validation, valid or test]
    #[arg(long)]
    val_split: Option<String>,
    /// Images per batch
    #[arg(short, long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// Threads that prepare images
    #[arg(short = 'j', long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,
    /// Where the network runs; `list` is for `train`
    #[arg(long, value_enum, default_value = "auto")]
    backend: Backend,
    /// End at the first unreadable image
    #[arg(long)]
    strict_data: bool,
    /// List of images to leave out [default: DIR/quarantine.txt, if it is there]
    #[arg(long, value_name = "FILE", conflicts_with = "ignore_quarantine")]
    quarantine: Option<PathBuf>,
    /// Take the images on the quarantine list too
    #[arg(long)]
    ignore_quarantine: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Print a row for every class
    #[arg(long)]
    per_class: bool,
    /// Write per_class.csv and confusion.csv into this folder
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Csv,
    Json,
}

#[derive(Args)]
struct Predict {
    /// The checkpoint
    #[arg(long, value_name = "CKPT")]
    checkpoint: PathBuf,
    #[command(flatten)]
    weights: Weights,
    /// Images and folders
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<PathBuf>,
    /// Guesses per image
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    topk: u32,
    /// Form of the output
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Images per batch
    #[arg(short, long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// Where the network runs
    #[arg(long, value_enum, default_value = "auto")]
    backend: Backend,
}

#[derive(Args)]
struct PreprocessArgs {
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// safetensors file with `input` [n,3,h,w]; file names in the metadata
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Take the rule from a checkpoint
    #[arg(long, value_name = "CKPT",
          conflicts_with_all = ["resize", "crop", "interpolation", "mean", "std"])]
    checkpoint: Option<PathBuf>,
    /// Short edge after resizing
    #[arg(long, default_value_t = 256)]
    resize: usize,
    /// Height and width of the centre crop
    #[arg(long, default_value_t = 224)]
    crop: usize,
    /// Resampling filter
    #[arg(long, value_enum, default_value = "bilinear")]
    interpolation: Interpolation,
    /// Mean of each channel
    #[arg(long, num_args = 3, value_names = ["R", "G", "B"])]
    mean: Option<Vec<f32>>,
    /// Standard deviation of each channel
    #[arg(long, num_args = 3, value_names = ["R", "G", "B"])]
    std: Option<Vec<f32>>,
    /// Turn images by their EXIF orientation
    #[arg(long)]
    exif: bool,
}

/// Runs the program on its words, the name of the program first.
pub fn main(words: Vec<OsString>) -> ExitCode {
    let lists = |pair: &[OsString]| pair[0] == "--backend" && pair[1] == "list";
    if words.windows(2).any(lists) || words.iter().any(|w| w == "--backend=list") {
        device::list().iter().for_each(|line| out!("{line}"));
        return ExitCode::SUCCESS;
    }
    let program = match Program::try_parse_from(words) {
        Ok(program) => program,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let result = prepare(program.threads, program.isa.as_deref())
        .and_then(|()| inside(|| run(program.command)));
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

fn run(command: Command) -> Result<u8, Error> {
    match command {
        Command::Train(args) => train(&args),
        Command::Eval(args) => eval(&args),
        Command::Predict(args) => guess(&args),
        Command::Preprocess(args) => preprocess(&args),
        Command::Models => {
            models();
            Ok(0)
        }
        Command::Recipes(args) => recipes(&args).map(|()| 0),
        Command::Summary(args) => summary(&args).map(|()| 0),
        Command::Explain(args) => explain(&args).map(|()| 0),
        Command::Convert(args) => convert(&args).map(|said| {
            out!("{said}");
            0
        }),
        Command::Forward(args) => forward(&args).map(|()| 0),
        Command::Bench(args) => bench(&args).map(|()| 0),
        Command::Profile(args) => profile(&args).map(|()| 0),
        Command::Data(words) => data(&words),
        Command::LrFind(args) => lr_find(&args).map(|()| 0),
        Command::Average(args) => average(&args).map(|()| 0),
        Command::Reestimate(args) => reestimate(&args).map(|()| 0),
        Command::Replay(args) => replay(&args).map(|()| 0),
        Command::Inspect { checkpoint, json } => inspect(&checkpoint, json),
    }
}

/// Which weights of a checkpoint to take; the better ones where neither is given.
#[derive(Args)]
struct Weights {
    /// Take the trained weights even where their average was better
    #[arg(long, conflicts_with = "use_ema")]
    raw: bool,
    /// Take the exponential average even where the trained weights were better
    #[arg(long)]
    use_ema: bool,
}

impl Weights {
    fn which(&self) -> WeightsKind {
        match (self.raw, self.use_ema) {
            (true, _) => WeightsKind::Raw,
            (_, true) => WeightsKind::Ema,
            _ => WeightsKind::Best,
        }
    }
}

fn load(
    path: &Path,
    which: WeightsKind,
    backend: Backend,
) -> Result<(Network, Manifest, Device), Error> {
    let mut checkpoint = Checkpoint::read(path)?;
    let weights = checkpoint.take(which)?;
    let chosen = backend.open()?;
    // Built on the autodiff device and then made an inference copy: its running statistics are used.
    let network = checkpoint.manifest.network.init(&chosen.device.clone().autodiff());
    let (network, _) = load_state_dict(network, weights, HeadPolicy::Exact)
        .map_err(|e| Error::checkpoint(format!("{}: {e}", path.display())))?;
    Ok((network.valid(), checkpoint.manifest, chosen.device))
}

fn eval(args: &Eval) -> Result<u8, Error> {
    let (network, manifest, device) = load(&args.checkpoint, args.weights.which(), args.backend)?;
    let root = args.data_dir.as_ref().unwrap_or(&manifest.plan.data_dir);
    let plan = &manifest.plan;
    let mut folder = match (plan.val_fraction, &args.data_dir, &args.val_split) {
        // The images that the run itself set aside, and no others.
        (Some(share), None, None) => ImageFolder::split(root, share, plan.seed)?.1,
        _ => ImageFolder::open_val(root, args.val_split.as_deref(), &manifest.classes)?,
    };
    if !args.ignore_quarantine {
        quarantine::leave_out_of_val(root, args.quarantine.as_deref(), &mut folder)?;
    }
    folder.notes.iter().for_each(|note| eprintln!("note: {note}"));
    let folder = Arc::new(folder);
    let config = LoaderConfig {
        batch_size: args.batch_size as usize,
        workers: args.workers as usize,
        prefetch_bytes: fit::PREFETCH_BYTES,
        seed: 0,
        strict: args.strict_data,
        drop_last: false,
    };
    let images = folder.items.len();
    let loader = Loader::new(folder, manifest.preprocess.clone(), Mode::Eval, config);
    let stop = Stop::listen().map_err(|e| Error::file(format!("signals: {e}")))?;
    let mut logger = Logger::new(1, LogFormat::Text);
    let each = |done| logger.evaluated(done, images);
    let report = evaluate(&network, &loader, &manifest.classes, &device, &stop, each)?;
    logger.finish();
    if let (true, Some(signal)) = (report.interrupted, stop.requested()) {
        eprintln!("interrupted after {} of {images} images; no result", report.images);
        return Ok(signal);
    }
    report.skipped.iter().for_each(|line| eprintln!("skipped: {line}"));
    match args.json {
        true => out!("{}", serde_json::to_string_pretty(&report).expect("plain data")),
        false => out!("{}", accuracy_line(&report)),
    }
    if let Some(folder) = &args.output {
        run_folder::write_evaluation(folder, &report)?;
    }
    if args.per_class && !args.json {
        print_classes(&report);
    }
    Ok(0)
}

fn print_classes(report: &Report) {
    out!("{:<24} {:>8} {:>8} {:>8} {:>9}", "class", "images", "correct", "recall", "precision");
    let percent = |a: u64, b: u64| match b {
        0 => "-".to_owned(),
        _ => format!("{:.1}%", 100.0 * a as f64 / b as f64),
    };
    for row in &report.classes {
        out!(
            "{:<24} {:>8} {:>8} {:>8} {:>9}",
            row.class,
            row.images,
            row.correct,
            percent(row.correct, row.images),
            percent(row.correct, row.predicted)
        );
    }
}

fn guess(args: &Predict) -> Result<u8, Error> {
    let files = gather(&args.sources)?;
    let (network, manifest, device) = load(&args.checkpoint, args.weights.which(), args.backend)?;
    let top = (args.topk as usize).min(manifest.classes.len());
    let mut all = Vec::new();
    for chunk in files.chunks(args.batch_size as usize) {
        all.extend(predict(&network, chunk, &manifest.preprocess, &manifest.classes, top, &device));
    }
    match args.format {
        Format::Json => out!("{}", serde_json::to_string_pretty(&all).expect("plain data")),
        Format::Csv => {
            out!("file,rank,class,probability");
            for p in &all {
                for (rank, g) in p.guesses.iter().enumerate() {
                    let file = quoted(&p.file.display().to_string());
                    out!("{file},{},{},{:.6}", rank + 1, quoted(&g.class), g.probability);
                }
            }
        }
        Format::Text => {
            for p in all.iter().filter(|p| p.error.is_none()) {
                let words: Vec<String> =
                    p.guesses.iter().map(|g| format!("{} {:.3}", g.class, g.probability)).collect();
                out!("{}: {}", p.file.display(), words.join(", "));
            }
        }
    }
    let mut bad = 0;
    for p in &all {
        if let Some(error) = &p.error {
            eprintln!("error: {}: {error}", p.file.display());
            bad += 1;
        }
    }
    Ok(if bad > 0 { 3 } else { 0 })
}

fn preprocess(args: &PreprocessArgs) -> Result<u8, Error> {
    let three = |flag: &str, given: &Option<Vec<f32>>, default: [f32; 3]| match given {
        None => Ok(default),
        Some(v) => <[f32; 3]>::try_from(v.as_slice())
            .map_err(|_| Error::usage(format!("{flag}: expected 3 numbers, got {}", v.len()))),
    };
    let mut rule = match &args.checkpoint {
        Some(path) => Checkpoint::read(path)?.manifest.preprocess,
        None => {
            let imagenet = Preprocess::imagenet(args.resize, args.crop);
            Preprocess {
                interpolation: args.interpolation,
                mean: three("--mean", &args.mean, imagenet.mean)?,
                std: three("--std", &args.std, imagenet.std)?,
                ..imagenet
            }
        }
    };
    rule.exif |= args.exif;
    rule.validate().map_err(Error::usage)?;
    let mut bytes = Vec::new();
    for path in &args.images {
        let fail = |e: &dyn std::fmt::Display| Error::data(format!("{}: {e}", path.display()));
        let pixels = std::fs::read(path).map_err(|e| fail(&e))?;
        let pixels = decode(&pixels, rule.exif).map_err(|e| fail(&e))?;
        bytes.extend(rule.apply(&pixels).iter().flat_map(|v| v.to_le_bytes()));
    }
    let shape = vec![args.images.len(), 3, rule.crop[0], rule.crop[1]];
    let view = TensorView::new(Dtype::F32, shape, &bytes).expect("four bytes for every element");
    let names: Vec<String> = args.images.iter().map(|p| p.display().to_string()).collect();
    let metadata = std::collections::HashMap::from([
        ("files".to_owned(), serde_json::to_string(&names).expect("strings")),
        ("preprocess".to_owned(), serde_json::to_string(&rule).expect("plain data")),
    ]);
    let file = safetensors::serialize([("input", view)], Some(metadata)).expect("one tensor");
    write_atomically(&args.output, &file)?;
    Ok(0)
}

fn models() {
    out!(
        "{:<32} {:>6} {:>5} {:>11} {:>14} {:>7} {:>7}  source",
        "model",
        "width",
        "size",
        "parameters",
        "multiply-adds",
        "top-1",
        "top-5"
    );
    let percent = |p: Option<f64>| p.map_or_else(|| "-".to_owned(), |p| format!("{p:.2}"));
    for v in VARIANTS {
        let size = v.architecture.native_size();
        let cost = cost(&v.config(1000), size, size);
        out!(
            "{:<32} {:>6} {size:>5} {:>11} {:>14} {:>7} {:>7}  {}",
            v.name,
            v.width,
            cost.parameters,
            cost.multiply_adds,
            percent(v.top1),
            percent(v.top5),
            v.source
        );
    }
    out!(
        "for 1000 classes; multiply-adds of convolutions and linear layers; accuracy on ImageNet-1k as \
         published, not measured here; any width with --width"
    );
}

fn inspect(path: &Path, json: bool) -> Result<u8, Error> {
    let checkpoint = Checkpoint::read(path)?;
    let manifest = &checkpoint.manifest;
    if json {
        out!("{}", serde_json::to_string_pretty(manifest).expect("plain data"));
        return Ok(0);
    }
    let values = |it: &mut dyn Iterator<Item = usize>| it.sum::<usize>();
    out!("{}: checksums right", path.display());
    out!("network     {} width {}", manifest.network.architecture.name(), manifest.network.width);
    out!("classes     {}: {}", manifest.classes.len(), manifest.classes.join(", "));
    out!("preprocess  {}", serde_json::to_string(&manifest.preprocess).expect("plain data"));
    let p = &manifest.position;
    out!("position    epoch {}, batch {}, step {}", p.epoch, p.batch, p.step);
    if let Some(best) = manifest.best {
        out!("best        {:.3} % top-1 at epoch {}", 100.0 * best.top1, best.epoch);
    }
    out!(
        "weights     {} values in {} tensors",
        values(&mut checkpoint.weights.iter().map(|t| t.values.len())),
        checkpoint.weights.len()
    );
    out!(
        "optimizer   {:?}, {} values",
        manifest.plan.opt,
        values(&mut checkpoint.optimizer.iter().map(|t| t.values.len()))
    );
    let better = if manifest.prefer_ema { "the better one" } else { "the weights are better" };
    if let Some(updates) = manifest.ema_updates {
        out!("ema         average of {updates} updates, {better}");
    }
    if let Some(epochs) = manifest.swa_epochs {
        out!("swa         average of {epochs} epochs");
    }
    out!("written by  kindling {}", manifest.kindling);
    Ok(0)
}
