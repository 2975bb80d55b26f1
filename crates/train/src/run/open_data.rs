//! The images of a run as its plan says: both splits, and their loaders. Every command that takes a
//! plan opens its data here.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use crate::config::plan::Plan;
use crate::datasets::cache::Caching;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::loader::{Loader, LoaderConfig, Mode};
use crate::datasets::quarantine;
use crate::datasets::quarantine::{Quarantine, leave_out_of};
use crate::datasets::split::SplitRule;
use crate::error::Error;
use crate::run::dataset_fingerprint::fingerprint;
use crate::run::manifest::DatasetFingerprint;
use crate::run::split_list;

/// Bytes of prepared images that may wait for the network.
pub const PREFETCH_BYTES: usize = 256 << 20;

/// Opens the training and the validation images of the plan's folder, without those on the
/// quarantine list.
///
/// # Errors
/// [`crate::error::ErrorKind::Data`]: the folder or its quarantine list is faulty.
/// [`crate::error::ErrorKind::Usage`]: `--shard-window` on a folder without shards.
pub fn open(plan: &Plan) -> Result<(ImageFolder, ImageFolder), Error> {
    usable(plan, splits(plan, None)?)
}

/// The splits without the images on the quarantine list.
///
/// # Errors
/// As [`open`].
pub fn usable(
    plan: &Plan,
    (mut train, mut val): (ImageFolder, ImageFolder),
) -> Result<(ImageFolder, ImageFolder), Error> {
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

/// Both splits with everything that the quarantine list may leave out. Where the folder has one
/// split alone, the other is set aside from it: as `split.csv` in the folder of a run says, or by
/// the plan.
///
/// # Errors
/// As [`open`]; a `split.csv` that cannot be read.
pub fn splits(plan: &Plan, run: Option<&Path>) -> Result<(ImageFolder, ImageFolder), Error> {
    let root = &plan.data.data_dir;
    let Some(rule) = split_rule(plan) else {
        // Hosts may have the shards of their ranks' nodes alone: `check_shards`.
        let train = match plan.data.canonical_nodes {
            1 => ImageFolder::open_train(root, None)?,
            _ => ImageFolder::open_train_part(root)?,
        };
        let val = ImageFolder::open_val(root, None, &train.classes)?;
        return Ok((train, val));
    };
    if let Some(run) = run.filter(|run| run.join(split_list::FILE).exists())
        && let Some(both) = split_list::apply(run, &ImageFolder::open_whole(root)?)?
    {
        return Ok(both);
    }
    Ok(ImageFolder::split(root, rule)?)
}

/// How the plan shares the images between training and evaluation; none where the folder has both.
pub fn split_rule(plan: &Plan) -> Option<SplitRule> {
    plan.data.val_fraction.map(|share| SplitRule {
        share,
        seed: plan.training.seed,
        group_duplicates: plan.data.group_duplicates,
    })
}

/// The images of a run that may have been begun before.
pub struct RunImages {
    /// The training images, those in `left_out` too.
    pub train: ImageFolder,
    /// The validation images.
    pub val: ImageFolder,
    /// Numbers of training images that the quarantine list got since the run began. They keep their
    /// indices, so that the order of all others and every bit of their batches stay.
    pub left_out: HashSet<usize>,
}

/// Opens the images of a run in `folder` that was begun on the training images `begun_on`; none is
/// a new run. The quarantine list may have changed since then.
///
/// # Errors
/// As [`open`].
pub fn open_for_run(
    plan: &Plan,
    begun_on: Option<DatasetFingerprint>,
    folder: &Path,
) -> Result<RunImages, Error> {
    let windowed = plan.data.shard_window > 0;
    let (train, val) = usable(plan, splits(plan, Some(folder))?)?;
    let same = |train: &ImageFolder| {
        begun_on.is_none_or(|begun_on| fingerprint(train, windowed) == begun_on)
    };
    if same(&train) || plan.data.ignore_quarantine {
        return Ok(RunImages { train, val, left_out: HashSet::new() });
    }
    let (root, own) = (&plan.data.data_dir, folder.join(quarantine::FILE));
    let all = splits(plan, Some(folder))?.0;
    for list in [Quarantine::default(), Quarantine::of(root, Some(&own)).unwrap_or_default()] {
        let mut begun = all.clone();
        leave_out_of(&list, root, &mut begun);
        if !same(&begun) {
            continue;
        }
        let kept: HashSet<&Path> = train.items.iter().map(|(path, _)| &**path).collect();
        let numbered = begun.items.iter().enumerate();
        let left_out: HashSet<usize> = numbered
            .filter(|(_, (path, _))| !kept.contains(&**path))
            .map(|(index, _)| index)
            .collect();
        begun.notes.clone_from(&train.notes);
        if !left_out.is_empty() {
            begun.notes.push(format!(
                "{} of the training images came on the quarantine list after the run began: they \
                 are left out from here on, and all others stay in their order",
                left_out.len()
            ));
        }
        return Ok(RunImages { train: begun, val, left_out });
    }
    // The checkpoint's refusal says what is different.
    Ok(RunImages { train, val, left_out: HashSet::new() })
}

/// Writes the quarantine list with which a run begins into its folder, if there is one.
///
/// # Errors
/// As [`Quarantine::of`]; a file that cannot be written.
pub fn keep_quarantine(plan: &Plan, folder: &Path) -> Result<(), Error> {
    if plan.data.ignore_quarantine {
        return Ok(());
    }
    let list = Quarantine::of(&plan.data.data_dir, plan.data.quarantine.as_deref())?;
    match list.is_empty() {
        true => Ok(()),
        false => list.write(&folder.join(quarantine::FILE)),
    }
}

/// Refuses canonical nodes whose shards this rank lacks, and fewer images than a batch.
///
/// # Errors
/// [`crate::error::ErrorKind::Data`].
pub fn check_shards(plan: &Plan, loader: &Loader) -> Result<(), Error> {
    let nodes = plan.data.canonical_nodes;
    if nodes == 1 {
        return Ok(());
    }
    let (images, batch) = (loader.images(), plan.training.batch_size);
    if images < batch {
        return Err(Error::data(format!(
            "--canonical-nodes {nodes}: {images} training images are less than a batch of {batch}; \
             lower --batch-size, or omit the flag"
        )));
    }
    match loader.shard_files().iter().find(|path| !path.exists()) {
        None => Ok(()),
        Some(path) => Err(Error::data(format!(
            "{}: no such file, and this rank reads it; copy it to this host, or start one rank for \
             each of the {nodes} canonical nodes, or for as many as divide them, on the hosts of \
             their shards",
            path.display()
        ))),
    }
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
        .canonical_nodes(if training { plan.data.canonical_nodes } else { 1 })
}
