//! Mathematics of an update: optimizers, parameter groups, clipping, learning-rate schedules,
//! averages of weights. No input or output, and no data set.

pub mod buffer;
pub mod gradients;
pub mod lr_schedule;
pub mod optimizer;
pub mod optimizer_kind;
pub mod param_groups;
pub mod weight_average;
