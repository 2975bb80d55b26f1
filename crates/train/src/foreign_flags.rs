//! Flags of other trainers, typed from memory: timm's `train.py`, torchvision's
//! `references/classification`, Ultralytics' `yolo classify train`. Each is taken under Kindling's
//! name, taken with a note where there is nothing to do, or refused with what there is instead.

use std::ffi::OsString;
use std::path::Path;

/// What Kindling answers to a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is a flag of Kindling, or a visible alias of one.
    Taken,
    /// It has this name here.
    Renamed(&'static str),
    /// There is nothing to do, and why.
    Nothing(&'static str),
    /// What to do instead.
    Refused(&'static str),
}

use Answer::{Nothing, Refused, Renamed, Taken};

/// A flag of another trainer.
#[derive(Clone, Copy, Debug)]
pub struct ForeignFlag {
    /// Its name, with `--`.
    pub name: &'static str,
    /// A value that is typed with it; empty: it takes none.
    pub value: &'static str,
    /// What Kindling answers.
    pub answer: Answer,
}

const fn flag(name: &'static str, value: &'static str, answer: Answer) -> ForeignFlag {
    ForeignFlag { name, value, answer }
}

const F32: &str = "on a GPU `--amp` trains with 16-bit maps (f16, with a loss scale); the CPU backends compute in f32";
const LAYOUT: &str = "the kernels choose their layout themselves";
const LAUNCHER: &str = "the launcher says it: `mpirun -n N kindling train` (docs/distributed.md)";
const CLASSES: &str = "the number of classes follows the folder; omit it";
const NO_WANDB: &str =
    "every run writes summary.csv, steps.jsonl and report.html, which its tools import; omit it";

/// The flags, by what they are about.
pub const FLAGS: &[ForeignFlag] = &[
    // Data.
    flag("--data-dir", "data", Taken),
    flag("--data-path", "data", Taken),
    flag("--data", "data", Taken),
    flag("--dataset", "folder", Refused("a data set is a folder: `kindling train DIR`")),
    flag(
        "--dataset-download",
        "",
        Refused("nothing is downloaded; give a folder: `kindling train DIR`"),
    ),
    flag(
        "--train-split",
        "train",
        Refused("the training split is the folder `train`, or all images where there is none"),
    ),
    flag(
        "--val-split",
        "val",
        Refused(
            "the evaluation split is `val`, `validation`, `valid` or `test`; `eval` has --val-split",
        ),
    ),
    flag(
        "--class-map",
        "map.txt",
        Refused("the classes are the names of the folders; rename the folders"),
    ),
    flag("--num-classes", "10", Refused(CLASSES)),
    flag("--single-cls", "", Refused(CLASSES)),
    flag(
        "--input-size",
        "3 96 96",
        Refused("--img-size PIXELS; images have three channels and equal edges"),
    ),
    flag("--in-chans", "3", Refused("images have three channels; gray ones are read as such")),
    flag("--input-img-mode", "RGB", Nothing("images are read as RGB")),
    flag("--img-size", "96", Taken),
    flag("--imgsz", "96", Taken),
    flag("--train-crop-size", "96", Renamed("--img-size")),
    flag("--val-crop-size", "96", Refused("--img-size is the crop of both")),
    flag(
        "--val-resize-size",
        "110",
        Refused("--crop-pct, the share of the resized edge that is cropped"),
    ),
    flag("--crop-pct", "0.9", Taken),
    flag("--mean", "0.5 0.5 0.5", Taken),
    flag("--std", "0.5 0.5 0.5", Taken),
    flag("--interpolation", "bilinear", Taken),
    flag("--workers", "2", Taken),
    flag("-j", "2", Taken),
    flag("--cache", "ram", Taken),
    flag("--cache-dataset", "", Refused("--cache disk keeps decoded images for later runs")),
    flag("--fraction", "0.5", Refused("all images are used; make a folder of fewer")),
    // Model and weights.
    flag("--model", "mobilenet_v3_small", Taken),
    flag("--weights", "w.pth", Taken),
    flag("--pretrained-path", "w.pth", Taken),
    flag("--initial-checkpoint", "w.pth", Taken),
    flag("--pretrained", "", Taken),
    flag("--resume", "run", Taken),
    flag("--no-resume-opt", "", Taken),
    flag(
        "--start-epoch",
        "3",
        Refused("--resume goes on where the run stopped, in the middle of an epoch too"),
    ),
    flag("--gp", "avg", Nothing("every network here ends in global average pooling")),
    flag("--head-init-scale", "1", Nothing("a new classifier on trained weights starts at zero")),
    flag("--head-init-bias", "0", Nothing("a new classifier on trained weights starts at zero")),
    flag("--drop", "0.2", Taken),
    flag("--dropout", "0.2", Taken),
    flag(
        "--drop-path",
        "0.1",
        Refused("these networks have no stochastic depth; --drop is the classifier's dropout"),
    ),
    flag(
        "--drop-connect",
        "0.1",
        Refused("these networks have no stochastic depth; --drop is the classifier's dropout"),
    ),
    flag(
        "--drop-block",
        "0.1",
        Refused("these networks have no DropBlock; --drop is the classifier's dropout"),
    ),
    flag("--bn-momentum", "0.1", Taken),
    flag("--bn-eps", "0.001", Taken),
    flag("--sync-bn", "", Taken),
    flag(
        "--dist-bn",
        "reduce",
        Nothing("running statistics are averaged over the ranks in every step"),
    ),
    flag("--split-bn", "", Refused("there is one batch norm for all images")),
    flag("--freeze", "features", Taken),
    // Optimizer.
    flag("--opt", "sgd", Taken),
    flag("--optimizer", "SGD", Renamed("--opt")),
    flag("--opt-eps", "1e-8", Taken),
    flag("--opt-betas", "0.9 0.99", Taken),
    flag("--momentum", "0.9", Taken),
    flag("--weight-decay", "0.0001", Taken),
    flag("--wd", "0.0001", Taken),
    flag("--norm-weight-decay", "0", Taken),
    flag("--bias-weight-decay", "0", Refused("biases have no weight decay")),
    flag("--layer-decay", "0.75", Taken),
    flag("--clip-grad", "1", Taken),
    flag("--clip-grad-norm", "1", Taken),
    flag("--clip-mode", "norm", Taken),
    flag("--lr", "0.1", Taken),
    flag("--lr0", "0.1", Renamed("--lr")),
    flag("--lrf", "0.01", Refused("--min-lr is the rate at the end, not a share of --lr")),
    flag("--lr-base", "0.1", Taken),
    flag("--lr-base-size", "256", Taken),
    flag("--lr-base-scale", "linear", Taken),
    flag("--batch-size", "8", Taken),
    flag("-b", "8", Taken),
    flag("--batch", "8", Renamed("--batch-size")),
    flag("--validation-batch-size", "8", Taken),
    flag("--grad-accum-steps", "2", Taken),
    flag("--nbs", "64", Refused("--grad-accum-steps N gives steps of N batches")),
    // Schedule.
    flag("--epochs", "1", Taken),
    flag("--sched", "cosine", Taken),
    flag("--sched-on-updates", "", Nothing("the rate follows the steps")),
    flag("--lr-scheduler", "step", Taken),
    flag("--cos-lr", "", Nothing("--sched cosine is the default")),
    flag("--lr-step-size", "30", Taken),
    flag("--lr-gamma", "0.1", Taken),
    flag("--lr-min", "0.001", Renamed("--min-lr")),
    flag("--min-lr", "0.0001", Taken),
    flag("--warmup-lr", "0.0001", Taken),
    flag("--warmup-epochs", "1", Taken),
    flag("--lr-warmup-epochs", "1", Taken),
    flag("--lr-warmup-method", "linear", Nothing("the warm-up is linear")),
    flag(
        "--lr-warmup-decay",
        "0.01",
        Refused("--warmup-lr is the rate at the beginning of the warm-up"),
    ),
    flag("--warmup-prefix", "", Refused("the warm-up is a part of the epochs")),
    flag(
        "--warmup-momentum",
        "0.8",
        Refused("the momentum is --momentum throughout; --sched onecycle has a cycle of its own"),
    ),
    flag("--decay-epochs", "30", Taken),
    flag("--decay-milestones", "1", Taken),
    flag("--decay-rate", "0.1", Taken),
    flag("--cooldown-epochs", "1", Taken),
    flag("--patience-epochs", "3", Taken),
    flag("--lr-noise", "0.4 0.9", Taken),
    flag("--lr-cycle-mul", "1", Refused("cosine has one cycle; --sched onecycle is another shape")),
    flag("--lr-k-decay", "1", Refused("cosine has no k; --sched poly has --poly-power")),
    flag("--patience", "5", Taken),
    flag("--time", "1", Taken),
    // Augmentation and regularisation.
    flag("--no-aug", "", Taken),
    flag("--scale", "0.3 1", Taken),
    flag("--ratio", "0.7 1.3", Taken),
    flag("--hflip", "0.5", Taken),
    flag("--fliplr", "0.5", Renamed("--hflip")),
    flag("--vflip", "0.1", Taken),
    flag("--flipud", "0.1", Renamed("--vflip")),
    flag("--color-jitter", "0.4", Taken),
    flag("--color-jitter-prob", "0.8", Refused("--color-jitter is applied to every image")),
    flag(
        "--grayscale-prob",
        "0.1",
        Refused("there is no random gray; --aa has policies with colour"),
    ),
    flag(
        "--gaussian-blur-prob",
        "0.1",
        Refused("there is no random blur; --aa augmix has its own"),
    ),
    flag(
        "--hsv-h",
        "0.015",
        Refused("--color-jitter B,C,S,H is brightness, contrast, saturation and hue"),
    ),
    flag("--degrees", "10", Refused("--aa rand-m9-mstd0.5-inc1 rotates, shears and translates")),
    flag("--mosaic", "1", Refused("mosaics are for detection; --cutmix 1 mixes two images")),
    flag("--aa", "rand-m9", Taken),
    flag("--auto-augment", "ra", Taken),
    flag("--ra-magnitude", "9", Refused("the policy holds it: --aa rand-m9")),
    flag(
        "--ra-sampler",
        "",
        Refused("--aug-repeats 4 repeats each image, each time augmented anew"),
    ),
    flag("--ra-reps", "4", Renamed("--aug-repeats")),
    flag("--aug-repeats", "2", Taken),
    flag(
        "--aug-splits",
        "3",
        Refused("there is no JSD loss; --aa augmix-m3 mixes the chains of one image"),
    ),
    flag(
        "--jsd-loss",
        "",
        Refused("there is no JSD loss; --aa augmix-m3 mixes the chains of one image"),
    ),
    flag("--bce-loss", "", Taken),
    flag("--reprob", "0.2", Taken),
    flag("--random-erase", "0.2", Taken),
    flag("--erasing", "0.2", Renamed("--reprob")),
    flag("--remode", "pixel", Taken),
    flag("--recount", "1", Taken),
    flag("--resplit", "", Refused("there are no augmentation splits")),
    flag("--mixup", "0.2", Taken),
    flag("--mixup-alpha", "0.2", Taken),
    flag("--cutmix", "1", Taken),
    flag("--cutmix-alpha", "1", Taken),
    flag("--mixup-mode", "batch", Nothing("images are mixed by the batch")),
    flag("--smoothing", "0.1", Taken),
    flag("--label-smoothing", "0.1", Taken),
    flag("--train-interpolation", "bilinear", Taken),
    // Averages.
    flag("--model-ema", "", Taken),
    flag("--model-ema-decay", "0.999", Taken),
    flag("--model-ema-force-cpu", "", Nothing("the average is where the weights are")),
    flag(
        "--model-ema-steps",
        "32",
        Refused("the average is updated at every step; choose --model-ema-decay accordingly"),
    ),
    // Machine.
    flag(
        "--device",
        "cuda",
        Refused("--backend ndarray, flex or wgpu; `--backend list` prints those of this machine"),
    ),
    flag(
        "--gpu",
        "0",
        Refused("--backend wgpu uses the graphics adapter; `--backend list` prints it"),
    ),
    flag("--amp", "", Taken),
    flag("--amp-dtype", "bfloat16", Refused(F32)),
    flag("--amp-impl", "native", Refused(F32)),
    flag("--half", "", Renamed("--amp")),
    flag("--channels-last", "", Nothing(LAYOUT)),
    flag("--pin-mem", "", Nothing("there is no copy to pin memory for")),
    flag("--no-prefetcher", "", Nothing("batches are prepared ahead, as many as memory allows")),
    flag(
        "--worker-seeding",
        "all",
        Nothing("every random number follows --seed, whatever the threads"),
    ),
    flag("--torchscript", "", Nothing("there is nothing to compile")),
    flag("--torchcompile", "", Nothing("there is nothing to compile")),
    flag("--compile", "", Nothing("there is nothing to compile")),
    flag("--cudnn-benchmark", "", Nothing(LAYOUT)),
    flag(
        "--use-deterministic-algorithms",
        "",
        Nothing("a CPU run is deterministic for a number of threads"),
    ),
    flag("--deterministic", "", Nothing("a CPU run is deterministic for a number of threads")),
    flag(
        "--grad-checkpointing",
        "",
        Refused(
            "activations are kept; a smaller --batch-size with --grad-accum-steps needs less memory",
        ),
    ),
    flag("--local-rank", "0", Refused(LAUNCHER)),
    flag("--world-size", "2", Refused(LAUNCHER)),
    flag("--dist-url", "env://", Refused(LAUNCHER)),
    flag("--seed", "1", Taken),
    // Output.
    flag("--output", "out", Taken),
    flag("--output-dir", "out", Taken),
    flag("--project", "out", Renamed("--output")),
    flag("--experiment", "e", Taken),
    flag("--name", "e", Taken),
    flag("--exist-ok", "", Refused("a run is never written over; --resume RUN goes on with it")),
    flag("--checkpoint-hist", "3", Taken),
    flag("--recovery-interval", "100", Renamed("--checkpoint-interval-steps")),
    flag(
        "--save-period",
        "1",
        Refused("every epoch is saved; --checkpoint-hist N keeps the best N"),
    ),
    flag(
        "--save-images",
        "",
        Nothing("report.html shows training images as the network sees them"),
    ),
    flag("--plots", "", Nothing("every run ends with report.html")),
    flag("--verbose", "", Nothing("train.log in the run folder has every line")),
    flag("--log-interval", "10", Taken),
    flag("--print-freq", "10", Taken),
    flag("--log-wandb", "", Refused(NO_WANDB)),
    flag("--wandb-project", "p", Refused(NO_WANDB)),
    flag("--eval-metric", "top1", Taken),
    flag("--val-interval", "1", Taken),
    flag("--tta", "1", Refused("there is no test-time augmentation")),
    flag("--test-only", "", Refused("`kindling eval --checkpoint FILE` evaluates")),
    flag("--config", "c.toml", Taken),
    flag("-c", "c.toml", Taken),
];

/// What became of a command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Translated {
    /// The words for Kindling's parser.
    pub words: Vec<OsString>,
    /// Sentences for the user.
    pub notes: Vec<String>,
}

/// Translates the words of `kindling train`, behind the name of the command.
///
/// # Errors
/// The sentence for a flag that means nothing here, or for options typed as `key=value`.
pub fn translate(words: &[OsString]) -> Result<Translated, String> {
    let mut translated = Translated::default();
    let mut left = words.iter().peekable();
    while let Some(word) = left.next() {
        let text = word.to_string_lossy();
        if text == "--" {
            translated.words.push(word.clone());
            translated.words.extend(left.cloned());
            break;
        }
        // `--lr0=0.1` and `--lr_base` as Python's parsers and YAML have them.
        let (name, value) = text.split_once('=').map_or((&*text, None), |(n, v)| (n, Some(v)));
        let dashed = name.replace('_', "-");
        let known = FLAGS.iter().find(|flag| name.starts_with("--") && flag.name == dashed);
        match known.map(|flag| (flag, flag.answer)) {
            None if !text.starts_with('-') && is_setting(&text) => return Err(as_flags(words)),
            None | Some((_, Taken)) => translated.words.push(word.clone()),
            Some((_, Renamed(own))) => {
                translated
                    .words
                    .push(value.map_or(own.into(), |value| format!("{own}={value}").into()));
            }
            Some((flag, Nothing(why))) => {
                translated.notes.push(format!("{name}: {why}"));
                let own = |next: &&OsString| !next.to_string_lossy().starts_with('-');
                if value.is_none() && !flag.value.is_empty() {
                    left.next_if(own);
                }
            }
            Some((_, Refused(why))) => return Err(format!("{name}: {why}")),
        }
    }
    Ok(translated)
}

/// Whether a word is an option as Ultralytics has them, and no folder of that name.
fn is_setting(word: &str) -> bool {
    let Some((key, value)) = word.split_once('=') else { return false };
    let name =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    !key.is_empty() && key.chars().all(name) && !value.is_empty() && !Path::new(word).exists()
}

/// The sentence for `epochs=10 imgsz=96`: the same as flags.
fn as_flags(words: &[OsString]) -> String {
    let words = words.iter().map(|word| word.to_string_lossy().into_owned());
    let typed: Vec<String> = words
        .map(|word| match word.split_once('=') {
            Some(("data", folder)) => folder.to_owned(),
            Some((key, value)) if is_setting(&word) => {
                let name = format!("--{}", key.replace('_', "-"));
                let own = FLAGS.iter().find(|flag| flag.name == name).map(|flag| flag.answer);
                let name = if let Some(Renamed(own)) = own { own.to_owned() } else { name };
                format!("{name} {value}")
            }
            _ => word,
        })
        .collect();
    format!("options are flags here, not key=value: kindling train {}", typed.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Translated, String> {
        translate(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    /// Mutations caught: the value of a flag without meaning kept.
    #[test]
    fn flags_are_renamed_dropped_and_refused_with_their_values() {
        let words = |line: &str| {
            let all: Vec<String> =
                of(line).unwrap().words.iter().map(|w| w.to_string_lossy().into_owned()).collect();
            all.join(" ")
        };
        assert_eq!(words("d --lr0 0.1 --batch=8"), "d --lr 0.1 --batch-size=8");
        assert_eq!(words("--gp avg d --pin-mem d2"), "d d2");
        assert_eq!(words("d --dist-bn --epochs 3"), "d --epochs 3");
        assert_eq!(words("d -- --amp"), "d -- --amp");
        assert_eq!(of("d --channels-last").unwrap().notes.len(), 1);
        assert!(of("d --num_classes 10").unwrap_err().contains("follows the folder"));
        assert!(of("d --device=cuda").unwrap_err().contains("--backend"));
        let ultralytics = of("data=photos epochs=10 imgsz=96 lr0=0.1").unwrap_err();
        assert!(
            ultralytics.ends_with("kindling train photos --epochs 10 --imgsz 96 --lr 0.1"),
            "{ultralytics}"
        );
    }

    /// The table names no flag twice.
    #[test]
    fn the_table_has_every_flag_once() {
        assert!(FLAGS.len() >= 100);
        let names: std::collections::BTreeSet<&str> = FLAGS.iter().map(|flag| flag.name).collect();
        assert_eq!(names.len(), FLAGS.len());
        assert!(names.iter().all(|name| name.starts_with('-')));
    }
}
