//! What the program of 33c264c made of flags, files, recipes and older manifests
//! (`fixtures/make_plans.py` wrote it down), and what this one makes of them: the same plans, to
//! the last bit of a number.

use std::fs;
use std::path::PathBuf;

use clap::Parser;
use serde_json::{Map, Value};
use train::config::options::Options;
use train::config::plan::Plan;
use train::config::recipe::under;
use train::run::checkpoint::Manifest;

/// The options of `kindling train` alone.
#[derive(Parser)]
#[command(args_override_self = true, allow_negative_numbers = true)]
struct Flags {
    #[command(flatten)]
    options: Options,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/plans")
}

fn cases(name: &str) -> Map<String, Value> {
    let text = fs::read_to_string(folder().join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A plan as the manifest of a checkpoint holds it.
fn written(plan: &Plan) -> Value {
    serde_json::from_str(&serde_json::to_string(plan).unwrap()).unwrap()
}

/// Where two plans differ: key, what it is, what it was.
fn differences(now: &Value, before: &Value) -> Vec<String> {
    let (now, before) = (now.as_object().unwrap(), before.as_object().unwrap());
    let keys: std::collections::BTreeSet<&String> = now.keys().chain(before.keys()).collect();
    keys.into_iter()
        .filter(|key| now.get(*key) != before.get(*key))
        .map(|key| format!("{key}: {:?}, was {:?}", now.get(key), before.get(key)))
        .collect()
}

/// When a plan was made: the defaults of a new run may be others than those of an older one.
#[derive(Clone, Copy, PartialEq)]
enum Run {
    New,
    /// A new run with the configuration of an older one.
    Again,
    Older,
}

/// The plan written down, with the defaults that were changed on purpose since: new runs turn
/// images by EXIF, keep near-duplicates on one side and warm up for at most a fifth of the run,
/// unless flags or file say something else.
fn expected(value: &Value, run: Run) -> Value {
    let mut plan = value["plan"].clone();
    let says =
        |word: &str| [&value["flags"], &value["text"]].iter().any(|v| v.to_string().contains(word));
    plan["bn_cumulative"] = Value::Bool(false);
    plan["tensorboard"] = Value::Bool(false);
    plan["linear_probe"] = Value::Bool(false);
    plan["unfreeze_epoch"] = Value::from(0);
    plan["unfreeze_over"] = Value::from(0);
    plan["sync_bn"] = Value::Bool(false);
    plan["canonical_nodes"] = Value::from(1);
    plan["comm_dtype"] = Value::from("f32");
    plan["amp"] = Value::Bool(false);
    plan["group_duplicates"] = Value::Bool(run != Run::Older);
    if run == Run::New && !says("exif") {
        plan["exif"] = Value::Bool(true);
    }
    // A warm-up of one epoch is no longer the whole of a short run.
    let epochs = plan["epochs"].as_f64().unwrap();
    if run == Run::New
        && plan["sched"] != "onecycle"
        && plan["warmup_epochs"] == 1.0
        && !says("warmup_epochs")
        && !says("warmup-epochs")
    {
        plan["warmup_epochs"] = Value::from((0.2 * epochs).min(1.0));
    }
    plan
}

/// Compares the plan of each case of a file with the one written down.
///
/// Mutations caught: `exif` off in new plans. (What a plan without the key does, a test of
/// `config/datasets.rs` shows.)
fn check(name: &str, run: Run, plan: impl Fn(&str, &Value) -> Plan) {
    let cases = cases(name);
    assert!(!cases.is_empty());
    let mut wrong = Vec::new();
    for (case, value) in &cases {
        for line in differences(&written(&plan(case, value)), &expected(value, run)) {
            wrong.push(format!("{case}: {line}"));
        }
    }
    assert!(wrong.is_empty(), "{name}\n{}", wrong.join("\n"));
}

fn flags(value: &Value) -> Plan {
    let words = value["flags"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
    let flags = Flags::try_parse_from(["train"].into_iter().chain(words)).unwrap();
    let options = under(flags.options.over(&Options::default())).unwrap();
    options.plan().unwrap()
}

#[test]
fn flags_and_their_aliases() {
    check("flags.json", Run::New, |_, value| flags(value));
}

#[test]
fn recipes() {
    check("recipes.json", Run::New, |_, value| flags(value));
}

#[test]
fn files_whole_short_and_older() {
    check("files.json", Run::New, |case, value| {
        let text = value["text"].as_str().unwrap();
        under(Options::parse(text, case).unwrap()).unwrap().plan().unwrap()
    });
}

/// Both ways of reading it: as the configuration of a new run, and as the plan that it is.
#[test]
fn args_toml_of_every_run() {
    let read = |case: &str| fs::read_to_string(folder().join(format!("{case}.args.toml"))).unwrap();
    let with_file: Map<String, Value> = cases("flags.json");
    assert!(with_file.len() >= 12);
    check("flags.json", Run::Again, |case, _| {
        under(Options::parse(&read(case), case).unwrap()).unwrap().plan().unwrap()
    });
    check("flags.json", Run::Older, |case, _| toml::from_str(&read(case)).unwrap());
    check("flags.json", Run::Older, |case, _| {
        let plan: Plan = toml::from_str(&read(case)).unwrap();
        toml::from_str(&toml::to_string(&plan).unwrap()).unwrap()
    });
}

#[test]
fn manifests_whole_and_older() {
    check("manifests.json", Run::Older, |case, value| {
        let manifest = &value["manifest"];
        if case == "whole" {
            let text = manifest.to_string();
            let read: Manifest = serde_json::from_str(&text).unwrap();
            let again: Value =
                serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
            // What the plan got since is the business of `check`.
            let mut before = manifest.clone();
            before["plan"] = again["plan"].clone();
            before["network"]["head_conv"] = Value::Bool(false);
            assert_eq!(again, before);
            return read.plan;
        }
        serde_json::from_str(&manifest["plan"].to_string()).unwrap()
    });
}
