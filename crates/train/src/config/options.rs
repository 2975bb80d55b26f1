//! Every option of a run as typed: a flag, or a key of a TOML file with `_` for `-`. The options
//! stand in the files of their themes; here the themes become one flat list.

use std::fmt;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::Args;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use crate::config::augmentation::AugmentationOptions;
use crate::config::averaging::AveragingOptions;
use crate::config::checkpoints::CheckpointOptions;
use crate::config::datasets::DataOptions;
use crate::config::machine::MachineOptions;
use crate::config::model::ModelOptions;
use crate::config::optimizer::OptimizerOptions;
use crate::config::output::OutputOptions;
use crate::config::regularisation::RegularisationOptions;
use crate::config::schedule::ScheduleOptions;
use crate::config::training::TrainingOptions;

/// Every option of a run; `None` is an option that was not given.
#[derive(Args, Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "the themes are documented in their files")]
pub struct Options {
    /// Folder of the data set, as a flag
    #[arg(
        long = "data-dir",
        visible_aliases = ["data-path", "data"],
        value_name = "DIR",
        help_heading = "Data",
        hide_short_help = true,
        help = "Folder of the data set, in place of DIR [default: DIR]"
    )]
    pub data_dir_flag: Option<PathBuf>,
    /// The same as `--exif false`
    #[arg(
        long = "no-exif",
        conflicts_with = "exif",
        help_heading = "Data",
        hide_short_help = true,
        help = "Leave images as they are stored, as torchvision does [default: turned by --exif]"
    )]
    pub no_exif_flag: bool,
    #[command(flatten)]
    pub data: DataOptions,
    #[command(flatten)]
    pub network: ModelOptions,
    #[command(flatten)]
    pub training: TrainingOptions,
    #[command(flatten)]
    pub optimizer: OptimizerOptions,
    #[command(flatten)]
    pub schedule: ScheduleOptions,
    #[command(flatten)]
    pub augmentation: AugmentationOptions,
    #[command(flatten)]
    pub regularisation: RegularisationOptions,
    #[command(flatten)]
    pub averaging: AveragingOptions,
    #[command(flatten)]
    pub checkpoints: CheckpointOptions,
    #[command(flatten)]
    pub logging: OutputOptions,
    #[command(flatten)]
    pub machine: MachineOptions,
}

/// The keys of a file, theme by theme.
static KEYS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    [
        DataOptions::KEYS,
        ModelOptions::KEYS,
        TrainingOptions::KEYS,
        OptimizerOptions::KEYS,
        ScheduleOptions::KEYS,
        AugmentationOptions::KEYS,
        RegularisationOptions::KEYS,
        AveragingOptions::KEYS,
        CheckpointOptions::KEYS,
        OutputOptions::KEYS,
        MachineOptions::KEYS,
    ]
    .concat()
});

/// The keys that a resumed run may change.
static RESUMABLE: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    DataOptions::resumable()
        .chain(ModelOptions::resumable())
        .chain(TrainingOptions::resumable())
        .chain(OptimizerOptions::resumable())
        .chain(ScheduleOptions::resumable())
        .chain(AugmentationOptions::resumable())
        .chain(RegularisationOptions::resumable())
        .chain(AveragingOptions::resumable())
        .chain(CheckpointOptions::resumable())
        .chain(OutputOptions::resumable())
        .chain(MachineOptions::resumable())
        .collect()
});

impl Options {
    /// These options over `under`: what is given here wins.
    #[must_use]
    pub fn over(&self, under: &Options) -> Options {
        let mut data = self.data.clone();
        data.data_dir = data.data_dir.or_else(|| self.data_dir_flag.clone());
        if self.no_exif_flag {
            data.exif = Some(false);
        }
        Options {
            data_dir_flag: None,
            no_exif_flag: false,
            data: data.over(&under.data),
            network: self.network.over(&under.network),
            training: self.training.over(&under.training),
            optimizer: self.optimizer.over(&under.optimizer),
            schedule: self.schedule.over(&under.schedule),
            augmentation: self.augmentation.over(&under.augmentation),
            regularisation: self.regularisation.over(&under.regularisation),
            averaging: self.averaging.over(&under.averaging),
            checkpoints: self.checkpoints.over(&under.checkpoints),
            logging: self.logging.over(&under.logging),
            machine: self.machine.over(&under.machine),
        }
    }

    /// Refuses paths that the files of a run, which are UTF-8, could not hold.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Usage`]: the first such option.
    pub fn utf8(&self) -> Result<(), crate::error::Error> {
        self.data.utf8()?;
        self.network.utf8()?;
        self.training.utf8()?;
        self.optimizer.utf8()?;
        self.schedule.utf8()?;
        self.augmentation.utf8()?;
        self.regularisation.utf8()?;
        self.averaging.utf8()?;
        self.checkpoints.utf8()?;
        self.logging.utf8()?;
        self.machine.utf8()
    }

    /// The names and values given, for messages.
    pub fn given(&self) -> serde_json::Map<String, serde_json::Value> {
        let own = self.over(&Options::default());
        let mut map = serde_json::Map::new();
        own.data.list(&mut map);
        own.network.list(&mut map);
        own.training.list(&mut map);
        own.optimizer.list(&mut map);
        own.schedule.list(&mut map);
        own.augmentation.list(&mut map);
        own.regularisation.list(&mut map);
        own.averaging.list(&mut map);
        own.checkpoints.list(&mut map);
        own.logging.list(&mut map);
        own.machine.list(&mut map);
        map
    }

    /// Whether a resumed run may change an option, by its key. All others are part of what was
    /// computed so far.
    pub fn is_resumable(key: &str) -> bool {
        RESUMABLE.contains(&key)
    }

    /// Reads the value of a known key.
    fn read_value<'de, M: MapAccess<'de>>(
        &mut self,
        key: &str,
        map: &mut M,
    ) -> Result<(), M::Error> {
        let known = self.data.read(key, map)?
            || self.network.read(key, map)?
            || self.training.read(key, map)?
            || self.optimizer.read(key, map)?
            || self.schedule.read(key, map)?
            || self.augmentation.read(key, map)?
            || self.regularisation.read(key, map)?
            || self.averaging.read(key, map)?
            || self.checkpoints.read(key, map)?
            || self.logging.read(key, map)?
            || self.machine.read(key, map)?;
        debug_assert!(known, "`{key}` is in KEYS");
        Ok(())
    }
}

/// A key that some theme has. serde's `flatten` neither refuses unknown keys nor keeps the line of
/// a fault, so keys are read by hand.
struct OptionKey(String);

impl<'de> Deserialize<'de> for OptionKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl Visitor<'_> for KeyVisitor {
            type Value = OptionKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an option")
            }

            fn visit_str<E: de::Error>(self, key: &str) -> Result<OptionKey, E> {
                match KEYS.contains(&key) {
                    true => Ok(OptionKey(key.to_owned())),
                    false => Err(E::unknown_field(key, KEYS.as_slice())),
                }
            }
        }

        deserializer.deserialize_identifier(KeyVisitor)
    }
}

impl<'de> Deserialize<'de> for Options {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OptionsVisitor;

        impl<'de> Visitor<'de> for OptionsVisitor {
            type Value = Options;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of options")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Options, M::Error> {
                let mut options = Options::default();
                while let Some(OptionKey(key)) = map.next_key()? {
                    options.read_value(&key, &mut map)?;
                }
                Ok(options)
            }
        }

        deserializer.deserialize_map(OptionsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{CommandFactory, Parser};

    use super::{KEYS, Options, RESUMABLE};

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        options: Options,
    }

    /// Mutations caught: a theme missing in `KEYS`.
    #[test]
    fn every_flag_is_a_key_and_every_key_a_flag() {
        let command = Flags::command();
        let flags: BTreeSet<&str> = command
            .get_arguments()
            .map(|arg| arg.get_id().as_str())
            .filter(|id| !["help", "data_dir_flag", "no_exif_flag"].contains(id))
            .collect();
        assert_eq!(flags, KEYS.iter().copied().collect());
        assert_eq!(flags.len(), KEYS.len(), "a key twice");
        assert_eq!(RESUMABLE.len(), 20);
    }

    /// Mutations caught: a default that is an expression and has no words, a heading left out.
    #[test]
    fn every_option_tells_its_default_under_a_heading() {
        for arg in Flags::command().get_arguments().filter(|arg| arg.get_id() != "help") {
            let (id, help) = (arg.get_id(), arg.get_help().unwrap().to_string());
            let default = help.split("[default: ").nth(1).unwrap_or_else(|| panic!("{id}: {help}"));
            let default = default.split(']').next().unwrap();
            let is_code = default.contains(['{', '(', '=']) || default.contains("::");
            assert!(!is_code, "{id}: {help}");
            assert!(arg.get_help_heading().is_some() || id == "data_dir", "{id}: no heading");
        }
    }

    /// Mutations caught: a theme missing in `read_value`, `over` or `given`.
    #[test]
    fn a_key_of_every_theme_is_read_merged_and_listed() {
        let text = "img_size = 64\nwidth = 0.5\nepochs = 2\nlr = 0.1\nmin_lr = 0.01\nhflip = 0.1\n\
                    drop = 0.2\nswa_lr = 0.3\ncheckpoint_hist = 3\nlog_interval = 4\nworkers = 5\n";
        let options = Options::parse(text, "test").unwrap();
        let table: toml::Table = text.parse().unwrap();
        for merged in [options.over(&Options::default()), Options::default().over(&options)] {
            assert_eq!(merged, options);
            assert_eq!(merged.given().keys().collect::<Vec<_>>(), table.keys().collect::<Vec<_>>());
        }
    }
}
