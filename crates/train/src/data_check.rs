//! `kindling data check`: what is wrong with a folder of pictures, before a training finds it out.
//!
//! Everything is read and decoded once, by all threads. Certain faults (equal hashes) and suspicions (similar looks)
//! are told apart. Exit code 0 when there is no error, 3 when there is one; `--strict` counts warnings too.
//! Neighbours: `folder` opens the same folders for training, `quarantine` holds the list that can be written here.

mod copies;
mod look;
mod picture;
mod report;
mod scan;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;

use self::copies::{Copies, Nearness, copies};
use self::picture::Picture;
use self::report::{Balance, Finding, Item, Rate, Report, Severity, Sizes, SplitRow};
use self::scan::Split;
use crate::checkpoint::write_atomically;
use crate::failure::Failure;
use crate::out;
use crate::quarantine::{FILE, Quarantine};

/// The words of `kindling data check`.
#[derive(Args)]
pub struct Check {
    /// Folder with `train/<class>/*` and `val/<class>/*`, or `<class>/*`
    #[arg(value_name = "DIR")]
    data_dir: PathBuf,
    /// Name of the split folder to evaluate on [default: val, validation, valid or test]
    #[arg(long)]
    val_split: Option<String>,
    /// Shorter edge in pixels below which a picture counts as tiny
    #[arg(long, default_value_t = 16, value_name = "PIXELS")]
    min_size: u32,
    /// Largest by smallest class above which the classes count as unbalanced
    #[arg(long, default_value_t = 10.0, value_name = "RATIO")]
    max_imbalance: f64,
    /// Bits of 64 in which the difference hashes of a suspected copy may differ
    #[arg(long, default_value_t = 4, value_name = "BITS",
          value_parser = clap::value_parser!(u32).range(0..=i64::from(look::FARTHEST)))]
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
    /// What to list beside unreadable pictures
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "KINDS",
        requires = "write_quarantine"
    )]
    quarantine: Vec<Kind>,
    /// Look at the pictures of DIR/quarantine.txt too
    #[arg(long)]
    ignore_quarantine: bool,
}

/// What a quarantine may list beside unreadable pictures.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Training pictures that the evaluation split has too
    Leaks,
    /// All but the first of equal pictures of a class
    Duplicates,
    /// Pictures that stand under several labels
    Contradictions,
    /// Training pictures that look like one of the evaluation split
    Suspicions,
    /// Pictures below --min-size
    Tiny,
}

/// Runs the subcommand; 0, or 3 when something is wrong.
///
/// # Errors
/// No such folder, nothing in it, a malformed quarantine list, a file that cannot be written.
pub fn check(args: &Check) -> Result<u8, Failure> {
    let root = &args.data_dir;
    let splits = scan::splits(root, args.val_split.as_deref())?;
    let list = match args.ignore_quarantine {
        true => Quarantine::default(),
        false => Quarantine::of(root, None)?,
    };
    let listed = list.paths(root);
    let (pictures, rate) = examine(&splits, &listed);
    let nearness = Nearness { distance: args.distance, difference: args.difference };
    let mut copies = copies(root, &pictures, nearness);
    let report = report(args, &splits, &pictures, &mut copies, rate, &list);
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
        let said = write_list(args, &path, list, &pictures, &copies)?;
        if !to_stdout {
            out!("{said}");
        }
    }
    let bad = errors > 0 || (args.strict && report.warnings > 0);
    Ok(if bad { 3 } else { 0 })
}

/// Reads and decodes every picture that is not listed.
fn examine(splits: &[Split], listed: &HashSet<PathBuf>) -> (Vec<Picture>, Rate) {
    let mut files = Vec::new();
    for (s, split) in splits.iter().enumerate() {
        for (c, (_, pictures)) in split.classes.iter().enumerate() {
            let kept = pictures.iter().filter(|path| !listed.contains(*path));
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
    let pictures: Vec<Picture> = files
        .into_par_iter()
        .with_max_len(16)
        .map(|(path, split, class)| {
            let picture = Picture::examine(path, split, class);
            progress.one();
            picture
        })
        .collect();
    progress.finish();
    let seconds = began.elapsed().as_secs_f64().max(1e-9);
    let bytes: u64 = pictures.iter().map(|p| p.bytes).sum();
    let rate = Rate {
        seconds,
        pictures_per_s: pictures.len() as f64 / seconds,
        megabytes_per_s: bytes as f64 / 1e6 / seconds,
        threads: rayon::current_num_threads(),
    };
    (pictures, rate)
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
    pictures: &[Picture],
    copies: &mut Copies,
    decoding: Rate,
    list: &Quarantine,
) -> Report {
    let root = &args.data_dir;
    let mut findings = scan::findings(splits, root);
    findings.extend(of_files(args, pictures));
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
            let pictures = classes.iter().map(|(_, n)| n).sum();
            SplitRow { name: split.name.clone(), pictures, classes }
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
        "listed pictures that are not there",
        missing.iter().map(|name| Item::of(root, &root.join(name))).collect(),
    ));
    let mut findings = report::joined(findings);
    findings.sort_by_key(|finding| finding.severity as u8);
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    Report {
        folder: root.display().to_string(),
        errors: count(Severity::Error),
        warnings: count(Severity::Warning),
        quarantined: splits.iter().map(Split::pictures).sum::<usize>() - pictures.len(),
        splits: rows,
        balance,
        formats: formats(pictures),
        samples: samples(pictures),
        sizes: sizes(pictures),
        decoding,
        findings,
    }
}

/// What is wrong with single files.
fn of_files(args: &Check, pictures: &[Picture]) -> Vec<Finding> {
    let root = &args.data_dir;
    let item = |picture: &Picture| Item::of(root, &picture.path);
    let unusable = |truncated: bool| {
        let some = pictures.iter().filter_map(move |p| match &p.seen {
            Err(fault) if fault.truncated == truncated => Some((p, fault)),
            _ => None,
        });
        some.map(|(picture, fault)| item(picture).detail(&fault.why)).collect()
    };
    let seen = || pictures.iter().filter_map(|p| Some((p, p.seen.as_ref().ok()?)));
    let misnamed = pictures.iter().filter_map(|picture| {
        let (promised, held) = picture.promised()?;
        let words = format!("{} in a name for {}", name(held), name(promised));
        picture.seen.is_ok().then(|| item(picture).detail(&words))
    });
    let turned = seen().filter(|(_, s)| s.turned).map(|(p, _)| item(p)).collect();
    let tiny = seen().filter(|(_, s)| s.width.min(s.height) < args.min_size);
    vec![
        Finding::error("unreadable", "pictures that do not decode", unusable(false)),
        Finding::error("truncated", "pictures whose end is missing", unusable(true)),
        Finding::warning(
            "misnamed",
            "files whose content is not what their name says; they decode all the same",
            misnamed.collect(),
        ),
        Finding::warning(
            "turned",
            "pictures that EXIF asks to turn: train with --exif to do so (torchvision does not)",
            turned,
        ),
        Finding::warning(
            "tiny",
            "very small pictures",
            tiny.map(|(p, s)| item(p).detail(&format!("{}x{}", s.width, s.height))).collect(),
        ),
    ]
}

/// A format's usual name.
fn name(format: image::ImageFormat) -> String {
    format!("{format:?}").to_lowercase()
}

fn formats(pictures: &[Picture]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for picture in pictures {
        *counts.entry(picture.format.map_or_else(|| "unknown".into(), name)).or_default() += 1;
    }
    counts
}

fn samples(pictures: &[Picture]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for seen in pictures.iter().filter_map(|p| p.seen.as_ref().ok()) {
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

fn sizes(pictures: &[Picture]) -> Sizes {
    let seen = || pictures.iter().filter_map(|p| p.seen.as_ref().ok());
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
    pictures: &[Picture],
    copies: &Copies,
) -> Result<String, Failure> {
    let root = &args.data_dir;
    // Another file than the folder's own is begun anew.
    let mut list = if path == root.join(FILE) { list } else { Quarantine::default() };
    let unusable = pictures.iter().enumerate().filter_map(|(i, p)| match &p.seen {
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
        chosen.extend(pictures.iter().enumerate().filter_map(|(i, p)| {
            let seen = p.seen.as_ref().ok()?;
            (seen.width.min(seen.height) < args.min_size)
                .then(|| (i, format!("tiny: {}x{}", seen.width, seen.height)))
        }));
    }
    let (mut added, mut impossible) = (0, Vec::new());
    for (i, reason) in chosen {
        match list.add(root, &pictures[i].path, &reason) {
            Ok(new) => added += usize::from(new),
            Err(why) => impossible.push(why),
        }
    }
    list.write(path)?;
    let mut said = format!("{}: {added} pictures added, {} listed", path.display(), list.len());
    impossible.iter().for_each(|why| said.push_str(&format!("\n{why}")));
    Ok(said)
}
