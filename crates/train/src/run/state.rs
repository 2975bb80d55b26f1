//! Everything of a run that a checkpoint holds: begun afresh, from a checkpoint, and written into one.

use std::path::Path;

use burn::tensor::Device;
use nn::network::{Network, NetworkConfig};
use nn::weights::{HeadPolicy, WeightsError, load_state_dict, read_weights, state_dict};

use crate::config::plan::Plan;
use crate::datasets::image_folder::ImageFolder;
use crate::error::Error;
use crate::learner::nan_guard::NanGuard;
use crate::optimizers::lr_schedule::Plateau;
use crate::optimizers::optimizer::Optimizer;
use crate::optimizers::param_groups;
use crate::optimizers::weight_average::Average;
use crate::run::checkpoint::{
    Best, Checkpoint, DatasetFingerprint, EMA, EpochStats, Manifest, Position, SWA, WeightsKind,
};
use crate::run::logger::Logger;

/// What a run does not change while it runs.
pub struct Setup<'a> {
    /// Resolved configuration.
    pub plan: &'a Plan,
    /// Class names in the order of the logits.
    pub classes: &'a [String],
    /// The training set.
    pub data: DatasetFingerprint,
    /// The network.
    pub network: NetworkConfig,
    /// The autodiff device.
    pub autodiff_device: Device,
    /// For every tensor in walk order whether it is frozen.
    frozen: Vec<bool>,
}

/// What a run changes while it runs.
pub struct State {
    /// The weights and statistics.
    pub network: Network,
    /// The optimizer with its state.
    pub optimizer: Optimizer,
    /// The exponential average.
    pub ema: Option<Average>,
    /// The equal average, from its first epoch on.
    pub swa: Option<Average>,
    /// Next batch.
    pub position: Position,
    /// Sums of the running epoch.
    pub tally: EpochStats,
    /// Best evaluation.
    pub best: Option<Best>,
    /// Whether the exponential average was better at the newest evaluation.
    pub prefer_ema: bool,
    /// Of `--sched plateau`.
    pub plateau: Plateau,
    /// Of the guard against losses that are not finite.
    pub strain: NanGuard,
    /// Most images that go through the network at a time, where the memory was too small for a batch.
    pub micro_batch: Option<usize>,
}

impl<'a> Setup<'a> {
    /// That of a plan on a training set.
    ///
    /// # Errors
    /// A pattern of `--freeze` that matches nothing.
    pub fn new(
        plan: &'a Plan,
        train: &'a ImageFolder,
        autodiff_device: &Device,
    ) -> Result<Self, Error> {
        let network = plan.network(train.classes.len());
        let frozen = param_groups::frozen(&network, &plan.freeze)?;
        let (classes, data) = (&train.classes[..], mark_of(train, plan.shard_window > 0));
        Ok(Self { plan, classes, data, network, autodiff_device: autodiff_device.clone(), frozen })
    }

    /// A network without a value yet, frozen where the plan says so; to be loaded into.
    fn blank(&self) -> Network {
        self.network.init_zero(&self.autodiff_device)
    }

    fn frozen(&self, network: Network) -> Network {
        param_groups::freeze(network, &self.frozen)
    }

    fn optimizer(&self, optimizer: Optimizer) -> Optimizer {
        let settings = param_groups::settings(self.plan, &self.network, &self.frozen);
        optimizer.with_settings(settings)
    }

    /// The state of step 0: initial weights, or those that the plan starts from.
    ///
    /// # Errors
    /// Weights that cannot be read or do not fit.
    pub fn begin(&self, logger: &Logger) -> Result<State, Error> {
        let mut network = self.network.init_seeded(&self.autodiff_device, self.plan.seed);
        if let Some(path) = &self.plan.pretrained_path {
            network = start_from(network, path, logger)?;
        }
        let network = self.frozen(network);
        Ok(State {
            ema: self.plan.model_ema.then(|| Average::of(&network)),
            swa: None,
            network,
            optimizer: self.optimizer(Optimizer::new(self.plan.optimizer())),
            position: Position::default(),
            tally: EpochStats::default(),
            best: None,
            prefer_ema: false,
            plateau: Plateau::default(),
            strain: NanGuard::default(),
            micro_batch: None,
        })
    }

    /// The state that a checkpoint holds.
    ///
    /// # Errors
    /// A checkpoint of other data, or whose tensors do not fit.
    pub fn resume(&self, from: Checkpoint, fresh_optimizer: bool) -> Result<State, Error> {
        let mut from = from;
        same_data(&from.manifest, self.data, self.classes)?;
        let fault = |e: WeightsError| Error::checkpoint(e.to_string());
        let average = |from: &mut Checkpoint, prefix: &str, count: Option<u64>| {
            let tensors = from.take_average(prefix);
            count
                .map(|n| Average::load(tensors, n, &self.network, &self.autodiff_device))
                .transpose()
        };
        let (updates, epochs) = (from.manifest.ema_updates, from.manifest.swa_epochs);
        let ema = average(&mut from, EMA, updates).map_err(fault)?;
        let swa = average(&mut from, SWA, epochs).map_err(fault)?;
        let Checkpoint { manifest, weights, optimizer: state, .. } = from;
        let (network, _) =
            load_state_dict(self.blank(), weights, HeadPolicy::Exact).map_err(fault)?;
        let optimizer = match fresh_optimizer {
            true => Optimizer::new(self.plan.optimizer()),
            false => {
                let steps = manifest.optimizer_steps.unwrap_or(manifest.position.step);
                let device = self.autodiff_device.clone().without_autodiff();
                Optimizer::load(self.plan.optimizer(), steps, state, &device)
                    .map_err(Error::checkpoint)?
            }
        };
        Ok(State {
            network: self.frozen(network),
            optimizer: self.optimizer(optimizer),
            ema,
            swa,
            position: manifest.position,
            tally: manifest.tally,
            best: manifest.best,
            prefer_ema: manifest.prefer_ema,
            plateau: manifest.plateau,
            strain: manifest.strain,
            micro_batch: manifest.micro_batch,
        })
    }

    /// Writes the state to a file.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::File`]; what was there before is untouched then.
    pub fn save(&self, state: &State, path: &Path) -> Result<(), Error> {
        let manifest = Manifest {
            format: Manifest::format(),
            kindling: env!("CARGO_PKG_VERSION").to_owned(),
            network: self.network.clone(),
            classes: self.classes.to_vec(),
            preprocess: self.plan.preprocess(),
            plan: self.plan.clone(),
            position: state.position,
            tally: state.tally,
            best: state.best,
            optimizer_steps: Some(state.optimizer.steps()),
            ema_updates: state.ema.as_ref().map(|average| average.count),
            swa_epochs: state.swa.as_ref().map(|average| average.count),
            prefer_ema: state.prefer_ema,
            plateau: state.plateau,
            strain: state.strain,
            micro_batch: state.micro_batch,
            data: self.data,
        };
        let tensors = |average: &Option<Average>, prefix: &str| {
            let save =
                |average: &Average| average.save(prefix, &self.network, &self.autodiff_device);
            average.as_ref().map(save).unwrap_or_default()
        };
        let mut averages = tensors(&state.ema, EMA);
        averages.extend(tensors(&state.swa, SWA));
        let (weights, optimizer) = (state_dict(&state.network), state.optimizer.save());
        Checkpoint { manifest, weights, optimizer, averages }.write(path)
    }

    /// The network of an average.
    pub fn network_of(&self, average: &Average) -> Network {
        average.network(&self.network, &self.autodiff_device)
    }
}

/// What tells the training set from others; in windows the order of the files belongs to it.
fn mark_of(folder: &ImageFolder, windowed: bool) -> DatasetFingerprint {
    let mut crc = crc32fast::Hasher::new();
    for (path, label) in &folder.items {
        let path = path.strip_prefix(&folder.root).unwrap_or(path);
        crc.update(path.to_string_lossy().as_bytes());
        crc.update(&label.to_le_bytes());
    }
    if let (true, Some(shards)) = (windowed, &folder.shards) {
        crc.update(&(shards.files() as u64).to_le_bytes());
        for place in folder.items.iter().map(|(path, _)| shards.place(path)) {
            crc.update(&(place.file as u64).to_le_bytes());
            crc.update(&place.from.to_le_bytes());
        }
    }
    DatasetFingerprint { images: folder.items.len(), crc32: crc.finalize() }
}

fn same_data(
    manifest: &Manifest,
    mark: DatasetFingerprint,
    classes: &[String],
) -> Result<(), Error> {
    if manifest.classes != classes {
        return Err(Error::data(format!(
            "{}: {} classes where the run to resume has {}; give the folder it was begun on, or \
             start anew with --pretrained-path",
            manifest.plan.data_dir.display(),
            classes.len(),
            manifest.classes.len()
        )));
    }
    if manifest.data != mark {
        return Err(Error::data(format!(
            "{}: the training images{} changed since the run began ({} then, {} now); restore \
             them, or start anew with --pretrained-path",
            manifest.plan.data_dir.display(),
            if manifest.plan.shard_window > 0 { " or their places in the shards" } else { "" },
            manifest.data.images,
            mark.images
        )));
    }
    Ok(())
}

fn start_from(network: Network, path: &Path, logger: &Logger) -> Result<Network, Error> {
    let fail = |e: &dyn std::fmt::Display| Error::checkpoint(format!("{}: {e}", path.display()));
    let weights = match path.extension().is_some_and(|x| x == "ckpt") {
        true => Checkpoint::read(path)?.take(WeightsKind::Best)?,
        false => read_weights(path).map_err(|e| fail(&e))?,
    };
    let (network, report) =
        load_state_dict(network, weights, HeadPolicy::KeepInitialised).map_err(|e| fail(&e))?;
    logger.say(&format!("{}: {report}", path.display()));
    Ok(network)
}
