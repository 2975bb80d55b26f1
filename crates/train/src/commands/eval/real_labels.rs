//! Several right labels an image, as in ImageNet ReaL (Beyer et al. 2020, arXiv:2006.07159).

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Serialize, Serializer};

use crate::datasets::image_folder::ImageFolder;
use crate::error::Error;
use crate::text_list::read_text;

/// The right labels of every image of a folder.
pub(super) struct RealLabels(Vec<Vec<usize>>);

/// How often an answer was among the right labels.
#[derive(Default)]
pub(super) struct RealScore {
    images: u64,
    top1: u64,
    top5: u64,
}

impl RealLabels {
    /// Reads a JSON list of lists. An image called `ILSVRC2012_val_00000001` has the first entry;
    /// images of other names have the entries in the order of their names.
    ///
    /// # Errors
    /// A file that cannot be read or has too few entries.
    pub(super) fn read(file: &Path, folder: &ImageFolder) -> Result<Self, Error> {
        let wrong = |why: String| Error::data(format!("--real-labels: {}: {why}", file.display()));
        let text = read_text(file).map_err(wrong)?;
        let lists: Vec<Vec<usize>> = serde_json::from_str(&text)
            .map_err(|e| wrong(format!("expected a JSON list of lists of labels: {e}")))?;
        let name =
            |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let names: Vec<String> = folder.items.iter().map(|(path, _)| name(path)).collect();
        let of_imagenet = |name: &String| -> Option<usize> {
            name.strip_prefix("ILSVRC2012_val_")?.parse::<usize>().ok()?.checked_sub(1)
        };
        let numbers: Option<Vec<usize>> = names.iter().map(of_imagenet).collect();
        let numbers = match numbers {
            Some(numbers) => numbers,
            None if lists.len() != names.len() => {
                return Err(wrong(format!(
                    "{} lists for {} images; it has one for every image",
                    lists.len(),
                    names.len()
                )));
            }
            None => {
                // Two classes may have an image of one name.
                let sorted: BTreeMap<(&String, usize), usize> =
                    names.iter().enumerate().map(|(index, name)| ((name, index), index)).collect();
                let mut numbers = vec![0; names.len()];
                sorted.values().enumerate().for_each(|(rank, &index)| numbers[index] = rank);
                numbers
            }
        };
        let of = |number: usize| {
            lists.get(number).cloned().ok_or_else(|| {
                wrong(format!("{} lists; image {} has none", lists.len(), number + 1))
            })
        };
        numbers.into_iter().map(of).collect::<Result<_, _>>().map(Self)
    }

    /// The right labels of an image.
    pub(super) fn of(&self, index: usize) -> &[usize] {
        &self.0[index]
    }
}

impl RealScore {
    /// Counts an image; one without a right label is omitted.
    pub(super) fn add(&mut self, right: &[usize], logits: &[f32]) {
        if right.is_empty() {
            return;
        }
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let among = |k: usize| order.iter().take(k).any(|class| right.contains(class));
        self.images += 1;
        self.top1 += u64::from(among(1));
        self.top5 += u64::from(among(5));
    }

    fn percent(&self, count: u64) -> f64 {
        100.0 * count as f64 / self.images.max(1) as f64
    }

    /// The score in a line.
    pub(super) fn line(&self) -> String {
        let [top1, top5] = [self.top1, self.top5].map(|count| self.percent(count));
        format!("real labels: top-1 {top1:.1} % · top-5 {top5:.1} % · {} images", self.images)
    }
}

impl Serialize for RealScore {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let [top1, top5] = [self.top1, self.top5].map(|count| self.percent(count));
        serde_json::json!({ "pictures": self.images, "top1": top1, "top5": top5 }).serialize(to)
    }
}

#[cfg(test)]
mod tests {
    use super::RealScore;

    /// Mutations caught, each alone: an image without labels counted; the first label alone.
    #[test]
    fn an_answer_among_the_labels_counts_and_an_image_without_any_does_not() {
        let mut score = RealScore::default();
        let logits = [0.1, 0.9, 0.3, 0.0, -1.0, -2.0, -3.0];
        score.add(&[], &logits);
        score.add(&[4, 1], &logits);
        score.add(&[2], &logits);
        score.add(&[6], &logits);
        assert_eq!((score.images, score.top1, score.top5), (3, 1, 2));
    }
}
