//! Options become a checked [`Plan`]. Precedence: default < recipe < file < flag. Nothing in a plan
//! is out of its range.

use nn::config::{Architecture, NetworkConfig};
use nn::models::variants::Variant;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::augmentation::AugmentationPlan;
use crate::config::averaging::AveragingPlan;
use crate::config::checkpoints::CheckpointPlan;
use crate::config::datasets::DataPlan;
use crate::config::machine::MachinePlan;
use crate::config::model::{DEFAULT_MODEL, ModelPlan, variant};
use crate::config::optimizer::OptimizerPlan;
use crate::config::options::Options;
use crate::config::output::OutputPlan;
use crate::config::regularisation::RegularisationPlan;
use crate::config::schedule::SchedulePlan;
use crate::config::training::TrainingPlan;
use crate::distributed::launch;
use crate::error::Error;
use crate::optimizers::lr_schedule::Schedule;
use crate::optimizers::optimizer_kind::OptimizerConfig;
use transforms::augment::{Augment, ProgressiveResize};
use transforms::preprocess::Preprocess;

/// A run, resolved and checked. In `args.toml`, which `--config` reads back, and in the manifest of
/// a checkpoint it is one flat table.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the themes are documented in their files")]
pub struct Plan {
    pub data: DataPlan,
    pub network: ModelPlan,
    pub training: TrainingPlan,
    pub optimizer: OptimizerPlan,
    pub schedule: SchedulePlan,
    pub augmentation: AugmentationPlan,
    pub regularisation: RegularisationPlan,
    pub averaging: AveragingPlan,
    pub checkpoints: CheckpointPlan,
    pub logging: OutputPlan,
    pub machine: MachinePlan,
}

impl Options {
    /// Fills in the defaults and checks everything.
    ///
    /// # Errors
    /// An unknown model; the first value out of its range, by flag name, with the range.
    pub fn plan(&self) -> Result<Plan, Error> {
        let plan = self.resolve(false)?;
        plan.check()?;
        Ok(plan)
    }

    /// Fills in the defaults, of an `older` plan those of its time, and checks the ranges.
    fn resolve(&self, older: bool) -> Result<Plan, Error> {
        let variant = variant(self.network.model.as_deref().unwrap_or(DEFAULT_MODEL))?;
        let cores = launch::cores();

        let data = self.data.resolve(older, variant.architecture)?;
        let network = self.network.resolve(older, variant)?;
        let training = self.training.resolve(older)?;
        let step_images = training.batch_size.saturating_mul(training.grad_accum_steps);
        let epochs = training.epochs;
        let optimizer = self.optimizer.resolve(older, step_images)?;
        let schedule = self.schedule.resolve(older, epochs, optimizer.lr)?;
        let last_epoch = schedule.total_epochs(epochs).saturating_sub(1);
        Ok(Plan {
            augmentation: self.augmentation.resolve(older, epochs)?,
            regularisation: self.regularisation.resolve(older, variant.config(1).dropout)?,
            averaging: self.averaging.resolve(older, last_epoch)?,
            checkpoints: self.checkpoints.resolve(older)?,
            logging: self.logging.resolve(older)?,
            machine: self.machine.resolve(older, cores)?,
            data,
            network,
            training,
            optimizer,
            schedule,
        })
    }
}

impl Plan {
    /// Refuses what the options mean together, where it is impossible or has no effect.
    fn check(&self) -> Result<(), Error> {
        self.data.check(self.training.batch_size, self.augmentation.aug_repeats)?;
        self.network.check()?;
        self.augmentation.check()?;
        self.training.check()?;
        self.schedule.check()?;
        self.averaging.check()?;
        self.check_network()
    }

    /// Refuses a network that does not exist, and images that are too small for it.
    fn check_network(&self) -> Result<(), Error> {
        let network = self.network(1);
        network.validate().map_err(|why| Error::usage(format!("--model: {why}")))?;
        // Inception v3's auxiliary head has windows that need the map of a whole image.
        let aux = self.network.aux && network.architecture == Architecture::InceptionV3;
        let least = if aux { 299 } else { network.architecture.min_size() };
        let size = self.data.img_size;
        if size < least {
            return Err(Error::usage(format!(
                "--img-size: `{size}`: {} needs at least {least} pixels{}",
                self.network.model,
                if aux { " with its auxiliary head" } else { "" }
            )));
        }
        match self.augmentation.img_size_start {
            Some(start) if !(least..=size).contains(&start) => Err(Error::usage(format!(
                "--img-size-start: `{start}`: expected {least} to {size}"
            ))),
            _ => Ok(()),
        }
    }

    /// What a user may not expect, in words.
    pub fn notes(&self) -> Vec<String> {
        self.augmentation.notes()
    }

    /// Epochs of the run, its cool-down included (which plateau counts for itself).
    pub fn total_epochs(&self) -> u64 {
        self.schedule.total_epochs(self.training.epochs)
    }

    /// The rule by which images become tensors in evaluation.
    pub fn preprocess(&self) -> Preprocess {
        self.data.preprocess()
    }

    /// The variant that `model` names.
    pub fn variant(&self) -> &'static Variant {
        self.network.variant()
    }

    /// The network for so many classes.
    pub fn network(&self, classes: usize) -> NetworkConfig {
        NetworkConfig {
            half_maps: self.machine.amp,
            ..self.network.network(classes, self.regularisation.drop)
        }
    }

    /// Rule and constants of the optimizer.
    pub fn optimizer(&self) -> OptimizerConfig {
        self.optimizer.config()
    }

    /// The learning rate for epochs of so many optimizer steps.
    pub fn schedule(&self, steps_per_epoch: u64) -> Schedule {
        let TrainingPlan { epochs, seed, .. } = self.training;
        let schedule = self.schedule.in_steps(self.optimizer.lr, epochs, steps_per_epoch, seed);
        Schedule { swa: self.averaging.swa(steps_per_epoch), ..schedule }
    }

    /// The random part of the training images.
    pub fn augment(&self) -> Augment {
        let augmentation = &self.augmentation;
        Augment {
            scale: augmentation.scale,
            ratio: augmentation.ratio,
            hflip: augmentation.hflip,
            vflip: augmentation.vflip,
            filter: augmentation.train_interpolation,
            policy: augmentation.aa,
            jitter: augmentation.jitter(),
            erase: augmentation.erase(),
            mix: self.regularisation.mix(),
            repeats: augmentation.aug_repeats,
            growth: augmentation
                .img_size_start
                .zip(augmentation.progressive_epochs)
                .map(|(start, epochs)| ProgressiveResize { start, epochs }),
            no_augmentation: augmentation.no_aug,
            decode: self.data.decode,
        }
    }
}

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.data.write(&mut map)?;
        self.network.write(&mut map)?;
        self.training.write(&mut map)?;
        self.optimizer.write(&mut map)?;
        self.schedule.write(&mut map)?;
        self.augmentation.write(&mut map)?;
        self.regularisation.write(&mut map)?;
        self.averaging.write(&mut map)?;
        self.checkpoints.write(&mut map)?;
        self.logging.write(&mut map)?;
        self.machine.write(&mut map)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Plan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let options = Options::deserialize(deserializer)?;
        let plan = options.resolve(true).map_err(serde::de::Error::custom)?;
        // What options mean together may have been no fault when the plan was made.
        plan.data.preprocess().validate().map_err(serde::de::Error::custom)?;
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::options::Options;

    /// Mutations caught: a theme that is not written.
    #[test]
    fn a_resolved_plan_is_a_configuration_that_gives_the_same_plan() {
        let text = "width = 0.5\nimg_size = 64\nepochs = 7\nlr = 0.3\nmin_lr = 0.001\nhflip = 0.1\n\
                    drop = 0.1\nmodel_ema = true\ncheckpoint_hist = 3\nlog_interval = 4\nworkers = 5\n";
        let plan = Options::parse(text, "test").unwrap().plan().unwrap();
        let text = toml::to_string(&plan).unwrap();
        assert_eq!(Options::parse(&text, "test").unwrap().plan().unwrap(), plan);
        assert_eq!(toml::from_str::<crate::config::plan::Plan>(&text).unwrap(), plan);
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file = Options::parse("lr = 0.3\nepochs = 7\n", "file").unwrap();
        let flags = Options::parse("lr = 0.4\n", "flags").unwrap();
        let plan = flags.over(&file).plan().unwrap();
        let (lr, epochs, seed) = (plan.optimizer.lr, plan.training.epochs, plan.training.seed);
        assert_eq!((lr, epochs, seed), (0.4, 7, 42));
    }
}
