//! A running statistic of batch norm: a tensor that forward passes replace.
//!
//! Burn's `RunningState` keeps the updates of every thread apart, delays them by one step and
//! divides their sum by their number: one launch for every statistic of every step. Here one thread
//! trains a network, and an update counts at once.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::module::{
    Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param,
    ParamId,
};
use burn::tensor::{Device, Tensor};

/// A statistic `[channels]`. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct RunningStatistic {
    id: ParamId,
    value: Arc<Mutex<Tensor<1>>>,
}

impl RunningStatistic {
    /// A statistic that begins as `value`.
    pub(crate) fn new(value: Tensor<1>) -> Self {
        Self::with_id(ParamId::new(), value)
    }

    fn with_id(id: ParamId, value: Tensor<1>) -> Self {
        Self { id, value: Arc::new(Mutex::new(value)) }
    }

    fn lock(&self) -> MutexGuard<'_, Tensor<1>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The statistic.
    pub(crate) fn value(&self) -> Tensor<1> {
        self.lock().clone()
    }

    /// Replaces the statistic, in all clones.
    pub(crate) fn set(&self, value: Tensor<1>) {
        *self.lock() = value;
    }
}

impl Module for RunningStatistic {
    fn collect_devices(&self, mut devices: Vec<Device>) -> Vec<Device> {
        let device = self.lock().device();
        if !devices.contains(&device) {
            devices.push(device);
        }
        devices
    }

    fn fork(self, device: &Device) -> Self {
        self.to_device(device)
    }

    fn to_device(self, device: &Device) -> Self {
        self.set(self.value().to_device(device));
        self
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.visit_float(&Param::initialized(self.id, self.value()));
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let mapped = mapper.map_float(Param::initialized(self.id, self.value()));
        let (_, value, _) = mapped.consume();
        // No mapper makes a statistic a trained parameter.
        self.set(value.set_require_grad(false));
        self
    }

    fn materialize(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        Self::with_id(self.id, self.value().without_autodiff())
    }

    fn train(self) -> Self {
        Self::with_id(self.id, Tensor::from_inner(self.value()))
    }
}

impl fmt::Display for RunningStatistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunningStatistic(id={})", self.id)
    }
}

impl ModuleDisplayDefault for RunningStatistic {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_formatted(&"RunningStatistic".to_owned()).optional()
    }
}

impl ModuleDisplay for RunningStatistic {}
