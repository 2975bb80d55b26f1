//! What a piece of work asks of the device, counted: launches, bytes and the longest chain of
//! operations that wait for each other. A count needs no fast device, and no time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn_cubecl::cubecl::dry_run::DryRun;
use burn_cubecl::cubecl::logging::{
    Duration, LaunchObservation, LaunchObserver, TimingMethod, TimingRequest,
};

/// The work of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// How often it ran.
    pub calls: usize,
    /// Bytes that it reads at least: every operand once.
    pub read: usize,
    /// Bytes that it writes.
    pub written: usize,
    /// The most operations of one unit of the device that wait for each other.
    pub chain: usize,
}

/// The work that was counted.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// This crate's operations by name.
    pub operations: BTreeMap<&'static str, Work>,
    /// Launches of every kernel, Burn's own ones among them, by the name of the kernel's type.
    pub launches: BTreeMap<&'static str, usize>,
}

impl Traffic {
    /// All launches.
    pub fn launch_count(&self) -> usize {
        self.launches.values().sum()
    }

    /// Bytes that this crate's operations read and write.
    pub fn bytes(&self) -> usize {
        self.operations.values().map(|work| work.read + work.written).sum()
    }

    /// The longest chain of this crate's operations.
    pub fn longest_chain(&self) -> usize {
        self.operations.values().map(|work| work.chain).max().unwrap_or(0)
    }
}

/// The count in progress.
static COUNT: Mutex<Option<Traffic>> = Mutex::new(None);

fn with_count(change: impl FnOnce(&mut Traffic)) {
    let mut count = COUNT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(traffic) = count.as_mut() {
        change(traffic);
    }
}

struct Observer;

impl LaunchObserver for Observer {
    fn launched(&self, kernel: &'static str) {
        with_count(|traffic| *traffic.launches.entry(kernel).or_default() += 1);
    }
}

/// Records an operation: bytes read and written, and its longest chain.
pub(crate) fn record(operation: &'static str, [read, written]: [usize; 2], chain: usize) {
    with_count(|traffic| {
        let work = traffic.operations.entry(operation).or_default();
        work.calls += 1;
        work.read += read;
        work.written += written;
        work.chain = work.chain.max(chain);
    });
}

/// How long a kernel took.
#[derive(Clone, Copy, Debug)]
pub struct KernelTime {
    /// The name of the kernel's type.
    pub kernel: &'static str,
    /// From its start to its end on the device, or where the device has no clock from the launch to
    /// the answer.
    pub seconds: f64,
}

#[derive(Default)]
struct Watch(Mutex<Vec<KernelTime>>);

impl LaunchObserver for Watch {
    fn launched(&self, _: &'static str) {}

    fn timing(&self) -> TimingRequest {
        TimingRequest::Resolved
    }

    fn timed(&self, kernel: &'static str, duration: Duration, _: TimingMethod) {
        let time = KernelTime { kernel, seconds: duration.as_secs_f64() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(time);
    }
}

/// The time of every kernel that `work` launches, in order. They run one at a time.
pub fn time(work: impl FnOnce()) -> Vec<KernelTime> {
    let watch = Arc::new(Watch::default());
    {
        let _observation = LaunchObservation::new(Arc::<Watch>::clone(&watch));
        work();
    }
    std::mem::take(&mut watch.0.lock().unwrap_or_else(PoisonError::into_inner))
}

/// What `work` asks of the device. No kernel runs: values that are read back are meaningless.
pub fn count(work: impl FnOnce()) -> Traffic {
    *COUNT.lock().unwrap_or_else(PoisonError::into_inner) = Some(Traffic::default());
    {
        let _observation = LaunchObservation::new(Arc::new(Observer));
        let _nothing_runs = DryRun::new();
        work();
    }
    COUNT.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
}
