//! `lr-find` as a whole: its table, its suggestion, its drawing; nothing else is touched.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use test_folder::{TestFolder, code, error, refused};

const SEARCH: [&str; 14] = [
    "lr-find",
    "data",
    "--model",
    "mobilenet_v3_small",
    "--width",
    "0.35",
    "--img-size",
    "32",
    "--batch-size",
    "4",
    "--backend",
    "flex",
    "--workers",
    "2",
];

/// Every file below the place, with its bytes.
fn everything(place: &TestFolder) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut folders = vec![place.path("")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((path.clone(), std::fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Mutations caught: rates that rise half as fast; the steepest ascent taken.
#[test]
fn the_suggestion_follows_from_the_table_and_nothing_else_is_touched() {
    let place = TestFolder::new("lr-find");
    assert_eq!(code(&place.train("r", &["--epochs", "1"])), 0);
    let before = everything(&place);
    let more = ["--lr-first", "1e-5", "--lr-last", "10", "--steps", "60", "--csv", "found.csv"];
    let start =
        ["--pretrained-path", "out/train/r/last.ckpt", "--steps", "12", "--csv", "found.csv"];
    let output = place.run(&[&SEARCH[..], &start].concat());
    assert_eq!(code(&output), 0, "{}", error(&output));
    // From the beginning, with all images in three batches: the loss falls well before it rises.
    let output = place.run(&[&SEARCH[..], &more, &["--no-aug", "--batch-size", "12"]].concat());
    assert_eq!(code(&output), 0, "{}", error(&output));
    let csv = std::fs::read_to_string(place.path("found.csv")).unwrap();
    let drawing = std::fs::read_to_string(place.path("found.svg")).unwrap();
    for name in ["found.csv", "found.svg"] {
        std::fs::remove_file(place.path(name)).unwrap();
    }
    assert!(everything(&place) == before, "no weights, no run, no image is touched");

    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("lr,loss,smoothed"));
    let rows: Vec<[f64; 3]> = lines
        .map(|line| {
            let numbers: Vec<f64> = line.split(',').map(|cell| cell.parse().unwrap()).collect();
            numbers.try_into().unwrap()
        })
        .collect();
    assert!(rows.len() > 20, "{csv}");
    let (mut mean, mut weight) = (0.0, 1.0);
    for (step, [lr, loss, smoothed]) in rows.iter().enumerate() {
        let expected = 1e-5 * 1e6_f64.powf(step as f64 / 59.0);
        assert!((lr / expected - 1.0).abs() < 1e-5, "{step}: {lr} for {expected}");
        (mean, weight) = (0.9 * mean + 0.1 * loss, 0.9 * weight);
        assert!((smoothed - mean / (1.0 - weight)).abs() < 1e-5, "{step}: {smoothed}");
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |words: &str| -> f64 {
        let line = said.lines().find_map(|line| line.strip_prefix(words));
        line.unwrap_or_else(|| panic!("`{words}` in {said}")).trim().parse().unwrap()
    };
    let least = (0..rows.len()).min_by(|a, b| rows[*a][2].total_cmp(&rows[*b][2])).unwrap();
    assert!(least > 10, "the loss falls: {csv}");
    let tenth = rows[least][0] / 10.0;
    assert!((number("a tenth of the blow-up") / tenth - 1.0).abs() < 0.01, "{said}");
    // The fastest fall over five steps up to the least.
    let steepest = (0..=least.max(5) - 5)
        .min_by(|a, b| {
            let fall = |i: usize| rows[i + 5][2] - rows[i][2];
            fall(*a).total_cmp(&fall(*b))
        })
        .unwrap();
    let steepest = rows[steepest + 2][0];
    assert!((number("steepest descent") / steepest - 1.0).abs() < 0.01, "{said}");
    let suggested = number("suggestion: --lr");
    assert!((suggested / steepest.min(tenth) - 1.0).abs() < 0.06, "{said}");

    assert!(drawing.starts_with("<svg") && drawing.ends_with("</svg>\n"), "{drawing}");
    let lines = drawing.split("<polyline points=\"").skip(1);
    let longest = lines.map(|line| line.split('"').next().unwrap().split(' ').count()).max();
    assert_eq!(longest, Some(rows.len()));
    for words in ["steepest ", "blow-up / 10 ", "1e-4", ">learning rate<"] {
        assert_eq!(drawing.matches(words).count(), 1, "{words}: {drawing}");
    }
}

/// Mutations caught: `--recipe` not read (a bug that was there); `--batch-size 0` accepted.
#[test]
fn mistakes_are_told_with_their_codes() {
    let place = TestFolder::new("lr-find-flags");
    let check = |more: &[&str], exit: i32, words: &[&str]| {
        refused(&place.run(&[&SEARCH[..], more].concat()), exit, words);
        assert!(!place.path("lr-find.csv").exists());
    };
    check(&["--lr-first", "0"], 2, &["--lr-first", "above 0"]);
    check(&["--lr-first", "1", "--lr-last", "0.5"], 2, &["--lr-first", "--lr-last"]);
    check(&["--lr-first", "nan"], 2, &["--lr-first"]);
    check(&["--lr-last", "inf"], 2, &["--lr-last"]);
    check(&["--steps", "9"], 2, &["--steps", "10"]);
    check(&["--batch-size", "0"], 2, &["--batch-size"]);
    check(&["--recipe", "nothing"], 2, &["unknown recipe"]);
    check(&["--pretrained-path", "none.ckpt"], 6, &["none.ckpt"]);
    check(&["--csv", "nowhere/a.csv", "--steps", "20"], 8, &["nowhere/a.csv"]);
    let blown = ["--lr-first", "1e20", "--lr-last", "1e30", "--opt", "sgd", "--steps", "20"];
    check(&blown, 5, &["lower --lr-first"]);
    let elsewhere = [&["lr-find", "nowhere"][..], &SEARCH[2..]].concat();
    refused(&place.run(&elsewhere), 3, &["nowhere"]);
    let device = [&SEARCH[..], &["--steps", "20"]].concat();
    let full = place.command(&device).env("KINDLING_TEST_MEMORY", "2@3").output().unwrap();
    refused(&full, 7, &["a batch of 4 images", "--batch-size"]);
}
