//! Faults of a folder of images: every file is read and decoded once, by all threads. Certain
//! faults (equal hashes) and suspicions (similar images) are told apart. Neighbours: `open` opens
//! the same folders for training, `quarantine` holds the list that can be written of the findings.

mod copies;
mod file;
mod image_hash;
mod layout;
pub(crate) mod look_alikes;
mod report;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rayon::prelude::*;

use crate::datasets::check::copies::{Copies, Nearness, copies};
use crate::datasets::check::file::{Fault, ImageFile};
use crate::datasets::check::layout::ScannedSplit;
use crate::datasets::check::report::{
    Balance, CheckReport, Finding, Item, Rate, Severity, Sizes, SplitRow,
};
use crate::datasets::quarantine::Quarantine;
use crate::error::Error;

/// The largest distance in bits at which suspected copies can be searched.
pub const MAX_DISTANCE: u32 = image_hash::MAX_DISTANCE;

/// Limits from which a property of images counts as a finding.
#[derive(Clone, Copy, Debug)]
pub struct CheckLimits {
    /// Shorter edge in pixels below which an image is tiny.
    pub min_size: u32,
    /// Size ratio of the largest to the smallest class above which the classes are unbalanced.
    pub max_imbalance: f64,
    /// Bits of 64 by which the difference hashes of a suspected copy may differ, at most
    /// [`MAX_DISTANCE`].
    pub distance: u32,
    /// Largest mean difference of a suspected copy's colours, in levels of 255.
    pub difference: f64,
}

/// Images that a quarantine may list, each with the reason.
#[derive(Debug)]
pub struct QuarantineCandidates {
    /// Images that do not decode.
    pub unreadable: Vec<(PathBuf, String)>,
    /// Training images that the evaluation split has too.
    pub leaks: Vec<(PathBuf, String)>,
    /// Images with several labels.
    pub contradictions: Vec<(PathBuf, String)>,
    /// All but the first of equal images of a class.
    pub duplicates: Vec<(PathBuf, String)>,
    /// Training images that look like one of the evaluation split.
    pub suspicions: Vec<(PathBuf, String)>,
    /// Images below [`CheckLimits::min_size`].
    pub tiny: Vec<(PathBuf, String)>,
}

/// Examines every image of `root` that `list` does not name. `each` receives the number of images
/// done and of all images, from several threads; first 0 of all.
///
/// # Errors
/// A folder that is missing or without images; shards.
pub fn check_folder(
    root: &Path,
    val_split: Option<&str>,
    list: &Quarantine,
    limits: &CheckLimits,
    each: &(dyn Fn(usize, usize) + Sync),
) -> Result<(CheckReport, QuarantineCandidates), Error> {
    let splits = layout::splits(root, val_split)?;
    let (images, rate) = examine(&splits, &list.paths(root), each);
    let nearness = Nearness { distance: limits.distance, difference: limits.difference };
    let mut copies = copies(root, &images, nearness);
    let report = report(root, limits, &splits, &images, &mut copies, rate, list);
    Ok((report, candidates(limits, &images, copies)))
}

/// The images that a quarantine may list.
fn candidates(limits: &CheckLimits, images: &[ImageFile], copies: Copies) -> QuarantineCandidates {
    let named = |found: Vec<(usize, String)>| -> Vec<(PathBuf, String)> {
        found.into_iter().map(|(i, reason)| (images[i].path.clone(), reason)).collect()
    };
    let unreadable = images.iter().filter_map(|image| {
        // A storage that is gone for a moment shall not cost its images.
        let fault = image.decoded.as_ref().err().filter(|fault| fault.fault != Fault::Storage)?;
        Some((image.path.clone(), fault.why.clone()))
    });
    let tiny = images.iter().filter_map(|image| {
        let facts = image.decoded.as_ref().ok()?;
        let is_tiny = facts.width.min(facts.height) < limits.min_size;
        is_tiny.then(|| (image.path.clone(), format!("tiny: {}x{}", facts.width, facts.height)))
    });
    QuarantineCandidates {
        unreadable: unreadable.collect(),
        tiny: tiny.collect(),
        leaks: named(copies.leaks),
        contradictions: named(copies.contradictions),
        duplicates: named(copies.duplicates),
        suspicions: named(copies.suspicions),
    }
}

/// Reads and decodes every image that is not listed. `each` receives the number of images done and
/// of all images.
fn examine(
    splits: &[ScannedSplit],
    listed: &HashSet<PathBuf>,
    each: &(dyn Fn(usize, usize) + Sync),
) -> (Vec<ImageFile>, Rate) {
    let mut files = Vec::new();
    for (s, split) in splits.iter().enumerate() {
        for (c, (_, images)) in split.classes.iter().enumerate() {
            let kept = images.iter().filter(|path| !listed.contains(*path));
            files.extend(kept.map(|path| (path.clone(), s, c)));
        }
    }
    // Equal numbers mean equal names in both splits: val's classes have the numbers of train's,
    // others follow.
    let names = splits[0].classes.iter().map(|(name, _)| name.as_str());
    let indices: HashMap<&str, usize> = names.zip(0..).collect();
    for (_, split, class) in files.iter_mut().filter(|(_, split, _)| *split > 0) {
        let own = splits[*split].classes[*class].0.as_str();
        *class = indices.get(own).copied().unwrap_or(indices.len() + *class);
    }
    let began = Instant::now();
    let (all, done) = (files.len(), AtomicUsize::new(0));
    each(0, all);
    let images: Vec<ImageFile> = files
        .into_par_iter()
        .with_max_len(16)
        .map(|(path, split, class)| {
            let image = ImageFile::examine(path, split, class);
            each(done.fetch_add(1, Ordering::Relaxed) + 1, all);
            image
        })
        .collect();
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

/// The report of all findings.
fn report(
    root: &Path,
    limits: &CheckLimits,
    splits: &[ScannedSplit],
    images: &[ImageFile],
    copies: &mut Copies,
    decoding: Rate,
    list: &Quarantine,
) -> CheckReport {
    let mut findings = layout::findings(splits, root);
    findings.extend(of_files(root, limits.min_size, images));
    findings.append(&mut copies.findings);
    let listed = list.paths(root);
    let rows = rows(splits, &listed);
    let balance = balance(&rows[0].classes);
    if let Some(Balance { ratio, largest, smallest, .. }) = &balance
        && *ratio > limits.max_imbalance
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
    CheckReport {
        folder: root.display().to_string(),
        errors: count(Severity::Error),
        warnings: count(Severity::Warning),
        quarantined: splits.iter().map(ScannedSplit::images).sum::<usize>() - images.len(),
        splits: rows,
        balance,
        formats: formats(images),
        samples: samples(images),
        sizes: sizes(images),
        decoding,
        findings,
    }
}

/// The number of images of each split and class, without the listed ones.
fn rows(splits: &[ScannedSplit], listed: &HashSet<PathBuf>) -> Vec<SplitRow> {
    let row = |split: &ScannedSplit| {
        let unlisted = |images: &[PathBuf]| images.iter().filter(|p| !listed.contains(*p)).count();
        let classes = split.classes.iter().map(|(name, images)| (name.clone(), unlisted(images)));
        let classes: Vec<(String, usize)> = classes.collect();
        let images = classes.iter().map(|(_, n)| n).sum();
        SplitRow { name: split.name.clone(), images, classes }
    };
    splits.iter().map(row).collect()
}

/// Faults of single files.
fn of_files(root: &Path, min_size: u32, images: &[ImageFile]) -> Vec<Finding> {
    let item = |image: &ImageFile| Item::of(root, &image.path);
    let unusable = |kind: Fault| {
        let some = images.iter().filter_map(move |p| match &p.decoded {
            Err(fault) if fault.fault == kind => Some((p, fault)),
            _ => None,
        });
        some.map(|(image, fault)| item(image).detail(&fault.why)).collect()
    };
    let seen = || images.iter().filter_map(|p| Some((p, p.decoded.as_ref().ok()?)));
    let misnamed = images.iter().filter_map(|image| {
        let (promised, held) = image.promised()?;
        let words = format!("{} in a name for {}", name(held), name(promised));
        image.decoded.is_ok().then(|| item(image).detail(&words))
    });
    let turned = seen().filter(|(_, s)| s.turned).map(|(p, _)| item(p)).collect();
    let tiny = seen().filter(|(_, s)| s.width.min(s.height) < min_size);
    vec![
        Finding::error("unreadable", "images that do not decode", unusable(Fault::Other)),
        Finding::error("truncated", "images whose end is missing", unusable(Fault::Truncated)),
        Finding::error(
            "unsupported",
            "images of kinds that are not supported: convert them to 8-bit PNG or JPEG",
            unusable(Fault::Unsupported),
        ),
        Finding::error(
            "storage",
            "files that the system could not read, damaged or not: see to the storage, then check again",
            unusable(Fault::Storage),
        ),
        Finding::warning(
            "misnamed",
            "files whose content is not what their name says; they decode all the same",
            misnamed.collect(),
        ),
        Finding::note(
            "turned",
            "images that EXIF asks to turn, which training does unless --no-exif is given",
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
    for seen in images.iter().filter_map(|p| p.decoded.as_ref().ok()) {
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
    let seen = || images.iter().filter_map(|p| p.decoded.as_ref().ok());
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
