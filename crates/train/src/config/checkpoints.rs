//! Options of checkpoints: when they are written, how many stay.

use crate::config::theme::{finite, theme};

theme! {
    /// When checkpoints are written and how many stay.
    "Checkpoints": CheckpointOptions -> CheckpointPlan (given);

    /// Epoch checkpoints to keep beside the last and the best
    #[arg(long)]
    #[resumable]
    checkpoint_hist: usize = 2, in 0..=1_000_000_000;

    /// Optimizer steps between two checkpoints; 0 saves at the end of epochs only
    #[arg(long)]
    #[resumable]
    checkpoint_interval_steps: u64 = 0;

    /// Minutes between two checkpoints; 0 saves at the end of epochs only
    #[arg(long, value_parser = finite)]
    #[resumable]
    checkpoint_interval_minutes: f64 = 0.0, in 0.0..=1e5;
}
