//! The images of a run as its plan says: both splits, and their loaders. Every command that takes a
//! plan opens its data here.

use std::sync::Arc;

use crate::config::plan::Plan;
use crate::datasets::cache::Caching;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::loader::{Loader, LoaderConfig, Mode};
use crate::datasets::quarantine;
use crate::error::Error;

/// Bytes of prepared images that may wait for the network.
pub const PREFETCH_BYTES: usize = 256 << 20;

/// Opens the training and the validation images of the plan's folder, without those on the
/// quarantine list.
///
/// # Errors
/// [`crate::error::ErrorKind::Data`]: the folder or its quarantine list is faulty.
/// [`crate::error::ErrorKind::Usage`]: `--shard-window` on a folder without shards.
pub fn open(plan: &Plan) -> Result<(ImageFolder, ImageFolder), Error> {
    let (mut train, mut val) = match plan.data.val_fraction {
        Some(share) => ImageFolder::split(&plan.data.data_dir, share, plan.training.seed)?,
        None => {
            let train = ImageFolder::open_train(&plan.data.data_dir, None)?;
            let val = ImageFolder::open_val(&plan.data.data_dir, None, &train.classes)?;
            (train, val)
        }
    };
    if !plan.data.ignore_quarantine {
        let list = plan.data.quarantine.as_deref();
        quarantine::leave_out(&plan.data.data_dir, list, &mut train, &mut val)?;
    }
    if plan.data.shard_window > 0 && train.shards.is_none() {
        return Err(Error::usage(format!(
            "--shard-window {}: {} is no folder of shards; make one with `kindling data shard`, or \
             omit the flag",
            plan.data.shard_window,
            plan.data.data_dir.display()
        )));
    }
    Ok((train, val))
}

/// The cache of decoded images that the plan asks for.
pub fn caching(plan: &Plan) -> Caching {
    Caching::new(plan.data.cache, plan.data.cache_gb, plan.data.cache_dir.clone())
}

/// The plan's loader of a split, without a cache.
pub fn loader(plan: &Plan, folder: &Arc<ImageFolder>, mode: Mode, batch_size: usize) -> Loader {
    let training = matches!(mode, Mode::Train(_));
    let config = LoaderConfig {
        batch_size,
        workers: plan.machine.workers,
        prefetch_bytes: PREFETCH_BYTES,
        seed: plan.training.seed,
        strict: plan.data.strict_data,
        // A last batch of one image would have no usable batch statistics.
        drop_last: training,
    };
    Loader::new(Arc::clone(folder), plan.preprocess(), mode, config)
        .balanced(plan.data.balanced_sampling && training)
        .windowed(plan.data.shard_window)
}
