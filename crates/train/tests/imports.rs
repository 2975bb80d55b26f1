//! Imports run downwards: between crates, between the folders of a crate, and never in a circle of
//! files.
//!
//! The test reads every `use` line and every inline path (`crate::a::b`, `child::c`) below
//! `crates/*/src`. Test modules are exempt: a test may look at anything.
//!
//! Mutations caught: an import from `optimizers` to `run`, from `learner` to `commands`, from
//! `transforms` to `nn`; two files that import each other; a file that no floor names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The crates from the top floor to the ground; crates on one floor do not know each other.
const CRATES: [&[&str]; 4] = [&["train"], &["deploy"], &["nn", "transforms"], &["kernels"]];

/// The floors of a crate, from the top to the ground: names of folders and files directly below
/// `src`. What stands on one floor may import each other, without a circle of files.
const FLOORS: [(&str, &[&[&str]]); 5] = [
    (
        "kernels",
        &[
            &["lib"],
            &["ops"],
            &["gpu"],
            &["cpu", "image"],
            &["simd"],
            &["isa", "allocator", "random"],
        ],
    ),
    (
        "nn",
        &[
            &["lib"],
            &["weights"],
            &["network", "cost"],
            &["models"],
            &["block"],
            &["config", "init", "outputs"],
            &["graph_builder"],
            &["graph"],
            &["layer_spec"],
            &["geometry", "activation", "channels", "preprocessing"],
        ],
    ),
    (
        "transforms",
        &[
            &["lib"],
            &["train_transform"],
            &["augment", "mixup", "preprocess"],
            &["decode"],
            &["exif"],
            &["orientation"],
            &["jpeg", "resize"],
            &["random", "byte_order"],
        ],
    ),
    (
        "deploy",
        &[
            &["lib"],
            &["serve"],
            &["web", "class_map"],
            &["onnx"],
            &["quantization"],
            &["classifier", "folding"],
            &["error"],
            &["manifest", "predict"],
            &["container", "files"],
        ],
    ),
    (
        "train",
        &[
            &["bin"],
            &["lib"],
            &["cli"],
            &["commands"],
            &["report"],
            &["run"],
            &["config"],
            &["learner"],
            &["datasets"],
            &["optimizers"],
            &["distributed"],
            &[
                "device",
                "download",
                "error",
                "files",
                "foreign_flags",
                "free_space",
                "plot",
                "published_weights",
                "signal",
                "stdout",
                "suggest",
                "system_memory",
                "terminal",
                "text_list",
            ],
        ],
    ),
];

/// A source file: its path below the workspace and its module path, crate first.
struct Source {
    file: PathBuf,
    module: Vec<String>,
    text: String,
}

/// Every `.rs` file below `crates/*/src`.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for name in CRATES.iter().copied().flatten() {
        let src = root.join(name).join("src");
        assert!(src.is_dir(), "crates/{name}/src does not exist");
        let mut folders = vec![src.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    folders.push(entry);
                } else if entry.extension().is_some_and(|extension| extension == "rs") {
                    let below = entry.strip_prefix(&src).unwrap().with_extension("");
                    let mut module = vec![(*name).to_owned()];
                    module.extend(below.iter().map(|part| part.to_str().unwrap().to_owned()));
                    let text = fs::read_to_string(&entry).unwrap();
                    found.push(Source { file: entry, module, text });
                }
            }
        }
    }
    found
}

/// The text without comments, strings and test modules.
fn code(text: &str) -> String {
    let mut code = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            break;
        }
        // A `//` inside a string hides the rest of a line from the test, which then sees less,
        // never more.
        code.push_str(line.split("//").next().unwrap());
        code.push('\n');
    }
    // Every second part stands between quotation marks.
    let parts: Vec<&str> = code.split('"').collect();
    parts.iter().step_by(2).copied().collect::<Vec<_>>().join(" ")
}

/// The leaves of a `use` tree: `a::{b, c::{d, self}}` gives `a::b`, `a::c::d`, `a::c`.
fn leaves(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim();
    let Some((prefix, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap();
        return vec![path.split("::").map(|part| part.trim().to_owned()).collect()];
    };
    let rest = rest.rsplit_once('}').expect("a closed brace").0;
    let prefix: Vec<String> =
        prefix.split("::").map(|part| part.trim().to_owned()).filter(|p| !p.is_empty()).collect();
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for letter in rest.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(letter);
    }
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| leaves(part)).map(|leaf| [prefix.clone(), leaf].concat()).collect()
}

/// Every path of a file that may name a module: `use` lines and inline paths.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find("use ") {
        let starts = rest[..at].chars().next_back().is_none_or(char::is_whitespace);
        rest = &rest[at + 4..];
        if let (true, Some((tree, _))) = (starts, rest.split_once(';')) {
            found.extend(leaves(tree));
        }
    }
    let word = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    // A word that ends in `::` is the head of a `use` group, whose leaves are in `found`.
    let inline = |path: &&str| path.contains("::") && !path.ends_with("::");
    for path in code.split(|letter| !word(letter)).filter(inline) {
        found.push(path.split("::").map(str::to_owned).collect());
    }
    found
}

/// The absolute path that `path` means in `module`, crate first; none for what belongs to other
/// crates.
fn absolute(path: &[String], module: &[String], children: &BTreeSet<&str>) -> Option<Vec<String>> {
    let crates: Vec<&str> = CRATES.iter().copied().flatten().copied().collect();
    match path[0].as_str() {
        "crate" => Some([&module[..1], &path[1..]].concat()),
        "self" => Some([module, &path[1..]].concat()),
        "super" => {
            let up = path.iter().take_while(|part| *part == "super").count();
            Some([&module[..module.len() - up], &path[up..]].concat())
        }
        first if children.contains(first) => Some([module, path].concat()),
        first if crates.contains(&first) => Some(path.to_vec()),
        _ => None,
    }
}

/// The imports of every file: from, to.
fn imports() -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let sources = sources();
    let known: BTreeSet<&[String]> = sources.iter().map(|source| &source.module[..]).collect();
    let mut imports = BTreeMap::new();
    for source in &sources {
        // `lib` is the crate itself.
        let module = match source.module.get(1).map(String::as_str) {
            Some("lib") => &source.module[..1],
            _ => &source.module[..],
        };
        let depth = module.len();
        let children: BTreeSet<&str> = known
            .iter()
            .filter(|other| other.len() == depth + 1 && other[..depth] == *module)
            .map(|other| other[depth].as_str())
            .collect();
        let mut to = BTreeSet::new();
        for path in paths(&code(&source.text)) {
            let Some(path) = absolute(&path, module, &children) else { continue };
            let target = (1..=path.len()).rev().map(|n| &path[..n]).find(|p| known.contains(p));
            to.extend(target.filter(|target| *target != module).map(<[String]>::to_vec));
        }
        assert!(!source.text.is_empty(), "{} is empty", source.file.display());
        imports.insert(source.module.clone(), to);
    }
    imports
}

/// The floor of a module, the top being 0.
fn floor(module: &[String]) -> usize {
    let (_, floors) = FLOORS.iter().find(|(name, _)| *name == module[0]).expect("a known crate");
    let place = module.get(1).map_or("lib", String::as_str);
    let found = floors.iter().position(|floor| floor.contains(&place));
    found.unwrap_or_else(|| panic!("{}: no floor in FLOORS", module.join("::")))
}

#[test]
fn imports_run_down() {
    let crate_floor = |name: &String| CRATES.iter().position(|floor| floor.contains(&&name[..]));
    let mut wrong = Vec::new();
    for (from, targets) in imports() {
        let own = floor(&from);
        for to in targets {
            let up = match from[0] == to[0] {
                true => floor(&to) < own,
                false => crate_floor(&to[0]) <= crate_floor(&from[0]),
            };
            if up {
                wrong.push(format!("{} imports {}", from.join("::"), to.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that run up:\n{}", wrong.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut graph = imports();
    // What imports nothing that is left cannot stand in a circle.
    loop {
        let free: Vec<_> =
            graph.iter().filter(|(_, to)| to.is_empty()).map(|(from, _)| from.clone()).collect();
        if free.is_empty() {
            break;
        }
        free.iter().for_each(|module| drop(graph.remove(module)));
        let left: BTreeSet<_> = graph.keys().cloned().collect();
        graph.values_mut().for_each(|to| to.retain(|module| left.contains(module)));
    }
    // What nothing that is left imports only leads into one.
    loop {
        let read: BTreeSet<_> = graph.values().flatten().cloned().collect();
        let before = graph.len();
        graph.retain(|module, _| read.contains(module));
        if graph.len() == before {
            break;
        }
    }
    let circle: Vec<String> = graph
        .iter()
        .map(|(from, to)| {
            let to: Vec<String> = to.iter().map(|module| module.join("::")).collect();
            format!("{} -> {}", from.join("::"), to.join(", "))
        })
        .collect();
    assert!(circle.is_empty(), "files in circles:\n{}", circle.join("\n"));
}
