//! `kindling data check`: what is wrong with a folder of images, before a training finds it out.
//!
//! Everything is read and decoded once, by all threads. Certain faults (equal hashes) and suspicions (similar looks)
//! are told apart. Exit code 0 when there is no error, 3 when there is one; `--strict` counts warnings too.
//! Neighbours: `folder` opens the same folders for training, `quarantine` holds the list that can be written here.

mod copies;
mod file;
mod image_hash;
mod layout;
mod report;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;

use crate::datasets::check::copies::{Copies, Nearness, copies};
use crate::datasets::check::file::ImageFile;
use crate::datasets::check::layout::Split;
use crate::datasets::check::report::{
    Balance, Finding, Item, Rate, Report, Severity, Sizes, SplitRow,
};
use crate::datasets::quarantine::{FILE, Quarantine};
use crate::error::Error;
use crate::out;
use crate::run::checkpoint::write_atomically;

/// The words of `kindling data check`.
#[derive(Args)]
pub struct Check {
    /// Folder with `train/<class>/*` and `val/<class>/*`, or `<class>/*`
    #[arg(value_name = "DIR")]
    data_dir: PathBuf,
    /// Name of the split folder to evaluate on [default: val, validation, valid or test]
    #[arg(long)]
    val_split: Option<String>,
    /// Shorter edge in pixels below which an image counts as tiny
    #[arg(long, default_value_t = 16, value_name = "PIXELS")]
    min_size: u32,
    /// Largest by smallest class above which the classes count as unbalanced
    #[arg(long, default_value_t = 10.0, value_name = "RATIO")]
    max_imbalance: f64,
    /// Bits of 64 in which the difference hashes of a suspected copy may differ
    #[arg(long, default_value_t = 4, value_name = "BITS",
          value_parser = clap::value_parser!(u32).range(0..=i64::from(image_hash::FARTHEST)))]
    distance: u32,
    /// Mean difference of a suspected copy's colours, in levels of 255
    #[arg(long, default_value_t = 2.0, value_name = "LEVELS")]
    difference: f64,
    /// End with exit code 3 for warnings too
    #[arg(long)]
    strict: bool,
    /// Write the report as JSON, with every place of every finding; `-` is standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Places of a finding to print
    #[arg(long, default_value_t = 5, value_name = "N")]
    examples: usize,
    /// List what cannot be trained on, for `train` and `eval` to leave out [default file: DIR/quarantine.txt]
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "not given, given alone, given with a file")]
    write_quarantine: Option<Option<PathBuf>>,
    /// What to list beside unreadable images
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "KINDS",
        requires = "write_quarantine"
    )]
    quarantine: Vec<Kind>,
    /// Look at the images of DIR/quarantine.txt too
    #[arg(long)]
    ignore_quarantine: bool,
}

/// What a quarantine may list beside unreadable images.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Training images that the evaluation split has too
    Leaks,
    /// All but the first of equal images of a class
    Duplicates,
    /// Images that stand under several labels
    Contradictions,
    /// Training images that look like one of the evaluation split
    Suspicions,
    /// Images below --min-size
    Tiny,
}

/// Runs the subcommand; 0, or 3 when something is wrong.
///
/// # Errors
/// No such folder, nothing in it, a malformed quarantine list, a file that cannot be written.
pub fn check(args: &Check) -> Result<u8, Error> {
    let root = &args.data_dir;
    let splits = layout::splits(root, args.val_split.as_deref())?;
    let list = match args.ignore_quarantine {
        true => Quarantine::default(),
        false => Quarantine::of(root, None)?,
    };
    let listed = list.paths(root);
    let (images, rate) = examine(&splits, &listed);
    let nearness = Nearness { distance: args.distance, difference: args.difference };
    let mut copies = copies(root, &images, nearness);
    let report = report(args, &splits, &images, &mut copies, rate, &list);
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report).expect("plain data");
        match to_stdout {
            true => out!("{text}"),
            false => write_atomically(path, text.as_bytes())?,
        }
    }
    if !to_stdout {
        out!("{}", report.text(args.examples).trim_end());
    }
    let errors = report.errors;
    if let Some(file) = &args.write_quarantine {
        let path = file.clone().unwrap_or_else(|| root.join(FILE));
        let said = write_list(args, &path, list, &images, &copies)?;
        if !to_stdout {
            out!("{said}");
        }
    }
    let bad = errors > 0 || (args.strict && report.warnings > 0);
    Ok(if bad { 3 } else { 0 })
}

/// Reads and decodes every image that is not listed.
fn examine(splits: &[Split], listed: &HashSet<PathBuf>) -> (Vec<ImageFile>, Rate) {
    let mut files = Vec::new();
    for (s, split) in splits.iter().enumerate() {
        for (c, (_, images)) in split.classes.iter().enumerate() {
            let kept = images.iter().filter(|path| !listed.contains(*path));
            files.extend(kept.map(|path| (path.clone(), s, c)));
        }
    }
    // Equal numbers mean equal names in both splits: val's classes are numbered as train's, foreign ones behind.
    let names: Vec<&str> = splits[0].classes.iter().map(|(name, _)| name.as_str()).collect();
    for (_, split, class) in files.iter_mut().filter(|(_, split, _)| *split > 0) {
        let own = &splits[*split].classes[*class].0;
        *class = names.iter().position(|name| name == own).unwrap_or(names.len() + *class);
    }
    let began = Instant::now();
    let progress = Progress::new(files.len());
    let images: Vec<ImageFile> = files
        .into_par_iter()
        .with_max_len(16)
        .map(|(path, split, class)| {
            let image = ImageFile::examine(path, split, class);
            progress.one();
            image
        })
        .collect();
    progress.finish();
    let seconds = began.elapsed().as_secs_f64().max(1e-9);
    let bytes: u64 = images.iter().map(|p| p.bytes).sum();
    let rate = Rate {
        seconds,
        images_per_s: images.len() as f64 / seconds,
        megabytes_per_s: bytes as f64 / 1e6 / seconds,
        threads: rayon::current_num_threads(),
    };
    (images, rate)
}

/// A bar on a terminal, a line every ten seconds elsewhere; on standard error.
struct Progress {
    bar: ProgressBar,
    all: usize,
    done: AtomicUsize,
    began: Instant,
    /// Lines written so far.
    told: AtomicUsize,
}

impl Progress {
    fn new(all: usize) -> Self {
        let bar = ProgressBar::new(all as u64);
        let style = "checking [{bar:24}] {pos}/{len}  {per_sec}  ETA {eta}";
        bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
        Self {
            bar,
            all,
            done: AtomicUsize::new(0),
            began: Instant::now(),
            told: AtomicUsize::new(0),
        }
    }

    #[expect(clippy::print_stderr, reason = "a line of progress")]
    fn one(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        self.bar.inc(1);
        if !self.bar.is_hidden() {
            return;
        }
        let due = (self.began.elapsed().as_secs() / Duration::from_secs(10).as_secs()) as usize;
        if due > self.told.fetch_max(due, Ordering::Relaxed) {
            eprintln!("checking {done}/{}", self.all);
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn report(
    args: &Check,
    splits: &[Split],
    images: &[ImageFile],
    copies: &mut Copies,
    decoding: Rate,
    list: &Quarantine,
) -> Report {
    let root = &args.data_dir;
    let mut findings = layout::findings(splits, root);
    findings.extend(of_files(args, images));
    findings.append(&mut copies.findings);
    let listed = list.paths(root);
    let rows: Vec<SplitRow> = splits
        .iter()
        .map(|split| {
            let classes: Vec<(String, usize)> = split
                .classes
                .iter()
                .map(|(name, p)| (name.clone(), p.iter().filter(|p| !listed.contains(*p)).count()))
                .collect();
            let images = classes.iter().map(|(_, n)| n).sum();
            SplitRow { name: split.name.clone(), images, classes }
        })
        .collect();
    let balance = balance(&rows[0].classes);
    if let Some(Balance { ratio, largest, smallest, .. }) = &balance
        && *ratio > args.max_imbalance
    {
        let detail = format!("{} against {}, ratio {ratio:.1}", largest.1, smallest.1);
        findings.push(Finding::warning(
            "imbalance",
            "classes of very different size",
            vec![
                Item::of(root, &splits[0].root.join(&smallest.0))
                    .other(Item::of(root, &splits[0].root.join(&largest.0)).path)
                    .detail(&detail),
            ],
        ));
    }
    let missing = list.missing(root);
    findings.push(Finding::note(
        "quarantine",
        "listed images that are not there",
        missing.iter().map(|name| Item::of(root, &root.join(name))).collect(),
    ));
    let mut findings = report::joined(findings);
    findings.sort_by_key(|finding| finding.severity as u8);
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    Report {
        folder: root.display().to_string(),
        errors: count(Severity::Error),
        warnings: count(Severity::Warning),
        quarantined: splits.iter().map(Split::images).sum::<usize>() - images.len(),
        splits: rows,
        balance,
        formats: formats(images),
        samples: samples(images),
        sizes: sizes(images),
        decoding,
        findings,
    }
}

/// What is wrong with single files.
fn of_files(args: &Check, images: &[ImageFile]) -> Vec<Finding> {
    let root = &args.data_dir;
    let item = |image: &ImageFile| Item::of(root, &image.path);
    let unusable = |truncated: bool| {
        let some = images.iter().filter_map(move |p| match &p.seen {
            Err(fault) if fault.truncated == truncated => Some((p, fault)),
            _ => None,
        });
        some.map(|(image, fault)| item(image).detail(&fault.why)).collect()
    };
    let seen = || images.iter().filter_map(|p| Some((p, p.seen.as_ref().ok()?)));
    let misnamed = images.iter().filter_map(|image| {
        let (promised, held) = image.promised()?;
        let words = format!("{} in a name for {}", name(held), name(promised));
        image.seen.is_ok().then(|| item(image).detail(&words))
    });
    let turned = seen().filter(|(_, s)| s.turned).map(|(p, _)| item(p)).collect();
    let tiny = seen().filter(|(_, s)| s.width.min(s.height) < args.min_size);
    vec![
        Finding::error("unreadable", "images that do not decode", unusable(false)),
        Finding::error("truncated", "images whose end is missing", unusable(true)),
        Finding::warning(
            "misnamed",
            "files whose content is not what their name says; they decode all the same",
            misnamed.collect(),
        ),
        Finding::warning(
            "turned",
            "images that EXIF asks to turn: train with --exif to do so (torchvision does not)",
            turned,
        ),
        Finding::warning(
            "tiny",
            "very small images",
            tiny.map(|(p, s)| item(p).detail(&format!("{}x{}", s.width, s.height))).collect(),
        ),
    ]
}

/// A format's usual name.
fn name(format: image::ImageFormat) -> String {
    format!("{format:?}").to_lowercase()
}

fn formats(images: &[ImageFile]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for image in images {
        *counts.entry(image.format.map_or_else(|| "unknown".into(), name)).or_default() += 1;
    }
    counts
}

fn samples(images: &[ImageFile]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for seen in images.iter().filter_map(|p| p.seen.as_ref().ok()) {
        let colour = seen.colour;
        let mut count = |name, yes: bool| *counts.entry(name).or_default() += usize::from(yes);
        count("gray", colour.gray);
        count("colour", !colour.gray && !colour.cmyk);
        count("cmyk", colour.cmyk);
        count("with alpha", colour.alpha);
        count("of 16 bits", colour.sixteen);
        count("turned by EXIF", seen.turned);
    }
    counts
}

fn sizes(images: &[ImageFile]) -> Sizes {
    let seen = || images.iter().filter_map(|p| p.seen.as_ref().ok());
    let mut short: Vec<u32> = seen().map(|s| s.width.min(s.height)).collect();
    let mut long: Vec<u32> = seen().map(|s| s.width.max(s.height)).collect();
    if short.is_empty() {
        return Sizes::default();
    }
    short.sort_unstable();
    long.sort_unstable();
    let three = |v: &[u32]| [v[0], v[v.len() / 2], v[v.len() - 1]];
    let edges = [0, 16, 32, 64, 128, 256, 512, 1024, 2048];
    let short_edge = edges.iter().enumerate().map(|(i, &from)| {
        let to = edges.get(i + 1).copied();
        let inside = |&&edge: &&u32| edge >= from && to.is_none_or(|to| edge < to);
        (from, to, short.iter().filter(inside).count())
    });
    Sizes {
        short_edge: short_edge.filter(|(.., count)| *count > 0).collect(),
        short: three(&short),
        long: three(&long),
    }
}

fn balance(classes: &[(String, usize)]) -> Option<Balance> {
    let filled = || classes.iter().filter(|(_, n)| *n > 0);
    let largest = filled().max_by_key(|(_, n)| *n)?.clone();
    let smallest = filled().min_by_key(|(_, n)| *n)?.clone();
    let all: usize = classes.iter().map(|(_, n)| n).sum();
    let share = |n: usize| n as f64 / all.max(1) as f64;
    let entropy: f64 =
        classes.iter().filter(|(_, n)| *n > 0).map(|(_, n)| -share(*n) * share(*n).ln()).sum();
    let ratio = largest.1 as f64 / smallest.1 as f64;
    Some(Balance { largest, smallest, ratio, effective_classes: entropy.exp() })
}

/// Adds what was found to the list and writes it.
fn write_list(
    args: &Check,
    path: &Path,
    list: Quarantine,
    images: &[ImageFile],
    copies: &Copies,
) -> Result<String, Error> {
    let root = &args.data_dir;
    // Another file than the folder's own is begun anew.
    let mut list = if path == root.join(FILE) { list } else { Quarantine::default() };
    let unusable = images.iter().enumerate().filter_map(|(i, p)| match &p.seen {
        Err(fault) => Some((i, fault.why.clone())),
        Ok(_) => None,
    });
    let mut chosen: Vec<(usize, String)> = unusable.collect();
    let wanted = |kind: Kind| args.quarantine.contains(&kind);
    for (kind, found) in [
        (Kind::Leaks, &copies.leaks),
        (Kind::Contradictions, &copies.contradictions),
        (Kind::Duplicates, &copies.duplicates),
        (Kind::Suspicions, &copies.suspicions),
    ] {
        if wanted(kind) {
            chosen.extend(found.iter().cloned());
        }
    }
    if wanted(Kind::Tiny) {
        chosen.extend(images.iter().enumerate().filter_map(|(i, p)| {
            let seen = p.seen.as_ref().ok()?;
            (seen.width.min(seen.height) < args.min_size)
                .then(|| (i, format!("tiny: {}x{}", seen.width, seen.height)))
        }));
    }
    let (mut added, mut impossible) = (0, Vec::new());
    for (i, reason) in chosen {
        match list.add(root, &images[i].path, &reason) {
            Ok(new) => added += usize::from(new),
            Err(why) => impossible.push(why),
        }
    }
    list.write(path)?;
    let mut said = format!("{}: {added} images added, {} listed", path.display(), list.len());
    impossible.iter().for_each(|why| said.push_str(&format!("\n{why}")));
    Ok(said)
}
