//! Which of a file's tensors are the weights. Training programs store a network below the name of
//! an entry (`state_dict`, `model`, ..) or of an attribute (`net.`), an average of it beside it
//! (`state_dict_ema`, `model_ema`, ..), and wrappers put names of their own between. The names of
//! the networks that this crate knows show where they begin, whatever stands before them.

use std::collections::HashSet;

use crate::weights::WeightsError;
use crate::weights::kind::WeightsKind;
use crate::weights::known::KNOWN;

/// Names that wrappers put into the path of a tensor: `torch.compile`, `DataParallel`, FSDP and
/// activation checkpointing.
const WRAPPERS: [&str; 4] =
    ["_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// Words of a name that say that it holds an average, the first the most likely one to be meant.
const AVERAGES: [&str; 5] = ["ema", "swa", "averaged", "average", "avg"];

/// Names below which training programs store the trained weights, in the order in which timm and
/// others look for them; the empty one is no name at all.
const TRAINED: [&str; 10] = [
    "",
    "state_dict",
    "model",
    "model_state_dict",
    "net",
    "network",
    "weights",
    "params",
    "backbone",
    "encoder",
];

/// Share of a network's names below a prefix from which on they are taken for this network's.
const SHARE: f64 = 0.5;

/// The weights that are meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// What stands before their names.
    pub prefix: String,
    /// What stands before the names of other weights.
    pub others: Vec<String>,
    /// Which they are, in words; none where there are no others and no prefix.
    pub taken: Option<String>,
}

/// The names without those of wrappers; as they are where two would become one.
pub(crate) fn without_wrappers<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let names: Vec<&str> = names.collect();
    let bare = |name: &&str| {
        let parts: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
        parts.join(".")
    };
    let stripped: Vec<String> = names.iter().map(bare).collect();
    match stripped.iter().collect::<HashSet<_>>().len() == names.len() {
        true => stripped,
        false => names.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// Chooses among the weights whose names these are.
///
/// # Errors
/// [`WeightsError::Kind`] when there are none of this kind, or several.
pub(crate) fn choose(names: &[&str], kind: WeightsKind) -> Result<Choice, WeightsError> {
    let mut prefixes = networks(names);
    if prefixes.is_empty() {
        prefixes = entries(names);
    }
    let (averages, trained): (Vec<String>, Vec<String>) =
        prefixes.iter().cloned().partition(|prefix| average_rank(prefix).is_some());
    let taken = match kind {
        WeightsKind::Raw => raw(&trained)?.ok_or_else(|| {
            let all = quoted(&averages);
            WeightsError::Kind(format!("there are only averages of weights ({all}); take them"))
        })?,
        WeightsKind::Ema => ema(&averages)?.ok_or_else(|| {
            WeightsError::Kind("there is no average of the weights; take the trained ones".into())
        })?,
        WeightsKind::Best => match ema(&averages)? {
            Some(prefix) => prefix,
            None => raw(&trained)?.unwrap_or_default(),
        },
    };
    let others: Vec<String> =
        prefixes.into_iter().filter(|other| *other != taken && other.starts_with(&taken)).collect();
    let words = said(&taken, &averages, &trained);
    Ok(Choice { prefix: taken, others, taken: words })
}

/// Which weights were taken, in words.
fn said(taken: &str, averages: &[String], trained: &[String]) -> Option<String> {
    let name = shown(taken);
    match (average_rank(taken).is_some(), averages.is_empty(), taken.is_empty()) {
        (true, _, _) if trained.is_empty() => Some(format!("{name}, an average of the weights")),
        (true, _, _) => Some(format!(
            "{name}, the average of the weights; --weights-kind raw takes {}",
            quoted(trained)
        )),
        (false, false, _) => Some(format!("{name}, the trained weights and not their average")),
        (false, true, false) => Some(format!("{name}, the weights")),
        (false, true, true) => None,
    }
}

fn shown(prefix: &str) -> String {
    match prefix.strip_suffix('.') {
        Some(name) => format!("`{name}`"),
        None => "those without a prefix".into(),
    }
}

fn quoted(prefixes: &[String]) -> String {
    prefixes.iter().map(|prefix| shown(prefix)).collect::<Vec<_>>().join(", ")
}

/// The average that is meant.
fn ema(averages: &[String]) -> Result<Option<String>, WeightsError> {
    single(averages, average_rank)
}

/// The trained weights that are meant.
fn raw(trained: &[String]) -> Result<Option<String>, WeightsError> {
    single(trained, |prefix| {
        let first = prefix.split('.').next().unwrap_or_default();
        TRAINED.iter().position(|name| *name == first)
    })
}

/// The one prefix, or of several the one of the lowest rank.
fn single(
    prefixes: &[String],
    rank: impl Fn(&str) -> Option<usize>,
) -> Result<Option<String>, WeightsError> {
    let [_, _, ..] = prefixes else { return Ok(prefixes.first().cloned()) };
    let lowest = prefixes.iter().filter_map(|prefix| rank(prefix)).min();
    let mut best = prefixes.iter().filter(|prefix| lowest.is_some() && rank(prefix) == lowest);
    match (best.next(), best.next()) {
        (Some(prefix), None) => Ok(Some(prefix.clone())),
        _ => Err(WeightsError::Kind(format!(
            "there are several sets of weights ({}); save the one that is meant alone",
            quoted(prefixes)
        ))),
    }
}

/// The index in [`AVERAGES`] of a word of the prefix; none where it is no average's.
fn average_rank(prefix: &str) -> Option<usize> {
    let words: Vec<String> = prefix.split(['.', '_']).map(str::to_lowercase).collect();
    AVERAGES.iter().position(|average| words.iter().any(|word| word == average))
}

/// What stands before the names of each network whose names are among these, the shortest first.
fn networks(names: &[&str]) -> Vec<String> {
    let all: HashSet<&str> = names.iter().copied().collect();
    let mut found: Vec<String> = Vec::new();
    for known in KNOWN.iter() {
        // A network without its first tensor is still one: the second is looked for too.
        for anchor in known.names().take(2) {
            for prefix in names.iter().filter_map(|name| name.strip_suffix(anchor)) {
                let whole = prefix.is_empty() || prefix.ends_with('.');
                if !whole || found.iter().any(|found| found == prefix) {
                    continue;
                }
                let hits = known.names().filter(|name| all.contains(&*format!("{prefix}{name}")));
                if hits.count() as f64 >= SHARE * known.names().count() as f64 {
                    found.push(prefix.to_owned());
                }
            }
        }
    }
    found.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    found
}

/// What stands before the names of an unknown network: names of entries, as far as all tensors of
/// an entry share them.
fn entries(names: &[&str]) -> Vec<String> {
    let first = |name: &str| name.split_once('.').map_or("", |(first, _)| first).to_owned();
    let is_entry =
        |name: &str| !name.is_empty() && (TRAINED.contains(&name) || average_rank(name).is_some());
    let mut tops: Vec<String> = names.iter().map(|name| first(name)).collect();
    tops.sort();
    tops.dedup();
    let found: Vec<String> =
        tops.into_iter().filter(|top| is_entry(top)).map(|top| top + ".").collect();
    let inner = |prefix: String| {
        let mut prefix = prefix;
        loop {
            let rest = names.iter().filter_map(|name| name.strip_prefix(prefix.as_str()));
            let mut tops: Vec<String> = rest.map(first).collect();
            tops.sort();
            tops.dedup();
            match &tops[..] {
                [top] if is_entry(top) => prefix = format!("{prefix}{top}."),
                _ => return prefix,
            }
        }
    };
    match found.is_empty() {
        true => vec![String::new()],
        false => found.into_iter().map(inner).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(prefixes: &[&str]) -> Vec<String> {
        let known = KNOWN.iter().find(|known| known.variant.name == "mobilenet_v2").unwrap();
        let names: Vec<&str> = known.names().collect();
        let below =
            |prefix: &&str| names.iter().map(|n| format!("{prefix}{n}")).collect::<Vec<_>>();
        prefixes.iter().flat_map(below).collect()
    }

    /// Mutations caught: the trained weights before their average; `cinema` taken for an average.
    #[test]
    fn averages_come_first_unless_the_trained_weights_are_asked_for() {
        use WeightsKind::{Best, Ema, Raw};
        let cases: [(&[&str], WeightsKind, &str); 16] = [
            (&[""], Best, ""),
            (&[""], Raw, ""),
            (&["state_dict.", "state_dict_ema."], Best, "state_dict_ema."),
            (&["state_dict.", "state_dict_ema."], Raw, "state_dict."),
            (&["state_dict.", "state_dict_ema."], Ema, "state_dict_ema."),
            (&["model.", "model_ema."], Best, "model_ema."),
            (&["model.", "model_ema."], Raw, "model."),
            (&["state_dict.model."], Best, "state_dict.model."),
            (&["state_dict.net.", "state_dict.ema_model."], Best, "state_dict.ema_model."),
            (&["", "ema."], Raw, ""),
            (&["anything.at.all."], Best, "anything.at.all."),
            (&["state_dict.", "teacher."], Best, "state_dict."),
            (&["ema_state_dict.", "swa_state_dict.", "state_dict."], Best, "ema_state_dict."),
            (&["cinema."], Best, "cinema."),
            (&["cinema."], Raw, "cinema."),
            (&["params.", "params_ema."], Best, "params_ema."),
        ];
        for (prefixes, kind, want) in cases {
            let names = below(prefixes);
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let choice = choose(&names, kind).unwrap();
            assert_eq!(choice.prefix, want, "{prefixes:?} {kind:?}");
            let said = choice.taken.unwrap_or_default();
            assert!(want.is_empty() || said.contains(want.trim_end_matches('.')), "{said}");
        }
    }

    /// Mutations caught: the first of several of one rank taken.
    #[test]
    fn what_is_not_there_and_what_is_ambiguous_is_refused() {
        let refused = |prefixes: &[&str], kind, word: &str| {
            let names = below(prefixes);
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let error = choose(&names, kind).unwrap_err();
            assert!(matches!(error, WeightsError::Kind(_)), "{error}");
            assert!(error.to_string().contains(word), "{error}");
        };
        refused(&["student.", "teacher."], WeightsKind::Best, "`student`, `teacher`");
        refused(&["model.a.", "model.b."], WeightsKind::Raw, "`model.a`, `model.b`");
        refused(&["model."], WeightsKind::Ema, "no average");
        refused(&["model_ema."], WeightsKind::Raw, "only averages");
    }

    /// Mutations caught: `_orig_mod` no wrapper.
    #[test]
    fn wrappers_are_removed_wherever_they_stand() {
        let names = ["module._orig_mod.features.0.weight", "features.module.1.weight"];
        let bare = without_wrappers(names.into_iter());
        assert_eq!(bare, ["features.0.weight", "features.1.weight"]);
        let two = ["module.a", "a"];
        assert_eq!(without_wrappers(two.into_iter()), two);
    }

    #[test]
    fn an_unknown_network_lies_where_its_entries_say() {
        let names = ["state_dict.net.layer1.0.weight", "state_dict.net.layer1.0.bias", "epoch"];
        let choice = choose(&names, WeightsKind::Best).unwrap();
        assert_eq!(choice.prefix, "state_dict.net.");
        let plain = ["layer1.0.weight", "layer1.0.bias"];
        assert_eq!(choose(&plain, WeightsKind::Best).unwrap().prefix, "");
    }
}
