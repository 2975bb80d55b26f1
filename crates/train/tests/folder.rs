//! Folders as people have them: what is read, what is noted, what is refused and how.

use std::path::{Path, PathBuf};

use train::datasets::image_folder::ImageFolder;
use train::datasets::split::SplitRule;

struct TestFolder(PathBuf);

impl TestFolder {
    /// A folder of its own with a one-pixel image at every path.
    fn new(name: &str, images: &[&str]) -> Self {
        let root =
            std::env::temp_dir().join(format!("kindling-folder-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(&root).unwrap();
        let place = Self(root);
        images.iter().for_each(|path| place.image(path));
        place
    }

    fn image(&self, path: &str) {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::new(1, 1).save_with_format(path, image::ImageFormat::Png).unwrap();
    }

    fn folder(&self, path: &str) {
        std::fs::create_dir_all(self.0.join(path)).unwrap();
    }

    fn train(&self) -> Result<ImageFolder, String> {
        ImageFolder::open_train(&self.0, None).map_err(|e| e.to_string())
    }

    fn val(&self) -> Result<ImageFolder, String> {
        ImageFolder::open_val(&self.0, None, &self.train()?.classes).map_err(|e| e.to_string())
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn names(folder: &ImageFolder) -> Vec<String> {
    let name = |p: &Path| p.strip_prefix(&folder.root).unwrap().to_string_lossy().into_owned();
    folder.items.iter().map(|(path, label)| format!("{label} {}", name(path))).collect()
}

#[track_caller]
fn refused(result: Result<ImageFolder, String>, words: &[&str]) {
    let message = result.unwrap_err();
    words.iter().for_each(|word| assert!(message.contains(word), "`{word}` in: {message}"));
    assert!(!message.contains('\n'), "{message}");
}

#[test]
fn classes_are_sorted_as_people_count_and_images_too() {
    let place = TestFolder::new(
        "order",
        &["train/10/a.png", "train/9/img10.png", "train/9/img9.JPG", "train/9/img9.jpg"],
    );
    let train = place.train().unwrap();
    assert_eq!(train.classes, ["9", "10"]);
    let names = names(&train);
    assert_eq!(names[2..], ["0 9/img10.png", "1 10/a.png"]);
}

#[test]
fn hidden_things_and_other_files_are_left_alone() {
    let place = TestFolder::new(
        "hidden",
        &[
            "train/.ipynb_checkpoints/a.png",
            "train/a/._1.png",
            "train/a/1.png",
            "train/b/deep/er/2.png",
        ],
    );
    std::fs::write(place.0.join("train/a/notes.txt"), "words").unwrap();
    std::fs::write(place.0.join("train/b/Thumbs.db"), "words").unwrap();
    let train = place.train().unwrap();
    assert_eq!(train.classes, ["a", "b"]);
    assert_eq!(names(&train), ["0 a/1.png", "1 b/deep/er/2.png"]);
    let notes = train.notes.join("; ");
    for words in ["(._*, Thumbs.db) left out", "1 file that is no image ignored"] {
        assert!(notes.contains(words), "`{words}` in: {notes}");
    }
}

#[test]
fn labels_of_val_follow_train_whatever_val_holds() {
    let train = ["train/a/1.png", "train/b/1.png", "train/c/1.png"];
    let place = TestFolder::new("labels", &train);
    place.image("validation/c/1.png");
    place.folder("validation/b");
    place.folder("validation/zebra");
    let val = place.val().unwrap();
    assert_eq!(names(&val), ["2 c/1.png"]);
    let notes = val.notes.join("; ");
    for word in ["zebra: empty", "no image of classes a, b"] {
        assert!(notes.contains(word), "{word}: {notes}");
    }
    place.image("validation/zebra/1.png");
    refused(place.val(), &["zebra", "class that the training does not have"]);
}

#[test]
fn the_split_may_have_any_of_its_usual_names() {
    for name in ["val", "validation", "valid", "test"] {
        let place =
            TestFolder::new(name, &["train/a/1.png", "train/b/1.png", &format!("{name}/b/7.png")]);
        assert_eq!(names(&place.val().unwrap()), ["1 b/7.png"]);
    }
    // A folder of class folders is a split itself, for `eval`.
    let place = TestFolder::new("bare", &["a/1.png", "b/1.png"]);
    let classes = ["a".to_owned(), "b".to_owned()];
    let val = ImageFolder::open_val(&place.0, None, &classes).unwrap();
    assert_eq!(names(&val), ["0 a/1.png", "1 b/1.png"]);
}

#[test]
fn what_cannot_be_meant_is_refused_with_the_way_out() {
    refused(TestFolder::new("none", &[]).train(), &["train", "no such folder"]);
    let flat = TestFolder::new(
        "flat",
        &["train/a/1.png", "train/b/1.png", "val/ILSVRC2012_val_00000001.JPEG"],
    );
    refused(flat.val(), &["ILSVRC", "class folders"]);
    refused(TestFolder::new("one", &["train/a/1.png"]).train(), &["at least two class folders"]);
    let empty = TestFolder::new("empty", &["train/a/1.png"]);
    empty.folder("train/b");
    refused(empty.train(), &["train/b", "no image of this class"]);
    let without = TestFolder::new("without", &["train/a/1.png", "train/b/1.png"]);
    refused(without.val(), &["no val", "--val-fraction"]);
    let file = TestFolder::new("file", &[]);
    std::fs::write(file.0.join("train"), "").unwrap();
    refused(file.train(), &["a file, not a folder"]);
}

/// Mutations caught, each alone: folders above not remembered; a class that leads back
/// accepted; one kind for all that is passed over.
#[cfg(unix)]
#[test]
fn links_are_followed_and_each_image_is_listed_once() {
    use std::os::unix::fs::symlink;
    let place = TestFolder::new("links", &["train/a/1.png", "train/b/1.png", "elsewhere/2.png"]);
    let link = |target: &str, name: &str| symlink(target, place.0.join(name)).unwrap();
    link("../../elsewhere/2.png", "train/a/2.png");
    link("../../elsewhere", "train/a/more");
    let wanted = ["0 a/1.png", "0 a/2.png", "0 a/more/2.png", "1 b/1.png"];
    assert_eq!(names(&place.train().unwrap()), wanted);
    // To itself, to the folder above, to the one above that, to a sibling that was read, from
    // outside.
    for (target, name) in [
        (".", "train/a/self"),
        ("..", "train/a/up"),
        ("../..", "train/a/top"),
        ("more", "train/a/zagain"),
        ("../train", "elsewhere/back"),
        ("../train/a", "elsewhere/round"),
    ] {
        link(target, name);
    }
    let train = place.train().unwrap();
    assert_eq!(names(&train), wanted);
    let notes = train.notes.join("; ");
    assert!(notes.contains("6 links to folders that were read already, such as"), "{notes}");
    // A class that is its own split would have every image.
    link(".", "train/c");
    refused(place.train(), &["train/c", "leads back to a folder above it"]);
}

/// None of these may be opened: a pipe waits for a writer, `/dev/zero` has no end.
///
/// Mutations caught, each alone: one kind for all that is passed over; pipes and devices taken
/// for images.
#[cfg(unix)]
#[test]
fn what_is_neither_file_nor_folder_is_passed_over_with_a_note() {
    use std::os::unix::fs::symlink;
    let place = TestFolder::new("special", &["train/a/1.png", "train/b/1.png", "val/a/1.png"]);
    let pipe = |name: &str| {
        assert!(
            std::process::Command::new("mkfifo")
                .arg(place.0.join(name))
                .status()
                .unwrap()
                .success()
        );
    };
    pipe("train/a/pipe.png");
    pipe("train/pipe");
    pipe("val/a/pipe.jpg");
    let _socket =
        std::os::unix::net::UnixListener::bind(place.0.join("train/a/socket.png")).unwrap();
    symlink("/dev/zero", place.0.join("train/b/zero.png")).unwrap();
    symlink("nowhere.png", place.0.join("train/b/gone.png")).unwrap();
    symlink("loop.png", place.0.join("train/b/loop.png")).unwrap();
    std::fs::create_dir(place.0.join("train/b/folder.png")).unwrap();
    let train = place.train().unwrap();
    assert_eq!(names(&train), ["0 a/1.png", "1 b/1.png"]);
    let notes = train.notes.join("; ");
    for words in ["3 pipes, sockets or devices passed over", "2 links that lead nowhere, such as"] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
    assert!(!notes.contains("no images"), "{notes}");
    let val = place.val().unwrap();
    assert_eq!(names(&val), ["0 a/1.png"]);
    assert!(
        val.notes.join("; ").contains("1 pipe, socket or device passed over: "),
        "{:?}",
        val.notes
    );
}

/// Mutations caught: a note for each class.
#[test]
fn many_classes_without_an_image_are_one_note() {
    let place = TestFolder::new("many", &["train/a/1.png", "train/b/1.png", "val/a/1.png"]);
    let classes: Vec<String> =
        ["a".to_owned()].into_iter().chain((0..9800).map(|k| format!("c{k}"))).collect();
    let val = ImageFolder::open_val(&place.0, None, &classes).unwrap();
    assert_eq!(val.notes.len(), 1, "{:?}", &val.notes[..3.min(val.notes.len())]);
    assert!(
        val.notes[0].contains("no image of 9800 classes, such as c0, c1, c2"),
        "{:?}",
        val.notes
    );
}

#[cfg(unix)]
#[test]
fn a_class_whose_name_is_no_text_is_told() {
    use std::os::unix::ffi::OsStrExt;
    let place = TestFolder::new("bytes", &["train/a/1.png", "train/b/1.png"]);
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9");
    std::fs::create_dir(place.0.join("train").join(name)).unwrap();
    refused(place.train(), &["not UTF-8", "rename"]);
}

#[test]
fn a_share_of_every_class_is_set_aside_and_always_the_same() {
    let place = TestFolder::new("share", &[]);
    for i in 0..20 {
        place.image(&format!("train/a/{i}.png"));
        if i < 10 {
            place.image(&format!("train/b/{i}.png"));
        }
    }
    place.image("train/c/0.png");
    place.image("train/c/1.png");
    let split = |seed| {
        ImageFolder::split(&place.0, SplitRule { share: 0.2, seed, group_duplicates: false })
            .unwrap()
    };
    let (train, val) = split(1);
    assert_eq!(val.class_counts(), [4, 2, 1], "at least one of each class");
    assert_eq!(train.class_counts(), [16, 8, 1]);
    assert!(val.items.iter().all(|item| !train.items.contains(item)));
    assert_eq!(split(1).1.items, val.items);
    assert_ne!(split(2).1.items, val.items);
    // The class folders may lie in the folder itself.
    let (bare, _) = ImageFolder::split(
        &place.0.join("train"),
        SplitRule { share: 0.2, seed: 1, group_duplicates: false },
    )
    .unwrap();
    assert_eq!(bare.items, train.items);
    place.image("train/d/0.png");
    let error =
        ImageFolder::split(&place.0, SplitRule { share: 0.2, seed: 1, group_duplicates: false })
            .unwrap_err()
            .to_string();
    assert!(error.contains("single image"), "{error}");
}
