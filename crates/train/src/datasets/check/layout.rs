//! What lies where: the splits of a folder, their classes, and what is no image. Nothing is opened
//! here but the first bytes of files with a foreign extension.

use std::collections::{BTreeMap, HashSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::datasets::check::report::{Finding, Item};
use crate::datasets::layout::{VAL_NAMES, train_folder, val_folder};
use crate::datasets::listing::{
    LEADS_BACK, entries_and_litter, images, is_image, leads_back, natural, subfolders,
};
use crate::datasets::passed_over::{foreign_name, is_litter};
use crate::error::Error;
use crate::suggest::{did_you_mean, nearest};
use transforms::decode::{foreign_kind, looks_like_an_image};

/// A split as it lies on the disk.
pub(super) struct ScannedSplit {
    /// `train`, `val` and so on, or empty: the folder itself.
    pub(super) name: String,
    pub(super) root: PathBuf,
    /// In label order, with the images in natural order.
    pub(super) classes: Vec<(String, Vec<PathBuf>)>,
    /// Files that are no images by their names.
    others: Vec<PathBuf>,
    /// Images that lie beside the class folders.
    loose: Vec<PathBuf>,
    /// Hidden folders with images in them.
    hidden: Vec<PathBuf>,
    /// What file managers and archives left behind.
    litter: Vec<PathBuf>,
    /// Class folders that cannot be used, and why.
    broken: Vec<(PathBuf, String)>,
}

/// The splits of `root`: `train` and the evaluation split, or `root` itself when it holds the class
/// folders.
///
/// # Errors
/// [`crate::error::ErrorKind::Data`]: no such folder, no class folder anywhere.
pub(super) fn splits(root: &Path, val_split: Option<&str>) -> Result<Vec<ScannedSplit>, Error> {
    if !root.is_dir() {
        return Err(Error::data(format!(
            "{}: no such folder; give one with train/<class>/* and val/<class>/*, or <class>/*",
            root.display()
        )));
    }
    let mut found = Vec::new();
    let train = train_folder(root).unwrap_or_else(|| root.join("train"));
    if !train.is_dir() && root.join(crate::datasets::shards::INDEX).is_file() {
        return Err(Error::data(format!(
            "{}: a folder of shards; check the folder that they were made of",
            root.display()
        )));
    }
    if !train.is_dir() && val_split.is_none() {
        let whole = ScannedSplit::scan(root, "")?;
        if whole.classes.is_empty() && whole.loose.is_empty() {
            return Err(Error::data(format!(
                "{}: neither a train folder nor class folders with images in it",
                root.display()
            )));
        }
        return Ok(vec![whole]);
    }
    if train.is_dir() {
        let name = train.file_name().and_then(|name| name.to_str()).unwrap_or("train");
        found.push(ScannedSplit::scan(&train, name)?);
    }
    let usual = val_folder(root).and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let val = match val_split {
        Some(name) if !root.join(name).is_dir() => {
            let near = did_you_mean(name, &subfolders(root)?);
            return Err(Error::data(format!(
                "{}: no such folder{near}; --val-split names one beside train",
                root.join(name).display()
            )));
        }
        Some(name) => Some(name),
        None => usual.as_deref(),
    };
    if let Some(name) = val {
        found.push(ScannedSplit::scan(&root.join(name), name)?);
    }
    Ok(found)
}

impl ScannedSplit {
    fn scan(root: &Path, name: &str) -> Result<Self, Error> {
        let mut split = Self {
            name: name.to_owned(),
            root: root.to_path_buf(),
            classes: Vec::new(),
            others: Vec::new(),
            loose: Vec::new(),
            hidden: hidden_with_images(root),
            litter: Vec::new(),
            broken: Vec::new(),
        };
        for path in entries_and_litter(root, &mut split.litter)? {
            if path.is_dir() && leads_back(root, &path) {
                split.broken.push((path, LEADS_BACK.to_owned()));
            } else if path.is_dir() {
                split.class(path);
            } else if is_image(&path) {
                split.loose.push(path);
            } else if path.file_name().is_none_or(|n| n != crate::datasets::quarantine::FILE) {
                split.others.push(path);
            }
        }
        let (litter, others) = split
            .others
            .into_iter()
            .partition(|path: &PathBuf| path.file_name().is_some_and(is_litter));
        split.others = others;
        split.litter.extend::<Vec<PathBuf>>(litter);
        Ok(split)
    }

    fn class(&mut self, path: PathBuf) {
        self.hidden.extend(hidden_with_images(&path));
        let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        match (name, images(&path, &mut self.others)) {
            (Some(name), Ok(found)) => self.classes.push((name, found)),
            (None, _) => {
                self.broken.push((path, "the name of a class is not UTF-8; rename it".into()));
            }
            (_, Err(error)) => self.broken.push((path, error.to_string())),
        }
    }

    /// Images in class folders.
    pub(super) fn images(&self) -> usize {
        self.classes.iter().map(|(_, images)| images.len()).sum()
    }

    fn names(&self) -> Vec<String> {
        self.classes.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// Hidden folders directly in `folder` that hold images, `.ipynb_checkpoints` first among them.
fn hidden_with_images(folder: &Path) -> Vec<PathBuf> {
    let hidden = |p: &PathBuf| {
        p.is_dir() && p.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'))
    };
    let list = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = list
        .filter(hidden)
        .filter(|p| images(p, &mut Vec::new()).is_ok_and(|found| !found.is_empty()))
        .collect();
    found.sort();
    found
}

/// Faults of the folders themselves.
pub(super) fn findings(splits: &[ScannedSplit], root: &Path) -> Vec<Finding> {
    let mut found: Vec<Finding> =
        splits.iter().flat_map(|split| split_findings(split, root)).collect();
    found.extend(class_findings(&splits[0], root));
    match splits.get(1) {
        Some(val) => found.extend(val_findings(&splits[0], val, root)),
        None => {
            let detail = "`train` sets 20 % of each class aside; `data split` does it once";
            let item = Item::of(root, root).detail(detail);
            found.push(Finding::note("no_val", "no split to evaluate on", vec![item]));
        }
    }
    found
}

/// Faults of the files and folders of one split.
fn split_findings(split: &ScannedSplit, root: &Path) -> Vec<Finding> {
    let items = |paths: &[PathBuf]| paths.iter().map(|p| Item::of(root, p)).collect();
    let (foreign, others): (Vec<PathBuf>, Vec<PathBuf>) =
        split.others.iter().cloned().partition(|path| foreign_kind_of(path).is_some());
    let (overlooked, others): (Vec<PathBuf>, Vec<PathBuf>) =
        others.into_iter().partition(|path| looks_like_an_image(&start(path)));
    vec![
        Finding::error(
            "unusable_folder",
            "class folders that cannot be used",
            split.broken.iter().map(|(p, why)| Item::of(root, p).detail(why)).collect(),
        ),
        Finding::error(
            "no_class",
            "images beside the class folders, without a class: move each into a folder named by its class",
            items(&split.loose),
        ),
        Finding::note("hidden", "hidden folders with images are left alone", items(&split.hidden)),
        Finding::warning(
            "other_format",
            "images of formats that are not read: convert them to JPEG or PNG",
            foreign
                .iter()
                .map(|p| Item::of(root, p).detail(foreign_kind_of(p).unwrap_or_default()))
                .collect(),
        ),
        Finding::note(
            "system_files",
            "files and folders of file managers and archives are left alone",
            items(&split.litter),
        ),
        Finding::warning(
            "overlooked",
            "images by content that are ignored for their names: give them a usual extension",
            items(&overlooked),
        ),
        Finding::note("other_files", "files that are no images", items(&others)),
        Finding::warning(
            "alike_names",
            "classes whose names differ only in case, blanks, `-` or `_`",
            alike(&split.names())
                .into_iter()
                .map(|(a, b)| Item::of(root, &split.root.join(a)).other(b))
                .collect(),
        ),
    ]
}

/// The item of a class folder.
fn class_item(root: &Path, split: &ScannedSplit, name: &str) -> Item {
    Item::of(root, &split.root.join(name))
}

/// Faults of the class list, which the training split gives.
fn class_findings(train: &ScannedSplit, root: &Path) -> Vec<Finding> {
    let empty = train.classes.iter().filter(|(_, images)| images.is_empty());
    let mut found = vec![Finding::error(
        "empty_class",
        "classes without an image to train on: add some or remove the folder",
        empty.map(|(name, _)| class_item(root, train, name)).collect(),
    )];
    if train.classes.len() < 2 {
        let item = Item::of(root, &train.root).detail(&format!("{} class", train.classes.len()));
        found.push(Finding::error("few_classes", "fewer than two classes to train on", vec![item]));
    }
    let names = train.names();
    let mut as_text = names.clone();
    as_text.sort();
    if names != as_text {
        let first = names.iter().zip(&as_text).find(|(a, b)| a != b);
        let detail = first.map_or_else(String::new, |(a, b)| format!("{a} here, {b} there"));
        found.push(Finding::note(
            "numeric_names",
            "class numbers are ordered as numbers here, as text by torchvision and timm: labels differ from theirs",
            vec![Item::of(root, &train.root).detail(&detail)],
        ));
    }
    found
}

/// Faults of the evaluation split beside the training split.
fn val_findings(train: &ScannedSplit, val: &ScannedSplit, root: &Path) -> Vec<Finding> {
    let names = train.names();
    let known: HashSet<&String> = names.iter().collect();
    let unused = |name: &&str| root.join(name).is_dir() && *name != val.name;
    let counts: BTreeMap<&str, usize> =
        val.classes.iter().map(|(name, p)| (name.as_str(), p.len())).collect();
    let lacking = names.iter().filter(|name| counts.get(name.as_str()).is_none_or(|n| *n == 0));
    let extra = val.classes.iter().filter(|(name, _)| !known.contains(name));
    let (full, empty): (Vec<_>, Vec<_>) = extra.partition(|(_, images)| !images.is_empty());
    vec![
        Finding::note(
            "other_splits",
            "further splits, not examined (--val-split takes another one)",
            VAL_NAMES
                .into_iter()
                .filter(unused)
                .map(|name| Item::of(root, &root.join(name)))
                .collect(),
        ),
        Finding::warning(
            "missing_class",
            "classes without an image to evaluate on",
            lacking
                .map(|name| {
                    let is_there = counts.contains_key(name.as_str());
                    let detail = if is_there { "empty" } else { "missing" };
                    class_item(root, val, name).detail(detail)
                })
                .collect(),
        ),
        Finding::error(
            "extra_class",
            "classes to evaluate on that the training does not have: remove them or train with them",
            full.iter()
                .map(|(name, images)| {
                    let near = nearest(name, &names)
                        .map_or_else(String::new, |n| format!("; did you mean `{n}`?"));
                    class_item(root, val, name).detail(&format!("{} images{near}", images.len()))
                })
                .collect(),
        ),
        Finding::note(
            "extra_empty_class",
            "empty folders of no class of the training",
            empty.iter().map(|(name, _)| class_item(root, val, name)).collect(),
        ),
    ]
}

/// The first bytes of a file, or none of one that cannot be read.
fn start(path: &Path) -> Vec<u8> {
    let mut start = Vec::new();
    // A pipe or a device is not opened: reading it could wait for ever.
    if path.is_file()
        && let Ok(file) = std::fs::File::open(path)
    {
        let _ = file.take(64).read_to_end(&mut start);
    }
    start
}

/// What an image of a format that is not read is called, by its name or its first bytes.
fn foreign_kind_of(path: &Path) -> Option<&'static str> {
    foreign_name(path).or_else(|| foreign_kind(&start(path)))
}

/// Pairs of names that people would take for the same one.
fn alike(names: &[String]) -> Vec<(String, String)> {
    let mut seen: BTreeMap<String, &String> = BTreeMap::new();
    let mut pairs = Vec::new();
    for name in names {
        let plain: String = name
            .chars()
            .filter(|c| !matches!(c, ' ' | '-' | '_'))
            .collect::<String>()
            .to_lowercase();
        match seen.get(&plain) {
            Some(first) => pairs.push(((*first).clone(), name.clone())),
            None => drop(seen.insert(plain, name)),
        }
    }
    pairs.sort_by(|a, b| natural(&a.0, &b.0));
    pairs
}
