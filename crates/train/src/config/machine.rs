//! Options of the machine: where the network runs, how many threads prepare its images, how
//! gradients travel between processes.

use crate::config::theme::theme;
use crate::device::Backend;
use crate::distributed::communicator::CommDtype;

theme! {
    /// The device, the threads and the wire.
    "Machine": MachineOptions -> MachinePlan (given, cores: usize);

    /// Backend; `list` prints those of this machine
    #[arg(long, value_enum, value_name = "NAME")]
    #[brief]
    #[resumable]
    backend: Backend = Backend::Auto;

    /// Train with 16-bit maps on a GPU, with a loss scale; weights, statistics and sums keep 32 bits
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    #[resumable]
    amp: bool = false;

    /// Threads that read and prepare images
    #[arg(short = 'j', long)]
    #[resumable]
    workers: usize = cores.min(8), shown "one per core, at most 8", in 1..=1024;

    /// Type in which gradients travel between ranks; their sums are f32
    #[arg(long, value_enum)]
    #[resumable]
    comm_dtype: CommDtype = CommDtype::F32;
}
