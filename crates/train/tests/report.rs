//! The report of a run: what is written, what stands in it, and how runs are compared.
//!
//! Mutations caught, each alone: a class name that is not escaped; `--no-report` ignored; every
//! option among those that differ; the mistakes in the order of the folder; an old drawing left;
//! images compared by their names alone.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::path::Path;

use test_folder::{SMALL, TestFolder, code, error, refused, said};

/// `SMALL` with its report.
fn train(place: &TestFolder, run: &str, more: &[&str]) -> std::process::Output {
    let small: Vec<&str> = SMALL.iter().copied().filter(|word| *word != "--no-report").collect();
    place.run(&[&small[..], &["--experiment", run], more].concat())
}

fn read(place: &TestFolder, name: &str) -> String {
    std::fs::read_to_string(place.path(name)).unwrap()
}

/// Names that would leave their element in a page, a drawing or a table.
const ODD: &str = "<b>\"bag\", & 'co'\u{1F45C}";

#[test]
fn a_run_ends_with_its_report() {
    let place = TestFolder::new("report");
    for split in ["train", "val"] {
        let folder = place.path("data").join(split);
        std::fs::rename(folder.join("bag"), folder.join(ODD)).unwrap();
    }
    let output = train(&place, "r", &[]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert!(said(&output).contains(" · report: out/train/r/report.html"), "{}", said(&output));
    let page = read(&place, "out/train/r/report.html");
    assert!(page.len() < 5 << 20, "{}", page.len());
    let escaped = "&lt;b&gt;&quot;bag&quot;, &amp; &#39;co&#39;\u{1F45C}";
    for words in [
        escaped,
        "top-1 accuracy",
        "with 95 % confidence",
        "Confusion",
        "Calibration",
        "15 images; with so few it is biased upwards",
        "Training images as the network sees them",
        "--experiment r",
        "prefers-color-scheme:dark",
    ] {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("<b>\"bag\"") && !page.contains("<script"), "an open door");
    let addresses =
        page.matches("http").count() - page.matches("http://www.w3.org/2000/svg").count();
    assert_eq!(addresses, 0, "no network");
    for name in ["curves.svg", "confusion.svg"] {
        let drawing = read(&place, &format!("out/train/r/{name}"));
        assert!(drawing.starts_with("<svg") && drawing.ends_with("</svg>\n"), "{name}");
    }
    let predictions = read(&place, "out/train/r/predictions.csv");
    assert_eq!(predictions.lines().count(), 1 + 15);
    let wrong = predictions.lines().filter(|line| line.ends_with(",0")).count();
    assert_eq!(page.matches("<img src=\"data:image/jpeg").count(), wrong.min(24) + 16);
    assert_eq!(place.path("out/train/r/worst.png").exists(), wrong > 0);
    // First the mistakes in which the guess is furthest above the truth.
    let mut doubts: Vec<(f64, &str)> = predictions
        .lines()
        .filter(|line| line.ends_with(",0"))
        .map(|line| {
            let fields: Vec<&str> = line.rsplitn(4, ',').collect();
            let number = |field: &str| field.parse::<f64>().unwrap();
            let file =
                line.rsplit('/').next().unwrap().split(',').next().unwrap().trim_matches('"');
            (number(fields[1]) - number(fields[2]), file)
        })
        .collect();
    doubts.sort_by(|a, b| a.0.total_cmp(&b.0));
    let shown: Vec<&str> = page
        .split(" %<br>")
        .skip(1)
        .map(|rest| rest.split("</figcaption>").next().unwrap().rsplit('/').next().unwrap())
        .collect();
    let files: Vec<&str> = doubts.into_iter().map(|(_, file)| file).take(24).collect();
    assert_eq!(shown, files);

    // Made again, it is the same but for what is not there any more.
    std::fs::write(place.path("out/train/r/worst.png"), "old").unwrap();
    let output = place.run(&["report", "out/train/r"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert_eq!(read(&place, "out/train/r/report.html"), page);
    let worst = std::fs::read(place.path("out/train/r/worst.png"));
    assert!(worst.map_or(wrong == 0, |bytes| bytes.starts_with(b"\x89PNG")));
}

#[test]
fn a_report_is_left_out_or_fails_without_harm() {
    let place = TestFolder::new("no-report");
    assert_eq!(code(&place.train("without", &[])), 0);
    assert!(!place.path("out/train/without/report.html").exists());
    refused(&place.run(&["report", "data"]), 6, &["data: no checkpoint in it", "folder of a run"]);
    refused(&place.run(&["report", "out/train/without", "-o", "x.html"]), 2, &["omit the flag"]);
    // A page that cannot be written is a note.
    std::fs::create_dir_all(place.path("out/train/blocked/report.html/x")).unwrap();
    let output = train(&place, "blocked", &[]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert!(said(&output).contains("note: no report: "), "{}", said(&output));
    assert!(place.path("out/train/blocked/model_best.ckpt").exists());
}

#[test]
fn runs_are_compared_on_the_same_images_alone() {
    let place = TestFolder::new("compare");
    for (run, seed) in [("a", "1"), ("b", "2"), ("c", "3")] {
        assert_eq!(code(&place.train(run, &["--seed", seed])), 0);
    }
    let compare = |runs: &[&str]| {
        let words: Vec<String> = runs.iter().map(|run| format!("out/train/{run}")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = place.run(&[&["report"], &words[..], &["-o", "both.html"]].concat());
        assert_eq!(code(&output), 0, "{}", error(&output));
        said(&output)
    };
    let lines = compare(&["a", "b"]);
    assert!(lines.contains("a against b: ") && lines.contains(", p "), "{lines}");
    let page = read(&place, "both.html");
    assert!(page.contains("<td>seed</td><td>1</td><td>2</td>"), "the option that differs");
    assert!(!page.contains("<td>epochs</td>"), "an option that does not");
    assert_eq!(page.matches("<svg ").count(), 3);
    // Other images under the same names.
    let swap = |from: &str, to: &str| std::fs::rename(place.path(from), place.path(to)).unwrap();
    swap("data/val/bag", "data/val/x");
    swap("data/val/sandal", "data/val/bag");
    swap("data/val/x", "data/val/sandal");
    assert!(compare(&["a", "b", "c"]).contains("b against c"), "all on the new images");
    // A run on images of the same names elsewhere.
    std::fs::create_dir(place.path("other")).unwrap();
    std::fs::rename(place.path("data"), place.path("other/data")).unwrap();
    let copied = std::process::Command::new("cp")
        .args(["-r", "other/data", "data"])
        .current_dir(place.path(""))
        .status();
    assert!(copied.unwrap().success());
    std::fs::copy(place.path("data/val/bag/0001.png"), place.path("data/val/bag/0000.png"))
        .unwrap();
    let small: Vec<&str> =
        SMALL.iter().map(|word| if *word == "data" { "other/data" } else { *word }).collect();
    assert_eq!(code(&place.run(&[&small[..], &["--experiment", "e"]].concat())), 0);
    let lines = compare(&["a", "e"]);
    assert!(
        lines.contains("a against e") && lines.contains("p other validation images"),
        "{lines}"
    );
    let seven: Vec<String> = (0..7).map(|_| "out/train/a".to_owned()).collect();
    let words: Vec<&str> =
        std::iter::once("report").chain(seven.iter().map(String::as_str)).collect();
    refused(&place.run(&words), 2, &["7 runs: at most 6"]);
    assert!(!Path::new("comparison.html").exists());
}

#[test]
fn many_classes_have_their_worst_pairs_and_no_matrix() {
    let place = TestFolder::new("many-classes");
    let from =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/fashion-mnist-mini/train/bag");
    for class in 0..52 {
        let folder = place.path(&format!("many/c{class:02}"));
        std::fs::create_dir_all(&folder).unwrap();
        for i in 0..3 {
            let name = format!("{:04}.png", 3 * class + i);
            std::fs::copy(from.join(&name), folder.join(name)).unwrap();
        }
    }
    let words =
        ["train", "many", "--model", "mobilenet_v3_small", "--width", "0.35", "--img-size", "32"];
    let more = ["--epochs", "1", "--output", "out", "--experiment", "r", "--batch-size", "26"];
    let output = place.run(&[&words[..], &more].concat());
    assert_eq!(code(&output), 0, "{}", error(&output));
    let page = read(&place, "out/train/r/report.html");
    assert!(page.contains("taken for</th>") && page.contains("more rows</summary>"), "tables");
    std::fs::write(place.path("out/train/r/confusion.svg"), "of another run").unwrap();
    assert_eq!(code(&place.run(&["report", "out/train/r"])), 0);
    assert!(!place.path("out/train/r/confusion.svg").exists(), "an old matrix");
    assert_eq!(read(&place, "out/train/r/report.html"), page);
}
