//! Command lines out of clap's tree: a function of their number.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use clap::Arg;
use kernels::random::{GOLDEN, mix};
use nn::models::variants::Variant;
use train::config::recipe;

/// Numbers that may be typed for a number.
const NUMBERS: [&str; 44] = [
    "0",
    "1",
    "2",
    "3",
    "7",
    "16",
    "-1",
    "-0",
    "+1",
    "0.0",
    "0.1",
    "0.5",
    "0.9",
    "1.0",
    "1.5",
    "-0.5",
    "1e-3",
    "1e-9",
    "1e-320",
    "5e-324",
    "1e300",
    "1e308",
    "1e309",
    "inf",
    "-inf",
    "nan",
    "NaN",
    "-nan",
    "255",
    "256",
    "1024",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1_000",
    "1,5",
    "0x10",
    "1e",
    "٣",
];

/// Words that may be typed for anything.
const WORDS: [&str; 22] = [
    "", " ", "-", "--", "---", "=", "a=b", "a,b", ",", "\n", "a\nb", "\u{202e}", "é", "🦀", "%s%n",
    "$HOME", "`x`", "'", "\"", "*", "true", "none",
];

/// Files and folders of a case, there or not. None lies outside of the case's own folder unless it
/// cannot be written to.
const PATHS: [&str; 26] = [
    "data",
    "data/train",
    "data/val",
    "data/train/a/0.png",
    "data/none.png",
    "missing",
    "missing/deep",
    "empty",
    "empty.bin",
    "text.txt",
    "c.ckpt",
    "c.safetensors",
    "half.ckpt",
    "input.safetensors",
    "options.toml",
    "odd",
    "dangling",
    "loop",
    "new",
    "new.ckpt",
    "new.safetensors",
    "new.csv",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/proc/self/mem",
];

/// Options whose valid values multiply the work of a case, and the largest one that is tried.
const COSTLY: [(&str, f64); 12] = [
    ("img_size", 64.0),
    ("img_size_start", 64.0),
    ("width", 1.0),
    ("num_classes", 1000.0),
    ("batch_size", 8.0),
    ("batches", 2.0),
    ("warmup", 2.0),
    ("repeats", 2.0),
    ("steps", 12.0),
    ("count", 8.0),
    ("resize", 512.0),
    ("crop", 128.0),
];

/// splitmix64 of a case.
struct Random(u64);

impl Random {
    fn of_case(number: u64) -> Self {
        Self(mix(number.wrapping_mul(GOLDEN) ^ 0x00C0_FFEE))
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(GOLDEN);
        (mix(self.0) % end as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// The two ends of the range that a help text documents.
fn range_of(arg: &Arg) -> Option<(f64, Option<f64>)> {
    let help = arg.get_help()?.to_string();
    let range = help.split("[range: ").nth(1)?.split(']').next()?.to_owned();
    let numbers: Vec<f64> = range.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
    match (range.split(' ').next()?, numbers.as_slice()) {
        ("at", [low]) => Some((*low, None)),
        ("up", [high]) => Some((0.0, Some(*high))),
        (_, [low, .., high]) => Some((*low, Some(*high))),
        _ => None,
    }
}

/// A number for an argument: often an end of its range, or just outside.
fn number(random: &mut Random, arg: &Arg) -> String {
    let Some((low, high)) = range_of(arg) else { return (*random.pick(&NUMBERS)).to_owned() };
    let high = high.unwrap_or(1e9);
    let ends = [
        low,
        high,
        low - 1.0,
        high + 1.0,
        low - 1e-9,
        high + 1e-9,
        f64::midpoint(low, high),
        low + 1.0,
        -low,
        -high,
    ];
    match random.one_in(2) {
        true => format!("{}", random.pick(&ends)),
        false => (*random.pick(&NUMBERS)).to_owned(),
    }
}

/// A valid number that makes a case long becomes a smaller one.
fn affordable(arg: &Arg, value: String) -> String {
    let limit = COSTLY.iter().find(|(id, _)| arg.get_id() == id).map(|(_, limit)| *limit);
    let highest = range_of(arg).and_then(|(_, high)| high).unwrap_or(f64::INFINITY);
    match (limit, value.parse::<f64>()) {
        (Some(limit), Ok(number)) if number > limit && number <= highest => format!("{limit}"),
        _ => value,
    }
}

/// The value that an argument is there for, by its name.
fn right(random: &mut Random, arg: &Arg) -> String {
    let name = arg
        .get_value_names()
        .unwrap_or_default()
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    let id = arg.get_id().as_str();
    let known = match (name.as_str(), id) {
        (_, "data_dir" | "data_dir_flag" | "data") => "data",
        (_, "checkpoint" | "checkpoints" | "teacher" | "weights" | "pretrained_path") => "c.ckpt",
        (_, "input") => "input.safetensors",
        (_, "config") => "options.toml",
        (_, "recipe") => recipe::all()[random.below(recipe::all().len())].name,
        (_, "quarantine" | "classes") => "text.txt",
        (_, "output" | "json" | "svg" | "dry_run_plot") => {
            *random.pick(&["new", "new.csv", "new.svg", "new.png", "new.safetensors"])
        }
        ("IN", _) => *random.pick(&["c.ckpt", "c.safetensors"]),
        ("OUT", _) => *random.pick(&["new.ckpt", "new.safetensors"]),
        ("NAME" | "MODEL", "model" | "name") => match random.one_in(4) {
            true => Variant::names().nth(random.below(Variant::names().count())).unwrap(),
            false => "mobilenet_v3_small",
        },
        ("IMAGE" | "SOURCE", _) => *random.pick(&["data", "data/train/a/0.png", "data/val"]),
        _ => return number(random, arg),
    };
    known.to_owned()
}

/// Anything that may be typed for a value of `arg`.
fn value(random: &mut Random, arg: &Arg) -> OsString {
    let possible = arg.get_possible_values();
    let text = match random.below(10) {
        0..4 if !possible.is_empty() => random.pick(&possible).get_name().to_owned(),
        0..5 => right(random, arg),
        5 | 6 => number(random, arg),
        7 => (*random.pick(&WORDS)).to_owned(),
        8 => (*random.pick(&PATHS)).to_owned(),
        _ => match random.below(6) {
            0 => "x".repeat(100_000),
            1 => "n".repeat(300),
            2 => return OsString::from_vec(b"caf\xe9.png".to_vec()),
            3 => return OsString::from_vec(vec![0xFF, 0xFE]),
            4 if !possible.is_empty() => format!("{}x", random.pick(&possible).get_name()),
            _ => right(random, arg),
        },
    };
    affordable(arg, text).into()
}

/// The words of one argument: its flag in some spelling, and as many values as it takes.
fn words_of(random: &mut Random, arg: &Arg) -> Vec<OsString> {
    let takes = arg.get_num_args().unwrap_or_default();
    let mut count = takes.min_values()
        + random.below(1 + takes.max_values().min(3).saturating_sub(takes.min_values()));
    if random.one_in(20) {
        count = random.below(4);
    }
    let mut values: Vec<OsString> = (0..count).map(|_| value(random, arg)).collect();
    if arg.is_positional() {
        return values;
    }
    let mut names: Vec<String> =
        arg.get_all_aliases().unwrap_or_default().iter().map(|name| format!("--{name}")).collect();
    names.extend(arg.get_long().map(|name| format!("--{name}")));
    names.extend(arg.get_short().map(|name| format!("-{name}")));
    let flag = random.pick(&names).clone();
    match (values.len(), flag.starts_with("--") && random.one_in(3)) {
        (1.., true) => {
            let mut first: OsString = format!("{flag}=").into();
            first.push(values.remove(0));
            values.insert(0, first);
        }
        _ => values.insert(0, flag.into()),
    }
    values
}

/// Flags that keep a case short, before all others, which override them.
fn cheap(path: &[String]) -> &'static str {
    match path.join(" ").as_str() {
        "train" | "lr-find" | "data preview" => {
            "--model mobilenet_v3_small --width 0.35 --img-size 32 --batch-size 4 --workers 1 --epochs 1"
        }
        "bench" => "--model mobilenet_v3_small --img-size 32 --batch-size 1 --batches 1 --warmup 0",
        "profile" => "--model mobilenet_v3_small --img-size 32 --batch-size 1 --repeats 1",
        "average" | "bn-reestimate" => "--batches 1",
        _ => "",
    }
}

/// The command line of a case, without the name of the program.
pub(crate) fn command_line(root: &clap::Command, number: u64) -> Vec<OsString> {
    let mut random = Random::of_case(number);
    let random = &mut random;
    let (mut command, mut path) = (root, Vec::new());
    while command.has_subcommands() && !random.one_in(60) {
        let below: Vec<&clap::Command> = command.get_subcommands().collect();
        // A run has most of the flags.
        let next = match below.iter().find(|next| next.get_name() == "train") {
            Some(train) if random.one_in(3) => *train,
            _ => *random.pick(&below),
        };
        let names: Vec<&str> =
            std::iter::once(next.get_name()).chain(next.get_all_aliases()).collect();
        path.push((*random.pick(&names)).to_owned());
        command = next;
    }
    if random.one_in(50) {
        path.push((*random.pick(&["tran", "trainn", "", "--", "-x", "help"])).to_owned());
    }
    let mut blocks: Vec<Vec<OsString>> = Vec::new();
    let arguments: Vec<&Arg> = command.get_arguments().collect();
    for arg in &arguments {
        let needed = arg.is_required_set() && !random.one_in(15);
        if needed && random.one_in(2) {
            let word: OsString = right(random, arg).into();
            let flag: Option<OsString> = arg
                .get_long()
                .filter(|_| !arg.is_positional())
                .map(|name| format!("--{name}").into());
            blocks.push(flag.into_iter().chain([word]).collect());
        } else if needed || (arg.is_positional() && random.one_in(2)) {
            blocks.push(words_of(random, arg));
        }
    }
    // The topics of `help` have no arguments.
    for _ in 0..random.below(5).min(5 * arguments.len()) {
        let arg = random.pick(&arguments);
        let help = ["help", "version"].contains(&arg.get_id().as_str());
        if !help || random.one_in(5) {
            blocks.push(words_of(random, arg));
        }
        let excluded = command.get_arg_conflicts_with(arg);
        if !excluded.is_empty() && random.one_in(2) {
            blocks.push(words_of(random, random_of(&excluded)));
        }
    }
    for last in (1..blocks.len()).rev() {
        blocks.swap(last, random.below(last + 1));
    }
    let mut words: Vec<OsString> = path.iter().map(Into::into).collect();
    words.extend(cheap(&path).split_whitespace().map(Into::into));
    words.extend(blocks.into_iter().flatten());
    if path.first().is_some_and(|name| name == "train") && !random.one_in(20) {
        words.extend(["--max-hours", "0.0001"].map(Into::into));
    }
    words
}

/// The first of some: which one matters less than that there is one.
fn random_of<'a>(all: &[&'a Arg]) -> &'a Arg {
    all[0]
}
