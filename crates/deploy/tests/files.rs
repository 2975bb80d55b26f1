//! Files are replaced whole, under names of their own, and nothing else is touched.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use deploy::files::{StagedFile, append_line, link_atomically, write_atomically};

/// An empty folder of its own for a test.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("kindling-files-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_link_that_leads_nowhere_yet_gets_its_target_whole_or_not_at_all() {
    let place = folder("dangling");
    fs::create_dir(place.join("sub")).unwrap();
    symlink("sub/middle", place.join("first")).unwrap();
    symlink("../target", place.join("sub/middle")).unwrap();
    // The file appears with its content: what was staged for it is not there yet.
    let staged = StagedFile::new(&place.join("first"), b"whole").unwrap();
    assert!(!place.join("target").exists());
    staged.publish().unwrap();
    assert_eq!(fs::read(place.join("target")).unwrap(), b"whole");
    write_atomically(&place.join("first"), b"again").unwrap();
    assert_eq!(fs::read(place.join("target")).unwrap(), b"again");
    assert!(place.join("first").is_symlink() && place.join("sub/middle").is_symlink());
    assert_eq!(names(&place), ["first", "sub", "target"]);
    assert_eq!(names(&place.join("sub")), ["middle"]);
    // Links that lead back to each other, and into a folder that is not there.
    symlink("b", place.join("a")).unwrap();
    symlink("a", place.join("b")).unwrap();
    symlink("nowhere/file", place.join("c")).unwrap();
    for name in ["a", "c"] {
        let error = write_atomically(&place.join(name), b"x").unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("cannot write"), "{error}");
        assert!(place.join(name).is_symlink());
    }
    fs::remove_dir_all(place).unwrap();
}

/// Mutations caught: the temporary link left where both names are of one file.
#[test]
fn a_second_name_replaces_one_file_and_touches_no_other() {
    let place = folder("second");
    fs::write(place.join("from.ckpt"), "new").unwrap();
    fs::write(place.join("to.ckpt"), "old").unwrap();
    fs::write(place.join("to.tmp"), "mine").unwrap();
    fs::hard_link(place.join("to.ckpt"), place.join("kept.ckpt")).unwrap();
    for _ in 0..2 {
        link_atomically(&place.join("from.ckpt"), &place.join("to.ckpt")).unwrap();
        let read = |name: &str| fs::read_to_string(place.join(name)).unwrap();
        assert_eq!([read("to.ckpt"), read("kept.ckpt"), read("to.tmp")], ["new", "old", "mine"]);
        assert_eq!(names(&place), ["from.ckpt", "kept.ckpt", "to.ckpt", "to.tmp"]);
    }
    let staged = StagedFile::new(&place.join("from.ckpt"), b"newer").unwrap();
    staged.also(&place.join("to.ckpt")).unwrap();
    drop(staged);
    assert_eq!(fs::read(place.join("to.ckpt")).unwrap(), b"newer");
    assert_eq!(fs::read(place.join("from.ckpt")).unwrap(), b"new");
    assert_eq!(names(&place), ["from.ckpt", "kept.ckpt", "to.ckpt", "to.tmp"]);
    assert!(link_atomically(&place.join("none"), &place.join("to.ckpt")).is_err());
    assert_eq!(names(&place), ["from.ckpt", "kept.ckpt", "to.ckpt", "to.tmp"]);
    fs::remove_dir_all(place).unwrap();
}

/// Mutations caught: the half line not ended.
#[test]
fn a_line_begins_where_a_killed_process_left_half_of_one() {
    let place = folder("lines");
    let log = place.join("log");
    append_line(&log, "one").unwrap();
    append_line(&log, "two").unwrap();
    fs::write(&log, "one\ntw").unwrap();
    append_line(&log, "three").unwrap();
    assert_eq!(fs::read_to_string(&log).unwrap(), "one\ntw\nthree\n");
    fs::remove_dir_all(place).unwrap();
}
