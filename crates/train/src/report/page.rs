//! `report.html`: one page without a script and without the network, light and dark.

use std::fmt::Write as _;

use crate::learner::evaluate::{ClassRow, EvalReport};
use crate::learner::interval::wilson;
use crate::plot::heat_map;
use crate::plot::svg::{STYLE, escape};
use crate::report::metrics::scores;
use crate::report::worst::Mistake;

/// Rows of a table that are open; the rest is behind a summary.
const ROWS: usize = 30;

/// Most bytes of a page.
#[cfg(test)]
const MOST: usize = 5 << 20;

/// Bytes of a page after which a table ends: what follows the largest one, sixteen pictures of 40 KB
/// and the options, has room behind it.
const TABLES: usize = 3 << 20;

const PAGE_STYLE: &str = "html{color-scheme:light dark}*{box-sizing:border-box}\
    body{margin:0 auto;max-width:1160px;padding:24px 20px 64px;background:var(--paper);color:var(--ink);\
    font:15px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif}\
    h1{font-size:22px;margin:0 0 4px;overflow-wrap:anywhere}\
    h2{font-size:17px;margin:44px 0 4px;padding-top:14px;border-top:1px solid var(--grid)}\
    p{margin:4px 0 12px;max-width:72ch}.muted,figcaption,th{color:var(--muted)}\
    .facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:20px 0 0;padding:0}\
    .facts div{border:1px solid var(--grid);border-radius:8px;padding:10px 14px}\
    .facts dt{color:var(--muted);font-size:13px}.facts dd{margin:0;font-size:20px;font-weight:600;\
    overflow-wrap:anywhere}.facts small{display:block;font-size:13px;font-weight:400;color:var(--muted)}\
    .charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:16px}\
    .charts svg{width:100%;height:auto;max-width:620px}.wide{overflow-x:auto}.wide svg{max-width:none}\
    table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}\
    th,td{text-align:right;padding:4px 12px 4px 0;border-bottom:1px solid var(--grid);white-space:nowrap}\
    th:first-child,td:first-child{text-align:left}td.text{text-align:left;white-space:normal;overflow-wrap:anywhere}\
    .sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(132px,1fr));gap:14px;padding:0;margin:12px 0}\
    figure{margin:0}.sheet img{display:block;width:100%;height:132px;object-fit:contain;border-radius:6px;\
    background:color-mix(in srgb,var(--ink) 5%,transparent)}figcaption{font-size:13px;line-height:1.35;\
    overflow-wrap:anywhere;margin-top:4px}figcaption b{color:var(--ink)}figcaption i{color:var(--c1);font-style:normal}\
    code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,monospace;overflow-wrap:anywhere;white-space:pre-wrap}\
    pre{border:1px solid var(--grid);border-radius:8px;padding:10px 14px;margin:8px 0}\
    summary{cursor:pointer;margin:8px 0;color:var(--c0)}\
    @media print{body{max-width:none;padding:0}h2{break-after:avoid}figure,.charts>*{break-inside:avoid}}";

/// A page under construction.
pub(super) struct Page {
    text: String,
}

impl Page {
    pub(super) fn new(title: &str, subtitle: &str) -> Self {
        let (title, subtitle) = (escape(title), escape(subtitle));
        let text = format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
             <style>{STYLE}{PAGE_STYLE}</style>\n<h1>{title}</h1>\n<div class=\"muted\">{subtitle}</div>\n"
        );
        Self { text }
    }

    /// Big numbers: name, value, remark.
    pub(super) fn facts(&mut self, facts: &[(&str, String, String)]) {
        self.text += "<dl class=\"facts\">";
        for (name, value, remark) in facts {
            let (value, remark) = (escape(value), escape(remark));
            let _ = write!(
                self.text,
                "<div><dt>{name}</dt><dd>{value}<small>{remark}</small></dd></div>"
            );
        }
        self.text += "</dl>\n";
    }

    /// A section with a sentence under its heading.
    pub(super) fn section(&mut self, heading: &str, sentence: &str) {
        let (heading, sentence) = (escape(heading), escape(sentence));
        let _ = writeln!(self.text, "<h2>{heading}</h2>\n<p class=\"muted\">{sentence}</p>");
    }

    /// Drawings beside each other where there is room.
    pub(super) fn charts(&mut self, charts: impl IntoIterator<Item = String>) {
        self.text += "<div class=\"charts\">\n";
        charts.into_iter().for_each(|chart| self.text += &chart);
        self.text += "</div>\n";
    }

    /// A table; rows beyond the first are behind a summary.
    pub(super) fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let (open, rest) = rows.split_at(rows.len().min(ROWS));
        let mut left_out = self.rows(head, open);
        if !rest.is_empty() {
            let _ = writeln!(self.text, "<details><summary>{} more rows</summary>", rest.len());
            left_out += self.rows(head, rest);
            self.text += "</details>\n";
        }
        if left_out > 0 {
            let _ = writeln!(
                self.text,
                "<p class=\"muted\">{left_out} more rows are left out, so that the page stays small; the \
                 files in eval/ have all.</p>"
            );
        }
    }

    /// Adds rows while there is room; returns how many are left out.
    fn rows(&mut self, head: &[&str], rows: &[Vec<String>]) -> usize {
        self.text += "<div class=\"wide\"><table><tr>";
        head.iter().for_each(|name| self.text += &format!("<th>{}</th>", escape(name)));
        self.text += "</tr>\n";
        let mut shown = 0;
        for row in rows {
            let cells: String =
                row.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
            if self.text.len() + cells.len() > TABLES {
                break;
            }
            let _ = writeln!(self.text, "<tr>{cells}</tr>");
            shown += 1;
        }
        self.text += "</table></div>\n";
        rows.len() - shown
    }

    /// Names and values, folded.
    pub(super) fn folded(&mut self, summary: &str, rows: &[(String, String)]) {
        let _ = write!(self.text, "<details><summary>{}</summary><table>", escape(summary));
        for (name, value) in rows {
            let (name, value) = (escape(name), escape(value));
            let _ = writeln!(self.text, "<tr><td>{name}</td><td class=\"text\">{value}</td></tr>");
        }
        self.text += "</table></details>\n";
    }

    pub(super) fn code(&mut self, text: &str) {
        let _ = writeln!(self.text, "<pre>{}</pre>", escape(text));
    }

    /// The confusion matrix, or the worst pairs of many classes.
    pub(super) fn confusion(&mut self, report: &EvalReport) {
        let classes: Vec<String> = report.classes.iter().map(|row| row.class.clone()).collect();
        if classes.len() <= heat_map::MOST {
            self.section(
                "Confusion",
                "Rows are the true classes, columns what the network says. Blue is right, orange is wrong; the \
                 shade is the share of the row.",
            );
            let drawing = heat_map::confusion(&classes, |a, b| report.confusion.count(a, b));
            let _ = writeln!(self.text, "<div class=\"wide\">{drawing}</div>");
            return;
        }
        self.section(
            "Confusion",
            "Of many classes the most frequent mistakes; eval/top_confusions.csv has more of them.",
        );
        let rows: Vec<Vec<String>> = report
            .confusion
            .top(ROWS)
            .into_iter()
            .map(|(truth, guess, images)| {
                let share = 100.0 * images as f64 / report.classes[truth].images.max(1) as f64;
                vec![
                    classes[truth].clone(),
                    classes[guess].clone(),
                    images.to_string(),
                    format!("{share:.1} %"),
                ]
            })
            .collect();
        self.table(&["true class", "taken for", "images", "share of the class"], &rows);
    }

    /// Precision, recall and F1 of each class, the worst first.
    pub(super) fn classes(&mut self, report: &EvalReport) {
        self.section(
            "Classes",
            "Worst recall first. Recall: the share of the class's images that were found, with its 95 % interval; \
             precision: the share of what was taken for the class that is right.",
        );
        let mut rows: Vec<_> = report.classes.iter().collect();
        // Classes without an image come last: nothing is known of them.
        let recall = |row: &ClassRow| if row.images == 0 { 2.0 } else { scores(row)[1] };
        rows.sort_by(|a, b| recall(a).total_cmp(&recall(b)).then_with(|| a.class.cmp(&b.class)));
        let rows: Vec<Vec<String>> = rows
            .into_iter()
            .map(|row| {
                let [precision, recall, f1] = scores(row);
                let percent = |value: f64| format!("{:.1} %", 100.0 * value);
                let (low, high) = wilson(row.correct, row.images);
                let interval = match row.images {
                    0 => "no image".to_owned(),
                    _ => format!("{:.0} to {:.0} %", 100.0 * low, 100.0 * high),
                };
                let precision = match row.predicted {
                    0 => "never predicted".to_owned(),
                    _ => percent(precision),
                };
                vec![
                    row.class.clone(),
                    row.images.to_string(),
                    if row.images == 0 { "-".to_owned() } else { percent(recall) },
                    interval,
                    precision,
                    percent(f1),
                ]
            })
            .collect();
        let head = ["class", "images", "recall", "95 % interval", "precision", "F1"];
        self.table(&head, &rows);
    }

    /// Pictures of the worst mistakes.
    pub(super) fn mistakes(&mut self, mistakes: &[Mistake]) {
        self.text += "<div class=\"sheet\">\n";
        for mistake in mistakes {
            let Mistake { picture, file, truth, guess, probability } = mistake;
            let (file, truth, guess) = (escape(file), escape(truth), escape(guess));
            let _ = writeln!(
                self.text,
                "<figure><img src=\"{picture}\" alt=\"{truth}, taken for {guess}\" loading=\"lazy\"><figcaption>\
                 <b>{truth}</b> taken for <i>{guess}</i> at {:.0} %<br>{file}</figcaption></figure>",
                100.0 * probability
            );
        }
        self.text += "</div>\n";
    }

    /// Pictures with a caption each.
    pub(super) fn sheet(&mut self, tiles: &[(String, String)]) {
        self.text += "<div class=\"sheet\">\n";
        for (picture, caption) in tiles {
            let caption = escape(caption);
            let _ = writeln!(
                self.text,
                "<figure><img src=\"{picture}\" alt=\"{caption}\" loading=\"lazy\"><figcaption>{caption}\
                 </figcaption></figure>"
            );
        }
        self.text += "</div>\n";
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;
    use crate::report::pictures::data_address;

    /// The largest pictures, of noise, and a thousand and ten thousand classes with long names: the
    /// page stays below 5 MB.
    ///
    /// Mutations caught: tables without an end; pictures in their own size.
    #[test]
    fn a_page_stays_small_whatever_is_in_it() {
        let noise = RgbImage::from_fn(1024, 1024, |x, y| {
            image::Rgb([0, 1, 2].map(|c| {
                kernels::random::splitmix64(u64::from(x) << 32 | u64::from(y) << 2 | c) as u8
            }))
        });
        let picture = data_address(&noise);
        assert!(picture.len() < 40_000, "{}", picture.len());
        for classes in [1_000, 10_000] {
            let mut page = Page::new("r", "s");
            let mistakes: Vec<Mistake> = (0..24)
                .map(|_| Mistake {
                    picture: picture.clone(),
                    file: "&".repeat(255),
                    truth: "<".repeat(200),
                    guess: ">".repeat(200),
                    probability: 0.9,
                })
                .collect();
            page.mistakes(&mistakes);
            let row = |class: usize| vec![format!("{class} {}", "<".repeat(200)), "5".into()];
            page.table(&["class", "images"], &(0..classes).map(row).collect::<Vec<_>>());
            page.sheet(&vec![(picture.clone(), "<".repeat(400)); 16]);
            let text = page.finish();
            assert!(text.len() < MOST, "{}", text.len());
            let all = text.matches("<tr><td>").count() == classes;
            assert_eq!(all, classes == 1_000, "every one of a thousand classes has its row");
            assert_eq!(text.contains("more rows are left out"), !all);
        }
    }
}
