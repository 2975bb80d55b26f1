//! `kindling data check`: faults of a folder of images, found before a training finds them.
//!
//! Exit code 0 when there is no error, 3 when there is one; `--strict` counts warnings too.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::range::number;
use crate::datasets::check::look_alikes::{DIFFERENCE, DISTANCE};
use crate::datasets::check::{CheckLimits, MAX_DISTANCE, QuarantineCandidates, check_folder};
use crate::datasets::quarantine::{FILE, Quarantine};
use crate::error::Error;
use crate::files::write_atomically;
use crate::{err, out};

/// Arguments of `data check`.
#[derive(Args)]
pub struct CheckArgs {
    /// Folder with `train/<class>/*` and `val/<class>/*`, or `<class>/*`
    #[arg(value_name = "DIR")]
    data_dir: PathBuf,
    /// Name of the split folder to evaluate on [default: val, validation, valid or test]
    #[arg(long, value_name = "NAME")]
    val_split: Option<String>,
    /// Shorter edge below which an image counts as tiny
    #[arg(long, default_value_t = 16, value_name = "PIXELS", hide_short_help = true)]
    min_size: u32,
    /// Size ratio of the largest to the smallest class above which classes count as unbalanced
    /// [range: 1 to 1000000]
    #[arg(long, default_value_t = 10.0, value_name = "RATIO", value_parser = number(1.0..=1e6))]
    #[arg(hide_short_help = true)]
    max_imbalance: f64,
    /// Differing bits of two 64-bit image hashes, up to which the images count as copies [range:
    /// 0 to 7]
    #[arg(long, default_value_t = DISTANCE, value_name = "BITS", hide_short_help = true,
          value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_DISTANCE)))]
    distance: u32,
    /// Mean difference of the colours of two images, up to which they count as copies [range: 0
    /// to 255]
    #[arg(long, default_value_t = DIFFERENCE, value_name = "LEVELS", value_parser = number(0.0..=255.0))]
    #[arg(hide_short_help = true)]
    difference: f64,
    /// End with exit code 3 for warnings too [default: for errors]
    #[arg(long)]
    strict: bool,
    /// File for the report as JSON, with each item of each finding; `-` is standard output
    /// [default: none]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Items to print of each finding
    #[arg(long, default_value_t = 5, value_name = "N")]
    examples: usize,
    /// List unreadable images in FILE, for `train` and `eval` to omit [default: no list; without
    /// FILE DIR/quarantine.txt]
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "not given, given alone, given with a file")]
    write_quarantine: Option<Option<PathBuf>>,
    /// Images to list with --write-quarantine beside unreadable ones [default: none]
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "KINDS",
        requires = "write_quarantine"
    )]
    quarantine: Vec<QuarantineKind>,
    /// Check the images of DIR/quarantine.txt too [default: omit them]
    #[arg(long)]
    ignore_quarantine: bool,
}

/// Images that a quarantine may list in addition to unreadable ones.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum QuarantineKind {
    /// Training images that the evaluation split has too
    Leaks,
    /// All but the first of equal images of a class
    Duplicates,
    /// Images with several labels
    Contradictions,
    /// Training images that look like one of the evaluation split
    Suspicions,
    /// Images below --min-size
    Tiny,
}

/// Runs the subcommand; 0, or 3 when the folder has faults.
///
/// # Errors
/// A folder that is missing or empty, a malformed quarantine list, a file that cannot be written.
pub fn check(args: &CheckArgs) -> Result<u8, Error> {
    let root = &args.data_dir;
    let list = match args.ignore_quarantine {
        true => Quarantine::default(),
        false => Quarantine::of(root, None)?,
    };
    let limits = CheckLimits {
        min_size: args.min_size,
        max_imbalance: args.max_imbalance,
        distance: args.distance,
        difference: args.difference,
    };
    let progress = CheckProgress::new();
    let each = |done, all| progress.examined(done, all);
    let (report, candidates) =
        check_folder(root, args.val_split.as_deref(), &list, &limits, &each)?;
    progress.finish();
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
    if let Some(file) = &args.write_quarantine {
        let path = file.clone().unwrap_or_else(|| root.join(FILE));
        let summary = write_list(args, &path, list, &candidates)?;
        if !to_stdout {
            out!("{summary}");
        }
    }
    let bad = report.errors > 0 || (args.strict && report.warnings > 0);
    Ok(if bad { 3 } else { 0 })
}

/// Progress on standard error: a bar on a terminal, a line every ten seconds elsewhere.
struct CheckProgress {
    bar: ProgressBar,
    began: Instant,
    /// Lines written so far.
    lines: AtomicUsize,
}

impl CheckProgress {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = "checking [{bar:24}] {pos}/{len}  {per_sec}  ETA {eta}";
        bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
        Self { bar, began: Instant::now(), lines: AtomicUsize::new(0) }
    }

    /// `done` of `all` images are examined; 0 of them at the beginning.
    fn examined(&self, done: usize, all: usize) {
        if done == 0 {
            self.bar.set_length(all as u64);
            return;
        }
        self.bar.inc(1);
        if !self.bar.is_hidden() {
            return;
        }
        let due = (self.began.elapsed().as_secs() / Duration::from_secs(10).as_secs()) as usize;
        if due > self.lines.fetch_max(due, Ordering::Relaxed) {
            err!("checking {done}/{all}");
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Adds the images that the arguments ask for to the list and writes it; a summary for the user.
fn write_list(
    args: &CheckArgs,
    path: &Path,
    list: Quarantine,
    candidates: &QuarantineCandidates,
) -> Result<String, Error> {
    let root = &args.data_dir;
    // A file other than the folder's own list starts empty.
    let mut list = if path == root.join(FILE) { list } else { Quarantine::default() };
    let mut chosen: Vec<&(PathBuf, String)> = candidates.unreadable.iter().collect();
    for (kind, found) in [
        (QuarantineKind::Leaks, &candidates.leaks),
        (QuarantineKind::Contradictions, &candidates.contradictions),
        (QuarantineKind::Duplicates, &candidates.duplicates),
        (QuarantineKind::Suspicions, &candidates.suspicions),
        (QuarantineKind::Tiny, &candidates.tiny),
    ] {
        if args.quarantine.contains(&kind) {
            chosen.extend(found);
        }
    }
    let (mut added, mut impossible) = (0, Vec::new());
    for (image, reason) in chosen {
        match list.add(root, image, reason) {
            Ok(new) => added += usize::from(new),
            Err(why) => impossible.push(why),
        }
    }
    list.write(path)?;
    let mut summary = format!("{}: {added} images added, {} listed", path.display(), list.len());
    impossible.iter().for_each(|why| summary.push_str(&format!("\n{why}")));
    Ok(summary)
}
