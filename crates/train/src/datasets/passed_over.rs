//! Files among the images that are none for us: photos of formats that are not read, and what file
//! managers, backup tools and archives leave behind. They are counted and named once, and never
//! make a class.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What a format is called: one file, several files.
type Name = (&'static str, &'static str);

/// Formats of images that are not read, by their extensions in lower case.
const FOREIGN: [(&[&str], Name); 9] = [
    (&["heic", "heif", "hif"], ("HEIC photo (iPhone)", "HEIC photos (iPhone)")),
    (&["avif"], ("AVIF image", "AVIF images")),
    (&["jxl"], ("JPEG XL image", "JPEG XL images")),
    (&["jp2", "j2k", "jpf", "jpx", "j2c"], ("JPEG 2000 image", "JPEG 2000 images")),
    (&["ppm", "pgm", "pbm", "pnm"], ("PNM image (ppm, pgm)", "PNM images (ppm, pgm)")),
    (&["psd", "psb"], ("Photoshop file", "Photoshop files")),
    (&["svg", "svgz"], ("SVG drawing", "SVG drawings")),
    (
        &[
            "dng", "cr2", "cr3", "crw", "nef", "nrw", "arw", "sr2", "orf", "rw2", "raf", "pef",
            "srw", "3fr", "iiq",
        ],
        ("camera raw file", "camera raw files"),
    ),
    (
        &["ico", "tga", "exr", "hdr", "dds", "qoi", "xcf", "eps", "pcx"],
        (
            "image of another format (ico, tga, exr, ..)",
            "images of other formats (ico, tga, exr, ..)",
        ),
    ),
];

/// Names that file managers, network storage and archives give to files and folders of their own,
/// in any case.
const LITTER: [&str; 13] = [
    "@eadir",
    "@recycle",
    "@recently-snapshot",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
];

/// Whether a name is that of a file or folder of a file manager, a network storage or an archive.
pub(crate) fn is_litter(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"._")
        || name == b".DS_Store"
        || LITTER.iter().any(|litter| name.eq_ignore_ascii_case(litter.as_bytes()))
}

/// What an image of a format that is not read is called, by its extension.
fn foreign(path: &Path) -> Option<Name> {
    let extension = path.extension()?.to_string_lossy().to_lowercase();
    let known = FOREIGN.iter().find(|(extensions, _)| extensions.contains(&&*extension));
    known.map(|(_, name)| *name)
}

/// The name of an image's format that is not read, by its extension.
pub(crate) fn foreign_name(path: &Path) -> Option<&'static str> {
    foreign(path).map(|(one, _)| one)
}

/// Takes litter and images of other formats out of `paths`; a note for the user on each of the two.
pub(crate) fn take_notes(paths: &mut Vec<PathBuf>) -> Vec<String> {
    let (mut foreign_files, mut litter) = (Vec::new(), Vec::new());
    paths.retain(|path| {
        let is_litter = path.file_name().is_some_and(is_litter);
        match (is_litter, foreign(path)) {
            (true, _) => litter.push(path.clone()),
            (false, Some(name)) => foreign_files.push((name, path.clone())),
            (false, None) => return true,
        }
        false
    });
    let mut notes = Vec::new();
    if let Some((_, first)) = foreign_files.first() {
        let mut counts: BTreeMap<Name, usize> = BTreeMap::new();
        foreign_files.iter().for_each(|(name, _)| *counts.entry(*name).or_default() += 1);
        let counts = counts.into_iter().map(|((one, several), count)| {
            format!("{count} {}", if count == 1 { one } else { several })
        });
        let counts: Vec<String> = counts.collect();
        let convert = if foreign_files.len() == 1 { "convert it" } else { "convert them" };
        notes.push(format!(
            "{} left out, such as {}: {convert} to JPEG or PNG",
            counts.join(", "),
            first.display()
        ));
    }
    if let Some(first) = litter.first() {
        let mut names: Vec<String> = litter
            .iter()
            .filter_map(|path| path.file_name())
            .map(|name| match name.to_string_lossy() {
                name if name.starts_with("._") => "._*".to_owned(),
                name => name.trim().to_owned(),
            })
            .collect();
        names.sort();
        names.dedup();
        notes.push(format!(
            "{} files or folders of file managers and archives ({}) left out, such as {}",
            litter.len(),
            names.join(", "),
            first.display()
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::take_notes;

    /// Mutations caught: capitals of an extension not read.
    #[test]
    fn each_kind_is_counted_and_named_once() {
        let names = [
            "a/1.HEIC",
            "a/2.heic",
            "b/x.avif",
            "a/@eaDir",
            "b/@eaDir",
            "a/._1.jpg",
            "b/Thumbs.db",
            "a/words.txt",
        ];
        let mut paths: Vec<PathBuf> = names.into_iter().map(PathBuf::from).collect();
        let notes = take_notes(&mut paths);
        assert_eq!(paths, [PathBuf::from("a/words.txt")]);
        assert_eq!(
            notes,
            [
                "1 AVIF image, 2 HEIC photos (iPhone) left out, such as a/1.HEIC: convert them to \
                 JPEG or PNG",
                "4 files or folders of file managers and archives (._*, @eaDir, Thumbs.db) left \
                 out, such as a/@eaDir",
            ]
        );
        let mut one = vec![PathBuf::from("a/1.heic")];
        assert_eq!(
            take_notes(&mut one),
            ["1 HEIC photo (iPhone) left out, such as a/1.heic: convert it to JPEG or PNG"]
        );
    }
}
