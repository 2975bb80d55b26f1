//! Random command lines. Whatever is typed, the program ends in time with a documented exit code,
//! with one sentence where it failed, without a panic, and without anything left behind by a
//! refusal.
//!
//! The command lines come from clap's own tree of commands, so that a new flag is tried without an
//! edit here: valid values, the ends of the documented ranges, numbers that are none, words that
//! are no UTF-8, long ones, files that are missing, folders or devices, flags that exclude each
//! other.
//!
//! A case is a function of its number: `KINDLING_FUZZ_RUNS=2000 cargo test --workspace --test
//! fuzz_command_line` runs cases 0 to 1999, `KINDLING_FUZZ_ONLY=17` case 17 alone and prints it.

#![cfg(unix)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Arg;
use deploy::container::{TensorRef, safetensors_of};
use kernels::random::{GOLDEN, mix};
use nn::models::variants::Variant;
use train::config::recipe;

/// Cases of the ordinary test.
const RUNS: u64 = 150;

/// Longest time of a case; most take less than a second.
const LIMIT: Duration = Duration::from_mins(2);

/// Address space of the program: a request beyond it fails instead of taking the machine's memory.
const ADDRESS_KB: &str = "16000000";

/// Exit codes that `train::cli` documents; 0 is success.
const CODES: [i32; 8] = [0, 2, 3, 4, 5, 6, 7, 8];

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
fn command_line(root: &clap::Command, number: u64) -> Vec<OsString> {
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

/// What every case finds in its folder.
fn prepare(folder: &Path) {
    let carried = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/fashion-mnist-mini");
    for (split, count) in [("train", 4), ("val", 2)] {
        for (class, from) in [("a", "bag"), ("b", "trouser")] {
            let to = folder.join("data").join(split).join(class);
            fs::create_dir_all(&to).unwrap();
            for i in 0..count {
                fs::copy(
                    carried.join(split).join(from).join(format!("{i:04}.png")),
                    to.join(format!("{i}.png")),
                )
                .unwrap();
            }
        }
    }
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/tests/fixtures/fashion.ckpt");
    let checkpoint = fs::read(fixture).unwrap();
    let pixels = vec![0.5; 2 * 3 * 32 * 32];
    let input = TensorRef { name: "input", shape: vec![2, 3, 32, 32], values: &pixels };
    let targets = TensorRef { name: "targets", shape: vec![2, 1000], values: &[0.001; 2000] };
    let files: [(&str, &[u8]); 7] = [
        ("c.ckpt", checkpoint.as_slice()),
        ("c.safetensors", checkpoint.as_slice()),
        ("half.ckpt", &checkpoint[..checkpoint.len() / 2]),
        ("input.safetensors", &safetensors_of([input, targets], &[])),
        ("options.toml", b"seed = 3\nlr = 0.01\n"),
        ("text.txt", b"a,1\nb,2\n"),
        ("empty.bin", b""),
    ];
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes).unwrap();
    }
    for name in ["empty", "odd/deep", "tmp", "home"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    symlink("loop", folder.join("loop")).unwrap();
    symlink("nowhere", folder.join("dangling")).unwrap();
    symlink("..", folder.join("odd/deep/back")).unwrap();
    let made = Command::new("mkfifo").arg(folder.join("odd/pipe.png")).status();
    assert!(made.is_ok_and(|status| status.success()), "mkfifo");
}

/// Every path below a folder with its content, links not followed. The program's scratch folder
/// counts too.
fn listing(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_path_buf()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap().map(Result::unwrap) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let content = if kind.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            if kind.is_dir() {
                folders.push(path.clone());
            }
            found.insert(path.strip_prefix(folder).unwrap().to_path_buf(), content);
        }
    }
    found
}

/// What a case did.
struct Ended {
    code: Option<i32>,
    signal: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs a command line in `folder`; nothing where it did not end in time.
fn run(folder: &Path, words: &[OsString]) -> Option<Ended> {
    let mut child = Command::new("sh")
        .args([
            "-c",
            &format!("ulimit -v {ADDRESS_KB}; exec \"$@\""),
            "sh",
            env!("CARGO_BIN_EXE_kindling"),
        ])
        .args(words)
        .current_dir(folder)
        .env("HOME", folder.join("home"))
        // Vulkan's driver, not the program, writes into its user's cache.
        .env("MESA_SHADER_CACHE_DISABLE", "true")
        .env("XDG_CACHE_HOME", folder.join("home"))
        .env("TMPDIR", folder.join("tmp"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    std::thread::scope(|scope| {
        let read = |stream: &mut dyn std::io::Read| {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let stdout = scope.spawn(move || read(&mut out));
        let stderr = scope.spawn(move || read(&mut err));
        let status = wait(&mut child);
        let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
        status.map(|status| Ended { code: status.code(), signal: status.signal(), stdout, stderr })
    })
}

/// Waits for the end; a child that takes too long is killed.
fn wait(child: &mut Child) -> Option<std::process::ExitStatus> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if began.elapsed() > LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What is wrong with the end of a case.
fn faults(words: &[OsString], ended: Option<&Ended>, changes: &[String]) -> Vec<String> {
    let Some(ended) = ended else { return vec!["it did not end".to_owned()] };
    let mut faults = Vec::new();
    let Some(code) = ended.code.filter(|code| CODES.contains(code)) else {
        return vec![format!("exit code {:?}, signal {:?}", ended.code, ended.signal)];
    };
    for words in ["panicked at", "BACKTRACE", "memory allocation of"] {
        if ended.stderr.contains(words) || ended.stdout.contains(words) {
            faults.push(format!("`{words}` is printed"));
        }
    }
    let typed_line_break = words.iter().any(|word| word.as_bytes().contains(&b'\n'));
    let sentences = ended.stderr.lines().filter(|line| line.starts_with("error: ")).count();
    let is = |name: &str| words.iter().any(|word| word == name);
    let expected = match code {
        0 | 4 => 0..=0,
        // The report is the message.
        3 if is("check") => 0..=1,
        // One sentence for every image.
        3 if is("predict") => 1..=usize::MAX,
        // Without a command its list is the message.
        2 if ended.stderr.contains("\nCommands:\n") => 0..=1,
        _ => 1..=1,
    };
    if !expected.contains(&sentences) {
        faults.push(format!("exit code {code} with {sentences} sentences"));
    }
    let of_clap = ended.stderr.contains("For more information, try '--help'.")
        || ended.stderr.contains("\nCommands:\n");
    let known = ["error: ", "note: ", "skipped: ", "checking "];
    let stray = ended.stderr.lines().find(|line| !known.iter().any(|word| line.starts_with(word)));
    if let (Some(line), false, false) = (stray, of_clap, typed_line_break) {
        faults.push(format!("a stray line: {line}"));
    }
    let has_begun = ended.stdout.contains("run folder: ");
    let writes = is("check") || is("predict") || has_begun;
    if ![0, 4].contains(&code) && !writes && !changes.is_empty() {
        faults.push(format!("exit code {code} and left behind or changed: {}", changes.join(", ")));
    }
    if let Some(scratch) = changes.iter().find(|path| path.starts_with("tmp/")) {
        faults.push(format!("left in the system's folder of temporary files: {scratch}"));
    }
    faults
}

/// A command line as a shell takes it, long words shortened.
fn shown(words: &[OsString]) -> String {
    let word = |word: &OsString| {
        let text = word.to_string_lossy();
        match text.char_indices().nth(60) {
            Some((end, _)) => format!("{:?}..", &text[..end]),
            None => format!("{text:?}"),
        }
    };
    words.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// Runs a case; what is wrong with it, and the exit code.
fn check(root: &clap::Command, number: u64, verbose: bool) -> (Option<String>, Option<i32>) {
    let words = command_line(root, number);
    let folder =
        std::env::temp_dir().join(format!("kindling-fuzz-{}-{number}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    prepare(&folder);
    let before = listing(&folder);
    let ended = run(&folder, &words);
    let after = listing(&folder);
    let paths = before.keys().chain(after.keys().filter(|path| !before.contains_key(*path)));
    let changes: Vec<String> = paths
        .filter(|path| before.get(*path) != after.get(*path))
        .map(|path| path.display().to_string())
        .collect();
    fs::remove_dir_all(&folder).unwrap();
    let found = faults(&words, ended.as_ref(), &changes);
    let (code, stderr, stdout) =
        ended.map_or((None, String::new(), String::new()), |e| (e.code, e.stderr, e.stdout));
    let text =
        format!("case {number}: {}\n  {}\n  {code:?} {stderr}", shown(&words), found.join("; "));
    if verbose {
        train::out!("{text}\n{stdout}");
    }
    ((!found.is_empty()).then_some(text), code)
}

#[test]
fn no_command_line_ends_in_a_panic_a_hang_or_without_a_sentence() {
    let root = {
        let mut root = train::cli::command();
        root.build();
        root
    };
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (cases, verbose) = match variable("KINDLING_FUZZ_ONLY") {
        Some(number) => (number..number + 1, true),
        None => (0..variable("KINDLING_FUZZ_RUNS").unwrap_or(RUNS), false),
    };
    let next = AtomicU64::new(cases.start);
    let found = Mutex::new((Vec::new(), BTreeMap::<Option<i32>, usize>::new()));
    let workers = std::thread::available_parallelism().map_or(2, usize::from).min(8);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= cases.end {
                        break;
                    }
                    let (fault, code) = check(&root, number, verbose);
                    let mut found = found.lock().unwrap();
                    found.0.extend(fault);
                    *found.1.entry(code).or_default() += 1;
                }
            });
        }
    });
    let (faults, codes) = found.into_inner().unwrap();
    assert!(
        faults.is_empty(),
        "{} faults\n{}\nexit codes {codes:?}",
        faults.len(),
        faults.join("\n")
    );
    // The cases reach the work and each kind of refusal.
    let count = |code: i32| codes.get(&Some(code)).copied().unwrap_or_default();
    let all = codes.values().sum::<usize>();
    assert!(
        verbose || (count(0) + count(4) > all / 10 && count(2) > all / 10 && count(6) > 0),
        "exit codes {codes:?}"
    );
}

/// A word may be anything that the system allows.
#[test]
fn cases_hold_words_of_every_kind() {
    let mut root = train::cli::command();
    root.build();
    let words: Vec<OsString> = (0..20_000).flat_map(|number| command_line(&root, number)).collect();
    let any = |test: &dyn Fn(&OsStr) -> bool| words.iter().any(|word| test(word));
    assert!(any(&|word| word.to_str().is_none()), "a word that is not UTF-8");
    assert!(any(&|word| word.len() > 50_000), "a long word");
    assert!(any(&|word| word.is_empty()), "an empty word");
    let mut commands = vec![&root];
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands());
        for name in command.get_arguments().filter_map(Arg::get_long) {
            let flag = format!("--{name}");
            let spelt = |word: &OsStr| {
                let text = word.to_string_lossy();
                text == flag || text.starts_with(&format!("{flag}="))
            };
            assert!(
                command.has_subcommands() || any(&spelt),
                "{flag} of {} is tried",
                command.get_name()
            );
        }
    }
}
