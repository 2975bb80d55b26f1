//! Warnings of a run that goes wrong without an error: what is seen, what it usually means, and the
//! flag or command that helps. Each is said once.

use std::cell::RefCell;
use std::collections::HashSet;

use crate::config::plan::Plan;
use crate::datasets::listing::named;
use crate::learner::evaluate::EvalReport;
use crate::learner::interval::wilson;
use crate::run::observer::EpochRecord;

/// Epochs before the first warning: every run begins near chance.
const PATIENCE: usize = 3;

/// Share of its first value below which a training loss counts as falling.
const FALLING: f64 = 0.95;

/// Width of the 95 % interval from which an accuracy is called uncertain.
const WIDE: f64 = 0.1;

/// Share of a class's images that are taken for another class, both ways, from which two labels
/// look swapped.
const SWAPPED: f64 = 0.6;

/// An epoch as the warnings remember it.
#[derive(Clone, Copy)]
struct Epoch {
    train_loss: f64,
    val_loss: f64,
    top1: f64,
}

/// What the warnings look at of the plan and the data.
pub(super) struct Advice {
    classes: usize,
    bn_momentum: f64,
    bn_cumulative: bool,
    lr: f64,
    data: String,
    epochs: RefCell<Vec<Epoch>>,
    said: RefCell<HashSet<&'static str>>,
}

impl Advice {
    pub(super) fn new(plan: &Plan, classes: usize) -> Self {
        Self {
            classes,
            bn_momentum: plan.network.bn_momentum,
            bn_cumulative: plan.network.bn_cumulative,
            lr: plan.optimizer.lr,
            data: plan.data.data_dir.display().to_string(),
            epochs: RefCell::default(),
            said: RefCell::default(),
        }
    }

    /// The warnings after an epoch that was evaluated.
    pub(super) fn after(&self, record: &EpochRecord) -> Vec<String> {
        let Some(((report, _), train_loss)) = record.chosen().zip(record.stats.mean_loss()) else {
            return Vec::new();
        };
        let mut epochs = self.epochs.borrow_mut();
        epochs.push(Epoch { train_loss, val_loss: report.loss, top1: report.top1 });
        let last = record.epoch + 1 == record.epochs;
        let found = [
            ("chance", self.at_chance(&epochs, report)),
            ("stuck", self.stuck(&epochs)),
            ("overfitting", overfitting(&epochs)),
            ("few", last.then(|| few(report)).flatten()),
            ("never", last.then(|| never_predicted(report)).flatten()),
            ("swapped", last.then(|| swapped(report)).flatten()),
        ];
        let mut said = self.said.borrow_mut();
        let new = found.into_iter().filter_map(|(name, text)| Some((name, text?)));
        new.filter(|(name, _)| said.insert(name)).map(|(_, text)| text).collect()
    }

    /// The accuracy stays that of guessing while the network learns.
    fn at_chance(&self, epochs: &[Epoch], report: &EvalReport) -> Option<String> {
        let chance = 1.0 / self.classes as f64;
        let recent = epochs.len().checked_sub(PATIENCE).map(|from| &epochs[from..])?;
        let (first, last) = (epochs.first()?, epochs.last()?);
        let correct = (report.top1 * report.images as f64).round() as u64;
        // Within what guessing gives, and never better in the last epochs.
        let guessing = wilson(correct, report.images).0 <= chance
            && recent.iter().all(|epoch| epoch.top1 < 1.5 * chance);
        let learns = last.train_loss < FALLING * first.train_loss;
        (guessing && learns).then(|| {
            let way_out = if !self.bn_cumulative && self.bn_momentum < 0.1 {
                format!(
                    "the statistics of batch norm are too slow for so few steps: --bn-momentum 0.1 \
                     (now {})",
                    self.bn_momentum
                )
            } else {
                format!(
                    "see with `kindling data check {}` whether the validation images are those of the \
                     same classes",
                    self.data
                )
            };
            format!(
                "the training loss falls and the accuracy stays at chance ({:.1} % of {} classes): \
                 {way_out}",
                100.0 * last.top1,
                self.classes
            )
        })
    }

    /// The training loss does not fall.
    fn stuck(&self, epochs: &[Epoch]) -> Option<String> {
        let (first, last) = (epochs.first()?, epochs.last()?);
        let guessing = (self.classes as f64).ln();
        let stuck = epochs.len() > PATIENCE
            && last.train_loss > FALLING * first.train_loss
            && last.train_loss > 0.9 * guessing;
        stuck.then(|| {
            format!(
                "the training loss does not fall: {:.3}, and guessing has {guessing:.3}. Try --lr {} (now {}); \
                 `kindling lr-find {}` measures the rate",
                last.train_loss,
                short(self.lr / 10.0),
                short(self.lr),
                self.data
            )
        })
    }
}

/// A rate in three digits.
fn short(rate: f64) -> String {
    format!("{}", format!("{rate:.2e}").parse::<f64>().unwrap_or(rate))
}

/// The network gets better on the training images and worse on all others.
fn overfitting(epochs: &[Epoch]) -> Option<String> {
    let best = epochs.iter().enumerate().min_by(|a, b| a.1.val_loss.total_cmp(&b.1.val_loss))?;
    let (last, since) = (epochs.last()?, epochs.len() - 1 - best.0);
    let long = since >= 5.max(epochs.len() / 4);
    let worse = last.val_loss > 1.2 * best.1.val_loss + 0.02 && last.top1 < best.1.top1;
    (long && worse && last.train_loss < 0.9 * best.1.train_loss).then(|| {
        format!(
            "overfitting: the validation loss was {:.3} {since} epochs ago and is {:.3}, while the training \
             loss fell from {:.3} to {:.3}. The best epoch is kept; more images, --aa \
             rand-m9-mstd0.5-inc1, --mixup 0.2 or fewer --epochs help",
            best.1.val_loss, last.val_loss, best.1.train_loss, last.train_loss
        )
    })
}

/// So few images that the accuracy means little.
fn few(report: &EvalReport) -> Option<String> {
    let correct = (report.top1 * report.images as f64).round() as u64;
    let (low, high) = wilson(correct, report.images);
    (high - low > WIDE).then(|| {
        format!(
            "{} validation images tell little: an accuracy of {:.1} % may be {:.0} to {:.0} %; \
             evaluate on more",
            report.images,
            100.0 * report.top1,
            100.0 * low,
            100.0 * high
        )
    })
}

/// Classes with images of which none was taken for one of them, nor any other image.
fn never_predicted(report: &EvalReport) -> Option<String> {
    let never = report.classes.iter().filter(|row| row.images > 0 && row.predicted == 0);
    let never: Vec<&str> = never.map(|row| row.class.as_str()).collect();
    (!never.is_empty()).then(|| {
        format!(
            "no image was taken for {}: --balanced-sampling or --class-weights balanced helps where a \
             class has few images",
            named(&never)
        )
    })
}

/// Two classes of which most images are taken for the other one.
fn swapped(report: &EvalReport) -> Option<String> {
    let share = |a: usize, b: usize| {
        report.confusion.count(a, b) as f64 / report.classes[a].images.max(1) as f64
    };
    let pairs = report.confusion.top(report.classes.len().min(1000));
    let (a, b, _) = pairs.into_iter().find(|&(a, b, _)| {
        a < b && share(a, b) >= SWAPPED && share(b, a) >= SWAPPED && report.classes[a].images > 2
    })?;
    let (a, b) = (&report.classes[a].class, &report.classes[b].class);
    Some(format!(
        "most validation images of {a} are taken for {b}, and those of {b} for {a}: are the two folders \
         swapped in one of the splits?"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::options::Options;
    use crate::learner::confusion::Confusion;
    use crate::learner::evaluate::ClassRow;
    use crate::run::progress::EpochStats;

    /// An evaluation whose image of class `a` is taken for `b` so often, for every
    /// `(a, b, images)`.
    fn report(classes: usize, answers: &[(usize, usize, u64)], loss: f64) -> EvalReport {
        let row = |class: usize| ClassRow {
            class: format!("c{class}"),
            images: answers.iter().filter(|(a, ..)| *a == class).map(|(.., n)| n).sum(),
            correct: answers
                .iter()
                .filter(|(a, b, _)| *a == class && a == b)
                .map(|(.., n)| n)
                .sum(),
            predicted: answers.iter().filter(|(_, b, _)| *b == class).map(|(.., n)| n).sum(),
        };
        let rows: Vec<ClassRow> = (0..classes).map(row).collect();
        let images: u64 = rows.iter().map(|row| row.images).sum();
        let correct: u64 = rows.iter().map(|row| row.correct).sum();
        let mut confusion = Confusion::default();
        answers.iter().for_each(|&(a, b, n)| (0..n).for_each(|_| confusion.add(a, b)));
        EvalReport {
            images,
            skipped: Vec::new(),
            top1: correct as f64 / images as f64,
            top5: 1.0,
            loss,
            classes: rows,
            confusion,
            not_finite: Vec::new(),
            img_per_s: 1.0,
            trained_on: None,
            interrupted: false,
        }
    }

    /// The first warnings of a run whose epochs have these training losses and evaluations.
    fn warnings(options: &str, classes: usize, run: &[(f64, EvalReport)]) -> Vec<String> {
        let plan = Options::parse(options, "test").unwrap().plan().unwrap();
        let advice = Advice::new(&plan, classes);
        let epochs = run.len() as u64;
        let each = run.iter().enumerate().flat_map(|(epoch, (loss, report))| {
            let stats = EpochStats { loss: *loss, seen: 1, ..EpochStats::default() };
            let epoch = epoch as u64;
            let report = Some(report);
            advice.after(&EpochRecord { epoch, epochs, stats, report, ema: None, better: false })
        });
        each.collect()
    }

    fn only(warnings: &[String], words: &[&str]) {
        assert_eq!(warnings.len(), 1, "{warnings:#?}");
        words.iter().for_each(|word| assert!(warnings[0].contains(word), "{word}: {warnings:#?}"));
    }

    /// Mutations caught: the warning repeated.
    #[test]
    fn chance_while_the_loss_falls_is_told_with_its_reason() {
        let guess = |loss| report(2, &[(0, 0, 600), (0, 1, 600), (1, 0, 600), (1, 1, 600)], loss);
        let run = |train: [f64; 6]| train.map(|loss| (loss, guess(0.7)));
        let falling = run([0.7, 0.6, 0.5, 0.4, 0.3, 0.2]);
        only(&warnings("bn_momentum = 0.01", 2, &falling), &["chance", "--bn-momentum 0.1"]);
        only(&warnings("bn_momentum = 0.1", 2, &falling), &["chance", "data check"]);
        let good = falling.map(|(loss, _)| (loss, report(2, &[(0, 0, 999), (1, 1, 999)], 0.1)));
        assert_eq!(warnings("bn_momentum = 0.01", 2, &good), Vec::<String>::new());
    }

    /// Mutations caught: the warning repeated.
    #[test]
    fn a_loss_that_does_not_fall_is_told_with_another_rate() {
        let run = |train: &[f64]| -> Vec<(f64, EvalReport)> {
            let guess = || report(2, &[(0, 0, 600), (0, 1, 600), (1, 0, 600), (1, 1, 600)], 0.7);
            train.iter().map(|loss| (*loss, guess())).collect()
        };
        only(&warnings("lr = 0.5", 2, &run(&[0.7; 5])), &["does not fall", "--lr 0.05 (now 0.5)"]);
        assert_eq!(warnings("", 2, &run(&[0.7; 3])), Vec::<String>::new());
    }

    /// Mutations caught: told at once.
    #[test]
    fn overfitting_is_told_once() {
        let right =
            |right: u64, loss| report(2, &[(0, 0, right), (0, 1, 200 - right), (1, 1, 200)], loss);
        let train = |epoch: usize| 0.5 / (epoch + 1) as f64;
        let worse: Vec<_> =
            (0..9).map(|e| (train(e), right(190 - 4 * e as u64, 0.3 + 0.1 * e as f64))).collect();
        only(&warnings("", 2, &worse), &["overfitting", "0.300"]);
        let better: Vec<_> =
            (0..9).map(|e| (train(e), right(150 + 4 * e as u64, 0.3 + 0.1 * e as f64))).collect();
        assert_eq!(warnings("", 2, &better), Vec::<String>::new());
        assert_eq!(warnings("", 2, &worse[..3]), Vec::<String>::new());
    }

    /// Mutations caught: one direction enough.
    #[test]
    fn the_last_evaluation_tells_of_missing_classes_swapped_labels_and_few_images() {
        let of =
            |classes, answers: &[_]| warnings("", classes, &[(0.1, report(classes, answers, 0.1))]);
        let never = [(0, 0, 200), (1, 0, 5), (2, 2, 300)];
        only(&of(4, &never), &["taken for class c1", "balanced"]);
        let swapped = [(0, 1, 200), (1, 0, 190), (1, 1, 10), (2, 2, 900)];
        only(&of(3, &swapped), &["c0 are taken for c1", "swapped"]);
        let one_way = [(0, 1, 200), (1, 1, 200), (0, 0, 50), (2, 2, 900)];
        assert_eq!(of(3, &one_way), Vec::<String>::new());
        only(&of(2, &[(0, 0, 12), (1, 1, 10), (1, 0, 3)]), &["25 validation images", "70 to 96 %"]);
    }
}
