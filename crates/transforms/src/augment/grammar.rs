//! The text form of a policy, as `--aa` takes it: parsing and printing.
//!
//! timm: `original`, `originalr`, `v0`, `v0r`, `3a`, each with `-mstd0.5`;
//! `rand-m9-n2-p0.5-mstd0.5-mmax10-inc1-t3a`; `augmix-m3-w3-d2-a1-b1-mstd0.5`. torchvision:
//! `imagenet`, `cifar10`, `svhn`, `ra` (also `ra-m9-n2`), `ta_wide`, `augmix` (also `augmix-s3`,
//! its severity). `augmix` without one of timm's numbers is torchvision's.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::augment::augmix::AugMix;
use crate::augment::policy::{AutoAugmentTable, Choice, Dataset, Policy, Rand};

/// The names of the policies, each of which some form begins with.
pub const POLICIES: [&str; 12] = [
    "rand",
    "original",
    "originalr",
    "v0",
    "v0r",
    "3a",
    "augmix",
    "imagenet",
    "cifar10",
    "svhn",
    "ra",
    "ta_wide",
];

/// The forms that are accepted, for messages.
pub const FORMS: &str = "rand-m9-mstd0.5-inc1 (timm's RandAugment; n, p, mmax and t too), original, \
                         originalr, v0, v0r, 3a (timm's AutoAugment, each with -mstd0.5 too), \
                         augmix-m3-w3-d2 (timm's AugMix; a, b and mstd too), or torchvision's imagenet, \
                         cifar10, svhn, ra (also ra-m9-n2), ta_wide and augmix (also augmix-s3)";

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut sections = text.split('-');
        let name = sections.next().unwrap_or_default();
        let sections: Vec<&str> = sections.collect();
        let wrong = |why: String| format!("`{text}`: {why}; expected {FORMS}");
        let mut read = Sections { sections: &sections, taken: Vec::new() };
        let policy = read.policy(name).map_err(wrong)?;
        read.all_taken().map_err(wrong)?;
        Ok(policy)
    }
}

/// The sections after the name of a policy, and the keys that were read from them.
struct Sections<'a> {
    sections: &'a [&'a str],
    taken: Vec<&'a str>,
}

impl Sections<'_> {
    fn policy(&mut self, name: &str) -> Result<Policy, String> {
        let table = match name {
            "original" => Some(AutoAugmentTable::Original),
            "originalr" => Some(AutoAugmentTable::OriginalResearch),
            "v0" => Some(AutoAugmentTable::V0),
            "v0r" => Some(AutoAugmentTable::V0Research),
            "3a" => Some(AutoAugmentTable::Three),
            _ => None,
        };
        if let Some(table) = table {
            let deviation = self.number("mstd", 0.0..=100.0)?.unwrap_or(0.0);
            return Ok(Policy::Auto { table, deviation });
        }
        Ok(match name {
            "rand" => Policy::Rand(self.rand()?),
            "augmix" if self.sections.iter().all(|word| key_of(word) == "s") => {
                Policy::Mixed { severity: self.whole("s", 1..=10)?.unwrap_or(3) }
            }
            "augmix" => Policy::AugMix(AugMix {
                magnitude: self.whole("m", 0..=10)?.unwrap_or(3) as u32,
                width: self.whole("w", 1..=64)?.unwrap_or(3),
                depth: self.whole("d", 1..=64)?,
                alpha: self.number("a", 0.01..=100.0)?.unwrap_or(1.0),
                blended: self.whole("b", 0..=1)?.unwrap_or(0) == 1,
                deviation: self.number("mstd", 0.0..=100.0)?.unwrap_or(f64::INFINITY),
            }),
            "ra" => Policy::Ra {
                magnitude: self.whole("m", 0..=30)?.unwrap_or(9),
                count: self.whole("n", 1..=64)?.unwrap_or(2),
            },
            "ta_wide" => Policy::TrivialWide,
            "imagenet" => Policy::Learned(Dataset::ImageNet),
            "cifar10" => Policy::Learned(Dataset::Cifar10),
            "svhn" => Policy::Learned(Dataset::Svhn),
            _ => return Err(format!("there is no policy `{name}`")),
        })
    }

    fn rand(&mut self) -> Result<Rand, String> {
        let choice = match self.sections.iter().find(|word| word.starts_with('t')) {
            None => Choice::All,
            Some(&word) => {
                self.taken.push("t");
                match word {
                    "tweights" => Choice::Weighted,
                    "t3a" => Choice::Three,
                    "t3aw" => Choice::ThreeWeighted,
                    _ => return Err(format!("`{word}` is none of tweights, t3a and t3aw")),
                }
            }
        };
        if self.sections.iter().any(|word| word.starts_with('w')) {
            return Err("`w` is gone from timm, `tweights` is what came after it".into());
        }
        let deviation = match self.number("mstd", 0.0..=f64::INFINITY)?.unwrap_or(0.0) {
            above if above > 100.0 => f64::INFINITY,
            deviation => deviation,
        };
        Ok(Rand {
            magnitude: self.whole("m", 0..=100)?.unwrap_or(10) as u32,
            count: self.whole("n", 1..=64)?.unwrap_or(2),
            probability: self.number("p", 0.0..=1.0)?.unwrap_or(0.5),
            deviation,
            max: self.whole("mmax", 1..=100)?.unwrap_or(10) as u32,
            increasing: self.whole("inc", 0..=1)?.unwrap_or(0) == 1,
            choice,
        })
    }

    /// The text after `key` in the section that has exactly this key.
    fn text(&mut self, key: &'static str) -> Result<Option<&str>, String> {
        self.taken.push(key);
        let mut found = self.sections.iter().filter(|word| key_of(word) == key);
        let value = found.next().map(|word| &word[key.len()..]);
        match found.next() {
            Some(_) => Err(format!("`{key}` is there twice")),
            None => Ok(value),
        }
    }

    fn number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, String> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match text.parse::<f64>() {
            Ok(value) if range.contains(&value) => Ok(Some(value)),
            _ => Err(format!(
                "`{key}{text}`: {key} takes a number from {} to {}",
                range.start(),
                range.end()
            )),
        }
    }

    fn whole(
        &mut self,
        key: &'static str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, String> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match text.parse::<usize>() {
            Ok(value) if range.contains(&value) => Ok(Some(value)),
            _ => Err(format!(
                "`{key}{text}`: {key} takes a whole number from {} to {}",
                range.start(),
                range.end()
            )),
        }
    }

    fn all_taken(&self) -> Result<(), String> {
        let known = |word: &&&str| {
            self.taken.contains(&key_of(word))
                || (word.starts_with('t') && self.taken.contains(&"t"))
        };
        match self.sections.iter().find(|word| !known(word)) {
            Some(word) => Err(format!("`{word}` means nothing there")),
            None => Ok(()),
        }
    }
}

/// The letters before the first digit (or before the `inf` of a deviation).
fn key_of(word: &str) -> &str {
    let end = word.find(|letter: char| !letter.is_ascii_lowercase()).unwrap_or(word.len());
    &word[..end]
}

impl TryFrom<String> for Policy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Policy> for String {
    fn from(policy: Policy) -> String {
        policy.to_string()
    }
}

/// The text that parses to this policy; default values are omitted.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Policy::Auto { table, deviation } => {
                f.write_str(match table {
                    AutoAugmentTable::Original => "original",
                    AutoAugmentTable::OriginalResearch => "originalr",
                    AutoAugmentTable::V0 => "v0",
                    AutoAugmentTable::V0Research => "v0r",
                    AutoAugmentTable::Three => "3a",
                })?;
                if *deviation > 0.0 {
                    write!(f, "-mstd{deviation}")?;
                }
                Ok(())
            }
            Policy::Rand(rand) => {
                write!(f, "rand-m{}-n{}-p{}", rand.magnitude, rand.count, rand.probability)?;
                if rand.deviation == f64::INFINITY {
                    f.write_str("-mstd101")?;
                } else if rand.deviation > 0.0 {
                    write!(f, "-mstd{}", rand.deviation)?;
                }
                if rand.max != 10 {
                    write!(f, "-mmax{}", rand.max)?;
                }
                if rand.increasing {
                    f.write_str("-inc1")?;
                }
                f.write_str(match rand.choice {
                    Choice::All => "",
                    Choice::Weighted => "-tweights",
                    Choice::Three => "-t3a",
                    Choice::ThreeWeighted => "-t3aw",
                })
            }
            Policy::AugMix(augmix) => {
                write!(f, "augmix-m{}-w{}", augmix.magnitude, augmix.width)?;
                if let Some(depth) = augmix.depth {
                    write!(f, "-d{depth}")?;
                }
                if augmix.alpha != 1.0 {
                    write!(f, "-a{}", augmix.alpha)?;
                }
                if augmix.blended {
                    f.write_str("-b1")?;
                }
                if augmix.deviation != f64::INFINITY {
                    write!(f, "-mstd{}", augmix.deviation)?;
                }
                Ok(())
            }
            Policy::Learned(Dataset::ImageNet) => f.write_str("imagenet"),
            Policy::Learned(Dataset::Cifar10) => f.write_str("cifar10"),
            Policy::Learned(Dataset::Svhn) => f.write_str("svhn"),
            Policy::Ra { magnitude, count } => write!(f, "ra-m{magnitude}-n{count}"),
            Policy::TrivialWide => f.write_str("ta_wide"),
            Policy::Mixed { severity: 3 } => f.write_str("augmix"),
            Policy::Mixed { severity } => write!(f, "augmix-s{severity}"),
        }
    }
}
