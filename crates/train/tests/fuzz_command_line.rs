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
//!
//! Mutations caught: a number that is none unwrapped; an exit code that is not documented.

#![cfg(unix)]

#[path = "fuzz_command_line/words.rs"]
mod words;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Arg;
use deploy::container::{TensorRef, safetensors_of};
use words::command_line;

/// Cases of the ordinary test.
const RUNS: u64 = 150;

/// Longest time of a case; most take less than a second.
const LIMIT: Duration = Duration::from_mins(2);

/// Time after which a server is asked to end.
const SERVED: Duration = Duration::from_secs(3);

/// Address space of the program: a request beyond it fails instead of taking the machine's memory.
const ADDRESS_KB: &str = "16000000";

/// Exit codes that `train::cli` documents; 0 is success.
const CODES: [i32; 8] = [0, 2, 3, 4, 5, 6, 7, 8];

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
        // Without it libwayland, which Vulkan's loader asks, writes its own errors.
        .env("XDG_RUNTIME_DIR", folder.join("home"))
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
        let status = wait(&mut child, words.iter().any(|word| word == "serve"));
        let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
        status.map(|status| Ended { code: status.code(), signal: status.signal(), stdout, stderr })
    })
}

/// Waits for the end; a child that takes too long is killed, and one that `serves` is asked to end.
fn wait(child: &mut Child, mut serves: bool) -> Option<std::process::ExitStatus> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        // A server ends when it is asked to.
        if serves && began.elapsed() > SERVED {
            let id = child.id().to_string();
            let _ = Command::new("kill").args(["-s", "TERM", &id]).status();
            serves = false;
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
    let known = ["error: ", "note: ", "skipped: ", "checking ", "fetching "];
    let stray = ended.stderr.lines().find(|line| !known.iter().any(|word| line.starts_with(word)));
    if let (Some(line), false, false) = (stray, of_clap, typed_line_break) {
        faults.push(format!("a stray line: {line}"));
    }
    let has_begun = ended.stdout.contains("run folder: ");
    // A download that fails leaves its beginning in the cache.
    let fetches = ended.stderr.contains("fetching ");
    let writes = is("check") || is("predict") || has_begun || fetches;
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
    let words: Vec<OsString> =
        (0..120_000).flat_map(|number| command_line(&root, number)).collect();
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
