//! Mathematics of an update: optimizers, parameter groups, learning-rate schedules, averages of
//! weights. No input or output.

pub mod buffer;
pub mod gradients;
pub mod lr_schedule;
pub mod optimizer;
pub mod param_groups;
pub mod weight_average;
