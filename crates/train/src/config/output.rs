//! Options of what a run writes: its folder and its console lines.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::config::theme::theme;

/// The folder of run folders, if none is named.
pub const DEFAULT_OUTPUT: &str = "checkpoints";

/// The form of the console lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, no bar.
    Json,
    /// timm's lines
    Timm,
}

theme! {
    /// The run folder and the console.
    "Output": OutputOptions -> OutputPlan (given);

    /// Folder for the run folders
    #[arg(long, visible_alias = "output-dir", value_name = "DIR")]
    #[brief]
    output: PathBuf = DEFAULT_OUTPUT.into(), shown "checkpoints";

    /// Name of the run folder
    #[arg(long, visible_alias = "name", value_name = "NAME")]
    experiment: String => Option<String>, shown "date-time-model-size";

    /// Format of the console lines
    #[arg(long, value_enum)]
    #[resumable]
    log_format: LogFormat = LogFormat::Text;

    /// Batches between two console lines
    #[arg(long, visible_alias = "print-freq")]
    #[resumable]
    log_interval: usize = 50, in 1..;

    /// Write TensorBoard's event files into the run folder
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    #[resumable]
    tensorboard: bool = false;
}
