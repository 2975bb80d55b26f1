//! Whether an epoch could read the images of every class.

use crate::datasets::batch::Batch;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::listing::named;
use crate::distributed::communicator::Communicator;
use crate::error::Error;
use crate::run::progress::EpochStats;
use crate::run::state::TrainState;
use crate::run::trainer::Trainer;

/// The images of each class that an epoch has read, and those that it could not read.
pub(super) struct ClassReads {
    /// For each class.
    read: Vec<u64>,
    /// For each class.
    unreadable: Vec<u64>,
    /// Whether the epoch is followed from its first batch on.
    whole: bool,
}

impl ClassReads {
    /// Of an epoch that goes on with batch `first_batch`.
    pub(super) fn new(classes: usize, first_batch: usize) -> Self {
        Self { read: vec![0; classes], unreadable: vec![0; classes], whole: first_batch == 0 }
    }

    /// Counts the images of a batch.
    pub(super) fn add(&mut self, batch: &Batch, folder: &ImageFolder) {
        batch.indices.iter().for_each(|&index| self.read[folder.items[index].1] += 1);
        batch.skipped_indices.iter().for_each(|&index| self.unreadable[folder.items[index].1] += 1);
    }

    /// The images that all ranks have read, and those that none could read.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Communication`].
    pub(super) fn of_all_ranks(self, communicator: &dyn Communicator) -> Result<Self, Error> {
        let Self { whole, .. } = self;
        let all = communicator.gather_values((self.read, self.unreadable))?;
        let sum = |lists: Vec<Vec<u64>>| {
            let add = |mut sum: Vec<u64>, list: Vec<u64>| {
                sum.iter_mut().zip(list).for_each(|(sum, count)| *sum += count);
                sum
            };
            lists.into_iter().reduce(add).unwrap_or_default()
        };
        let (read, unreadable): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        Ok(Self { read: sum(read), unreadable: sum(unreadable), whole })
    }

    /// Classes of which the epoch tried at least half of the images and read none.
    fn unread(&self, folder: &ImageFolder) -> Vec<usize> {
        let counts = folder.class_counts();
        let none = |class: &usize| {
            self.read[*class] == 0
                && self.unreadable[*class] > 0
                && 2 * self.unreadable[*class] >= counts[*class] as u64
        };
        (0..counts.len()).filter(none).collect()
    }
}

/// Refuses an epoch that read no image at all, or none of a class. The last checkpoint is that of
/// the epoch before.
///
/// # Errors
/// [`crate::error::ErrorKind::Data`].
pub(super) fn check_readable(
    trainer: &Trainer,
    state: &TrainState,
    reads: &ClassReads,
) -> Result<(), Error> {
    let stats = state.epoch_stats;
    let what = if let EpochStats { seen: 0, skipped: 1.., skipped_steps: 0, .. } = stats {
        format!("the {} training images", stats.skipped)
    } else {
        let unread = if reads.whole { reads.unread(&trainer.train) } else { Vec::new() };
        if unread.is_empty() {
            return Ok(());
        }
        let images: u64 = unread.iter().map(|class| reads.unreadable[*class]).sum();
        let classes: Vec<&str> =
            unread.iter().map(|class| trainer.train.classes[*class].as_str()).collect();
        format!("the {images} training images of {}", named(&classes))
    };
    let data = trainer.context.plan.data.data_dir.display();
    let way_out = match state.position.epoch {
        // No epoch is saved yet, so there is nothing to resume.
        0 => "repair them and start again".to_owned(),
        _ => format!("--resume {} goes on once they are back", trainer.folder.display()),
    };
    Err(Error::data(format!(
        "{data}: none of {what} could be read in epoch {}; `kindling data check {data}` names each \
         fault; {way_out}",
        state.position.epoch + 1
    )))
}
