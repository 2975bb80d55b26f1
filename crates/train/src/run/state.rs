//! The state of a run, which is what a checkpoint holds: its initial values, read from a
//! checkpoint, and written into one.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use nn::config::NetworkConfig;
use nn::network::Network;
use nn::weights::WeightsError;
use nn::weights::load::{HeadPolicy, load_state_dict};
use nn::weights::state_dict::state_dict;

use crate::config::model::weights_kind;
use crate::config::plan::Plan;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::image_keys::ImageKeys;
use crate::error::Error;
use crate::learner::nan_guard::NanGuard;
use crate::optimizers::lr_schedule::Plateau;
use crate::optimizers::optimizer::Optimizer;
use crate::optimizers::param_groups;
use crate::optimizers::param_groups::{ParamGroupConfig, first_epochs, param_groups};
use crate::optimizers::weight_average::Average;
use crate::run::checkpoint::{Checkpoint, DatasetFingerprint, Manifest};
use crate::run::dataset_fingerprint::{fingerprint, same_data};
use crate::run::observer::Observer;
use crate::run::pretrained;
use crate::run::progress::{Best, EpochStats, Position};
use deploy::container::{EMA, SWA};
use deploy::files::StagedFile;

/// The constant part of a run: all that the state's tensors depend on.
pub struct RunContext {
    /// Resolved configuration.
    pub plan: Plan,
    /// Class names in the order of the logits.
    pub classes: Vec<String>,
    /// Fingerprint of the training set.
    pub data: DatasetFingerprint,
    /// Keys of the training images that were read.
    pub keys: Arc<ImageKeys>,
    /// Configuration of the network.
    pub network: NetworkConfig,
    /// The autodiff device.
    pub autodiff_device: Device,
    /// For every tensor in parameter order the first epoch in which it is trained; none: it never
    /// is.
    first_epochs: Vec<Option<u64>>,
}

/// The changing part of a run.
pub struct TrainState {
    /// Weights and running statistics.
    pub network: Network,
    /// The optimizer with its state.
    pub optimizer: Optimizer,
    /// Exponential average of the weights.
    pub ema: Option<Average>,
    /// Equal average of the weights, from its first epoch on.
    pub swa: Option<Average>,
    /// Next batch.
    pub position: Position,
    /// Sums of the running epoch.
    pub epoch_stats: EpochStats,
    /// Best evaluation.
    pub best: Option<Best>,
    /// Whether the exponential average was better than the trained weights at the last evaluation.
    pub prefer_ema: bool,
    /// State of `--sched plateau`.
    pub plateau: Plateau,
    /// State of the guard against losses that are not finite.
    pub nan_guard: NanGuard,
    /// Most images of a micro-batch, if the memory was too small for a batch.
    pub micro_batch: Option<usize>,
}

impl RunContext {
    /// The context of a plan on a training set.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Usage`]: a pattern of `--freeze` that matches nothing.
    pub fn new(plan: &Plan, train: &ImageFolder, autodiff_device: &Device) -> Result<Self, Error> {
        let network = plan.network(train.classes.len());
        let frozen = param_groups::frozen(&network, &plan.network.frozen())?;
        let first_epochs = first_epochs(&network, &frozen, plan.network.unfreezing());
        Ok(Self {
            plan: plan.clone(),
            classes: train.classes.clone(),
            data: fingerprint(train, plan.data.shard_window > 0),
            keys: Arc::new(ImageKeys::new(train.items.len())),
            network,
            autodiff_device: autodiff_device.clone(),
            first_epochs,
        })
    }

    /// For every tensor in parameter order whether it is frozen in an epoch.
    fn frozen_in(&self, epoch: u64) -> Vec<bool> {
        self.first_epochs.iter().map(|first| first.is_none_or(|first| epoch < first)).collect()
    }

    fn freeze(&self, network: Network, epoch: u64) -> Network {
        param_groups::freeze(network, &self.frozen_in(epoch))
    }

    /// The state at the beginning of an epoch: where weights are unfrozen, they are trained from
    /// here on, by an optimizer whose averages begin anew, because they are of the few weights that
    /// were trained before.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Checkpoint`]: a state that is not finite.
    pub(super) fn unfreeze(&self, state: TrainState) -> Result<TrainState, Error> {
        let epoch = state.position.epoch;
        if epoch == 0 || !self.first_epochs.contains(&Some(epoch)) {
            return Ok(state);
        }
        let blank = self.network.init_zero(&self.autodiff_device);
        let weights = state_dict(&state.network);
        let (network, _) = load_state_dict(blank, weights, HeadPolicy::Exact)
            .map_err(|e| Error::checkpoint(e.to_string()))?;
        let network = self.freeze(network, epoch);
        let optimizer = self.with_groups(Optimizer::new(self.plan.optimizer()), epoch);
        Ok(TrainState { network, optimizer, ..state })
    }

    fn with_groups(&self, optimizer: Optimizer, epoch: u64) -> Optimizer {
        let config = ParamGroupConfig {
            weight_decay: self.plan.optimizer.weight_decay,
            norm_weight_decay: self.plan.optimizer.norm_weight_decay,
            layer_decay: self.plan.optimizer.layer_decay,
        };
        optimizer.with_groups(param_groups(&self.network, &self.frozen_in(epoch), config))
    }

    /// The state of step 0, with initial weights or the pretrained ones of the plan.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Checkpoint`]: pretrained weights that cannot be read or do not
    /// fit.
    pub fn initial_state(&self, observer: &dyn Observer) -> Result<TrainState, Error> {
        let mut network = self.network.init_seeded(&self.autodiff_device, self.plan.training.seed);
        if let Some(path) = &self.plan.network.pretrained_path {
            let which = weights_kind(self.plan.network.weights_kind);
            network = pretrained::load(network, path, which, &self.classes, observer)?;
        }
        let network = self.freeze(network, 0);
        Ok(TrainState {
            ema: self.plan.averaging.model_ema.then(|| Average::new(&network)),
            swa: None,
            network,
            optimizer: self.with_groups(Optimizer::new(self.plan.optimizer()), 0),
            position: Position::default(),
            epoch_stats: EpochStats::default(),
            best: None,
            prefer_ema: false,
            plateau: Plateau::default(),
            nan_guard: NanGuard::default(),
            micro_batch: None,
        })
    }

    /// The state of a checkpoint, with a fresh optimizer if `fresh_optimizer`.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Data`]: the checkpoint was trained on other data.
    /// [`crate::error::ErrorKind::Checkpoint`]: its tensors do not fit.
    pub fn resume(
        &self,
        mut checkpoint: Checkpoint,
        fresh_optimizer: bool,
    ) -> Result<TrainState, Error> {
        same_data(&checkpoint.manifest, self.data, &self.classes)?;
        self.keys.resume(checkpoint.manifest.trained_images.take().unwrap_or_default());
        let fault = |e: WeightsError| Error::checkpoint(e.to_string());
        let average = |checkpoint: &mut Checkpoint, prefix: &str, count: Option<u64>| {
            let tensors = checkpoint.take_average(prefix);
            count
                .map(|n| Average::load(tensors, n, &self.network, &self.autodiff_device))
                .transpose()
        };
        let (updates, epochs) = (checkpoint.manifest.ema_updates, checkpoint.manifest.swa_epochs);
        let ema = average(&mut checkpoint, EMA, updates).map_err(fault)?;
        let swa = average(&mut checkpoint, SWA, epochs).map_err(fault)?;
        let Checkpoint { manifest, weights, optimizer: saved, .. } = checkpoint;
        let blank = self.network.init_zero(&self.autodiff_device);
        let (network, _) = load_state_dict(blank, weights, HeadPolicy::Exact).map_err(fault)?;
        let optimizer = match fresh_optimizer {
            true => Optimizer::new(self.plan.optimizer()),
            false => {
                let steps = manifest.optimizer_steps.unwrap_or(manifest.position.step);
                let device = self.autodiff_device.clone().without_autodiff();
                Optimizer::load(self.plan.optimizer(), steps, saved, &device)
                    .map_err(Error::checkpoint)?
            }
        };
        let epoch = manifest.position.epoch;
        Ok(TrainState {
            network: self.freeze(network, epoch),
            optimizer: self.with_groups(optimizer, epoch),
            ema,
            swa,
            position: manifest.position,
            epoch_stats: manifest.epoch_stats,
            best: manifest.best,
            prefer_ema: manifest.prefer_ema,
            plateau: manifest.plateau,
            nan_guard: manifest.nan_guard,
            micro_batch: manifest.micro_batch,
        })
    }

    /// Writes the state to a file.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::File`]; an older file at `path` is untouched then.
    pub fn save(&self, state: &TrainState, path: &Path) -> Result<(), Error> {
        self.checkpoint_of(state).write(path)
    }

    /// Writes the state beside `path`, without the name yet. A state that training cannot go on
    /// from is not written, so that the checkpoint before it stays.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::File`]. [`crate::error::ErrorKind::Diverged`]: values of the
    /// state are not finite.
    pub(super) fn stage(&self, state: &TrainState, path: &Path) -> Result<StagedFile, Error> {
        let checkpoint = self.checkpoint_of(state);
        if let Some(name) = checkpoint.not_finite() {
            let intact = match path.exists() {
                true => format!("; {} is intact", path.display()),
                false => String::new(),
            };
            return Err(Error::diverged(format!(
                "{name}: not all values are finite after step {}{intact}; lower --lr or lengthen \
                 --warmup-epochs",
                state.position.step
            )));
        }
        checkpoint.stage(path)
    }

    pub(super) fn checkpoint_of(&self, state: &TrainState) -> Checkpoint {
        let manifest = Manifest {
            format: Manifest::format(),
            kindling: env!("CARGO_PKG_VERSION").to_owned(),
            network: self.network.clone(),
            classes: self.classes.clone(),
            preprocess: self.plan.preprocess(),
            plan: self.plan.clone(),
            position: state.position,
            epoch_stats: state.epoch_stats,
            best: state.best,
            optimizer_steps: Some(state.optimizer.steps()),
            ema_updates: state.ema.as_ref().map(|average| average.count),
            swa_epochs: state.swa.as_ref().map(|average| average.count),
            prefer_ema: state.prefer_ema,
            plateau: state.plateau,
            nan_guard: state.nan_guard,
            micro_batch: state.micro_batch,
            data: self.data,
            trained_images: Some(self.keys.trained_images()),
        };
        let tensors = |average: &Option<Average>, prefix: &str| {
            let save =
                |average: &Average| average.save(prefix, &self.network, &self.autodiff_device);
            average.as_ref().map(save).unwrap_or_default()
        };
        let mut averages = tensors(&state.ema, EMA);
        averages.extend(tensors(&state.swa, SWA));
        let (weights, optimizer) = (state_dict(&state.network), state.optimizer.save());
        Checkpoint { manifest, weights, optimizer, averages }
    }

    /// The network with the weights of an average.
    pub fn network_of(&self, average: &Average) -> Network {
        average.network(&self.network, &self.autodiff_device)
    }
}
