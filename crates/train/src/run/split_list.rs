//! `split.csv` of a run: which images it trains on and which it set aside for evaluation, where the
//! data set has no evaluation split. The run and `eval` read the choice from there, so that new
//! images in the folder change neither.

use std::collections::HashMap;
use std::path::Path;

use crate::datasets::image_folder::ImageFolder;
use crate::datasets::quarantine::relative;
use crate::error::Error;
use crate::files::write_atomically;
use crate::run::run_folder::quoted;

/// Name of the list in the run folder.
pub const FILE: &str = "split.csv";

const HEADER: &str = "path,class,split\n";

/// The text of the list of both splits, in the order of the images.
pub fn text(train: &ImageFolder, val: &ImageFolder) -> String {
    let mut text = HEADER.to_owned();
    for (folder, split) in [(train, "train"), (val, "val")] {
        for (path, label) in &folder.items {
            let name =
                relative(&folder.root, path).unwrap_or_else(|| path.to_string_lossy().into_owned());
            text += &format!("{},{},{split}\n", quoted(&name), quoted(&folder.classes[*label]));
        }
    }
    text
}

/// Writes the list of a run.
///
/// # Errors
/// [`crate::error::ErrorKind::File`].
pub fn write(folder: &Path, train: &ImageFolder, val: &ImageFolder) -> Result<(), Error> {
    write_atomically(&folder.join(FILE), text(train, val).as_bytes())
}

/// Both splits of `all` as the list in a run folder says, if there is one. Images that are not on
/// the list are in neither; a note says how many.
///
/// # Errors
/// [`crate::error::ErrorKind::Data`]: a list that cannot be read.
pub fn apply(
    folder: &Path,
    all: &ImageFolder,
) -> Result<Option<(ImageFolder, ImageFolder)>, Error> {
    let path = folder.join(FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Error::data(format!("{}: cannot read: {error}", path.display())));
        }
    };
    let listed = parse(&text).ok_or_else(|| {
        Error::data(format!(
            "{}: not a list of `path,class,split`; remove the file to have the images split anew",
            path.display()
        ))
    })?;
    let (mut train, mut val, mut new) = (Vec::new(), Vec::new(), 0);
    for item in &all.items {
        let name = relative(&all.root, &item.0);
        let name = name.unwrap_or_else(|| item.0.to_string_lossy().into_owned());
        match listed.get(&name).copied() {
            Some(true) => val.push(item.clone()),
            Some(false) => train.push(item.clone()),
            None => new += 1,
        }
    }
    if val.is_empty() || train.is_empty() {
        return Ok(None);
    }
    let mut notes = Vec::new();
    if new > 0 {
        notes.push(format!("{new} images came into the folder since: they are in neither split"));
    }
    let val = ImageFolder { items: val, notes, ..all.clone() };
    Ok(Some((ImageFolder { items: train, ..all.clone() }, val)))
}

/// Whether each listed path is set aside for evaluation; none where the text is no such list.
fn parse(text: &str) -> Option<HashMap<String, bool>> {
    let rows = rows(text.strip_prefix(HEADER)?);
    rows.into_iter()
        .map(|row| match row.as_slice() {
            [path, _, split] => match split.as_str() {
                "train" => Some((path.clone(), false)),
                "val" => Some((path.clone(), true)),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

/// The fields of CSV rows by RFC 4180.
fn rows(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut field) = (Vec::new(), Vec::new(), String::new());
    let (mut within, mut letters) = (false, text.chars().peekable());
    while let Some(letter) = letters.next() {
        match (within, letter) {
            (true, '"') if letters.peek() == Some(&'"') => {
                field.push('"');
                letters.next();
            }
            (_, '"') => within = !within,
            (false, ',') => row.push(std::mem::take(&mut field)),
            (false, '\n') => {
                row.push(std::mem::take(&mut field));
                rows.push(std::mem::take(&mut row));
            }
            (_, letter) => field.push(letter),
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations caught: an image that is on no list evaluated.
    #[test]
    fn a_list_gives_the_splits_that_wrote_it() {
        let folder = |names: &[&str]| ImageFolder {
            root: "/data".into(),
            classes: vec!["a".into(), "b, \"c\"".into()],
            items: names
                .iter()
                .enumerate()
                .map(|(i, n)| (Path::new("/data").join(n), i % 2))
                .collect(),
            notes: Vec::new(),
            shards: None,
        };
        let (train, val) = (folder(&["a/1.png", "b, \"c\"/2.png"]), folder(&["a/3,\n.png"]));
        let place =
            std::env::temp_dir().join(format!("kindling-split-list-{}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        write(&place, &train, &val).unwrap();
        let all = folder(&["a/1.png", "b, \"c\"/2.png", "a/3,\n.png", "b, \"c\"/new.png"]);
        let (read_train, read_val) = apply(&place, &all).unwrap().unwrap();
        assert_eq!(read_train.items, train.items);
        assert_eq!(read_val.items, val.items);
        assert!(read_val.notes[0].starts_with("1 images came"), "{:?}", read_val.notes);
        std::fs::write(place.join(FILE), "nonsense\n").unwrap();
        assert!(apply(&place, &all).unwrap_err().to_string().contains("path,class,split"));
        std::fs::remove_dir_all(&place).unwrap();
        assert_eq!(apply(&place, &all).unwrap(), None);
    }
}
