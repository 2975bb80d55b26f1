//! The report of a check, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::datasets::quarantine::relative;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Training is refused, loses images, or its accuracy is not what it seems.
    Error,
    /// Worth a look.
    Warning,
    /// Good to know.
    Note,
}

/// One fault and where it is.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// A word to select it by.
    pub kind: &'static str,
    /// What, and the way out.
    pub what: &'static str,
    pub count: usize,
    pub items: Vec<Item>,
}

/// One file or folder of a finding.
#[derive(Debug, Serialize)]
pub struct Item {
    /// Relative to the folder.
    pub path: String,
    /// What it is paired with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Item {
    pub fn of(root: &Path, path: &Path) -> Self {
        let path = match relative(root, path) {
            Some(inside) if inside.is_empty() => ".".into(),
            Some(inside) => inside,
            None => path.display().to_string(),
        };
        Self { path, other: None, detail: None }
    }

    pub fn detail(self, detail: &str) -> Self {
        Self { detail: Some(detail.to_owned()).filter(|d| !d.is_empty()), ..self }
    }

    pub fn other(self, other: impl Into<String>) -> Self {
        Self { other: Some(other.into()), ..self }
    }
}

impl Finding {
    fn new(severity: Severity, kind: &'static str, what: &'static str, items: Vec<Item>) -> Self {
        Self { severity, kind, what, count: items.len(), items }
    }

    pub fn error(kind: &'static str, what: &'static str, items: Vec<Item>) -> Self {
        Self::new(Severity::Error, kind, what, items)
    }

    pub fn warning(kind: &'static str, what: &'static str, items: Vec<Item>) -> Self {
        Self::new(Severity::Warning, kind, what, items)
    }

    pub fn note(kind: &'static str, what: &'static str, items: Vec<Item>) -> Self {
        Self::new(Severity::Note, kind, what, items)
    }
}

/// One finding of each kind, without the empty ones.
pub(super) fn joined(findings: Vec<Finding>) -> Vec<Finding> {
    let mut joined: Vec<Finding> = Vec::new();
    for mut finding in findings.into_iter().filter(|f| f.count > 0) {
        match joined.iter_mut().find(|f| f.kind == finding.kind) {
            Some(first) => {
                first.count += finding.count;
                first.items.append(&mut finding.items);
            }
            None => joined.push(finding),
        }
    }
    joined
}

/// A split in numbers.
#[derive(Debug, Serialize)]
pub struct SplitRow {
    pub name: String,
    #[serde(rename = "pictures")]
    pub images: usize,
    /// Class and images, in label order.
    pub classes: Vec<(String, usize)>,
}

/// How evenly the classes of the training are filled.
#[derive(Debug, Serialize)]
pub struct Balance {
    pub largest: (String, usize),
    pub smallest: (String, usize),
    /// Largest by smallest, of the classes that are not empty.
    pub ratio: f64,
    /// exp(entropy) of the class shares: as many equally filled classes would be as varied.
    pub effective_classes: f64,
}

/// Sizes of the images that decode, in pixels.
#[derive(Debug, Default, Serialize)]
pub struct Sizes {
    /// Images by their shorter edge: (from, up to but not including, count).
    pub short_edge: Vec<(u32, Option<u32>, usize)>,
    /// Smallest, median and largest shorter edge.
    pub short: [u32; 3],
    /// Smallest, median and largest longer edge.
    pub long: [u32; 3],
}

/// How fast reading and decoding went.
#[derive(Debug, Default, Serialize)]
pub struct Rate {
    pub seconds: f64,
    #[serde(rename = "pictures_per_s")]
    pub images_per_s: f64,
    pub megabytes_per_s: f64,
    pub threads: usize,
}

/// The result of a check.
#[derive(Debug, Serialize)]
pub struct CheckReport {
    pub folder: String,
    pub errors: usize,
    pub warnings: usize,
    pub splits: Vec<SplitRow>,
    /// Images of the quarantine list, which were not looked at.
    pub quarantined: usize,
    pub balance: Option<Balance>,
    pub formats: BTreeMap<String, usize>,
    /// Gray, colour, CMYK, alpha, 16 bits, turned by EXIF.
    pub samples: BTreeMap<&'static str, usize>,
    pub sizes: Sizes,
    pub decoding: Rate,
    /// Errors first.
    pub findings: Vec<Finding>,
}

/// Rows of the class table before its middle is left out.
const ROWS: usize = 12;

impl CheckReport {
    /// The report for people, at most `examples` items of a finding.
    pub fn text(&self, examples: usize) -> String {
        let mut text = String::new();
        let put = |text: &mut String, line: String| {
            text.push_str(line.trim_end());
            text.push('\n');
        };
        for split in &self.splits {
            let name = if split.name.is_empty() { "(whole)" } else { &split.name };
            let line =
                format!("{name:<12}{} classes, {} images", split.classes.len(), split.images);
            put(&mut text, line);
        }
        if self.quarantined > 0 {
            put(&mut text, format!("{:<12}{} images left out", "quarantine", self.quarantined));
        }
        text.push_str(&self.class_table());
        if let Some(balance) = &self.balance {
            let line = format!(
                "{:<12}largest {} ({}), smallest {} ({}), ratio {:.2}; as varied as {:.1} equal classes",
                "balance",
                balance.largest.0,
                balance.largest.1,
                balance.smallest.0,
                balance.smallest.1,
                balance.ratio,
                balance.effective_classes
            );
            put(&mut text, line);
        }
        let counts = |map: &mut dyn Iterator<Item = (&str, usize)>| {
            let some: Vec<String> =
                map.filter(|(_, n)| *n > 0).map(|(name, n)| format!("{n} {name}")).collect();
            some.join(", ")
        };
        let formats = counts(&mut self.formats.iter().map(|(k, v)| (k.as_str(), *v)));
        put(&mut text, format!("{:<12}{formats}", "formats"));
        let samples = counts(&mut self.samples.iter().map(|(k, v)| (*k, *v)));
        put(&mut text, format!("{:<12}{samples}", "samples"));
        self.size_lines(&mut text);
        let rate = &self.decoding;
        let line = format!(
            "{:<12}{:.0} images/s, {:.1} MB/s on {} threads ({:.1} s)",
            "decoding", rate.images_per_s, rate.megabytes_per_s, rate.threads, rate.seconds
        );
        put(&mut text, line);
        text.push('\n');
        for finding in &self.findings {
            let word = match finding.severity {
                Severity::Error => "ERROR",
                Severity::Warning => "warning",
                Severity::Note => "note",
            };
            put(
                &mut text,
                format!("{word:<8}{:<20}{:>6}  {}", finding.kind, finding.count, finding.what),
            );
            for item in finding.items.iter().take(examples) {
                let other = item.other.as_ref().map_or_else(String::new, |o| format!("  =  {o}"));
                let detail = item.detail.as_ref().map_or_else(String::new, |d| format!("  ({d})"));
                put(&mut text, format!("{:8}{}{other}{detail}", "", item.path));
            }
            if finding.count > examples {
                put(&mut text, format!("{:8}and {} more", "", finding.count - examples));
            }
        }
        let response = match (self.errors, self.warnings) {
            (0, 0) => "clean".to_owned(),
            (e, w) => {
                let kinds = |n: usize, word: &str| match n {
                    1 => format!("1 kind of {word}"),
                    n => format!("{n} kinds of {word}s"),
                };
                format!("{}, {}", kinds(e, "error"), kinds(w, "warning"))
            }
        };
        put(&mut text, format!("{}: {response}", self.folder));
        text
    }

    fn class_table(&self) -> String {
        let first = &self.splits[0];
        let mut names: Vec<&str> = first.classes.iter().map(|(name, _)| name.as_str()).collect();
        for (name, _) in self.splits.iter().skip(1).flat_map(|s| &s.classes) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        let width = names.iter().map(|n| n.chars().count()).max().unwrap_or(0).clamp(10, 40);
        let mut text = format!("{:12}{:<width$}", "", "class");
        for split in &self.splits {
            let name = if split.name.is_empty() { "images" } else { &split.name };
            let _ = write!(text, "{name:>12}");
        }
        text.push('\n');
        let maps: Vec<BTreeMap<&str, usize>> = self
            .splits
            .iter()
            .map(|s| s.classes.iter().map(|(name, n)| (name.as_str(), *n)).collect())
            .collect();
        for (i, name) in names.iter().enumerate() {
            if names.len() > ROWS && i == ROWS / 2 {
                let left = names.len() - ROWS;
                let _ = writeln!(text, "{:12}... {left} more, all with --json", "");
            }
            if names.len() > ROWS && (ROWS / 2..names.len() - ROWS / 2).contains(&i) {
                continue;
            }
            let _ = write!(text, "{:12}{name:<width$}", "");
            for map in &maps {
                let count = map.get(name).map_or_else(|| "missing".to_owned(), |n| n.to_string());
                let _ = write!(text, "{count:>12}");
            }
            text.push('\n');
        }
        text
    }

    fn size_lines(&self, text: &mut String) {
        let [low, middle, high] = self.sizes.short;
        let [least, median, most] = self.sizes.long;
        if self.sizes.short_edge.is_empty() {
            return;
        }
        let _ = writeln!(
            text,
            "{:<12}shorter edge {low} to {high} pixels, median {middle}; longer {least} to {most}, median {median}",
            "sizes"
        );
        let most = self.sizes.short_edge.iter().map(|(.., n)| *n).max().unwrap_or(1).max(1);
        for (from, to, count) in &self.sizes.short_edge {
            let bar = "#".repeat((count * 40).div_ceil(most));
            let to = to.map_or_else(String::new, |to| (to - 1).to_string());
            let _ = writeln!(text, "{:12}{from:>5}..{to:<5}{count:>8}  {bar}", "");
        }
    }
}
