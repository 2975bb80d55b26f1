//! How this process was started: the ranks that a launcher (`mpirun`, `srun`) has announced, and
//! the cores that are left for this one.

use std::time::Duration;

use crate::distributed::communicator::{Alone, Communicator};
use crate::error::Error;

/// Variables that hold the number of ranks, for Open MPI, MPICH and its relatives, and `srun`.
/// `SLURM_NTASKS` is none of them: a batch script has it too, whose commands are single processes.
const WORLD: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];
/// Variables that hold the number of this rank.
const RANK: [&str; 3] = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"];
/// Variables that hold the number of this rank among those on its host.
const LOCAL_RANK: [&str; 3] = ["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"];
/// Variables that hold the number of ranks on this host. Slurm writes `4(x2),3`: of the first host.
const LOCAL_SIZE: [&str; 3] =
    ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_TASKS_PER_NODE"];

/// The first number in the first of the variables that is set, and the name of the variable.
fn number(variables: [&'static str; 3]) -> Option<(usize, &'static str)> {
    variables.into_iter().find_map(|name| {
        let text = std::env::var(name).ok()?;
        let digits = text.split(|c: char| !c.is_ascii_digit()).next()?;
        Some((digits.parse().ok()?, name))
    })
}

/// The number of ranks that the launcher has announced; 1 without a launcher.
pub fn announced_ranks() -> usize {
    number(WORLD).map_or(1, |(ranks, _)| ranks)
}

/// The number of this process among the ranks of the launcher; 0 without a launcher.
pub fn announced_rank() -> usize {
    if announced_ranks() > 1 { number(RANK).map_or(0, |(rank, _)| rank) } else { 0 }
}

/// The number of this process among the ranks on its host; none without a launcher.
pub fn local_rank() -> Option<usize> {
    (announced_ranks() > 1).then(|| number(LOCAL_RANK).map_or(0, |(rank, _)| rank))
}

/// `rank 1 of 4: ` in front of an error of one of several ranks; empty without a launcher.
pub fn prefix() -> String {
    match announced_ranks() {
        0 | 1 => String::new(),
        ranks => format!("rank {} of {ranks}: ", announced_rank()),
    }
}

/// Joins the ranks that the launcher has started. A rank without a sign of life for `timeout` ends
/// the process, and with it the job.
///
/// # Errors
/// [`crate::error::ErrorKind::Usage`]: the launcher started several ranks, and they do not find
/// each other.
pub fn open(timeout: Duration) -> Result<Box<dyn Communicator>, Error> {
    match number(WORLD) {
        Some((ranks, variable)) if ranks > 1 => join(ranks, variable, timeout),
        _ => Ok(Box::new(Alone)),
    }
}

#[cfg(feature = "mpi")]
fn join(ranks: usize, variable: &str, timeout: Duration) -> Result<Box<dyn Communicator>, Error> {
    let group = crate::distributed::mpi::MpiCommunicator::open(timeout)?;
    match group.world() {
        found if found == ranks => Ok(Box::new(group)),
        found => Err(Error::usage(format!(
            "the launcher started {ranks} processes ({variable}), but MPI sees {found}: each \
             would train alone; start them with `mpirun`, or with `srun --mpi=pmix`"
        ))),
    }
}

#[cfg(not(feature = "mpi"))]
fn join(ranks: usize, variable: &str, _timeout: Duration) -> Result<Box<dyn Communicator>, Error> {
    Err(Error::usage(format!(
        "the launcher started {ranks} processes ({variable}), but this kindling is built without \
         MPI: each would train alone; build it with `--features mpi`, or start one process"
    )))
}

/// Refuses several ranks for a command that runs in one process.
///
/// # Errors
/// [`crate::error::ErrorKind::Usage`].
pub fn refuse_ranks(command: &str) -> Result<(), Error> {
    match announced_ranks() {
        0 | 1 => Ok(()),
        ranks => Err(Error::usage(format!(
            "{command} runs in one process, and the launcher started {ranks}; start it without \
             the launcher"
        ))),
    }
}

/// The cores of this process: its part of those that the ranks on this host share.
///
/// A launcher that binds its processes leaves each of them its own cores. One that does not leaves
/// all cores to all of them, and as many threads each would wait for each other.
pub fn cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let (Some((local, _)), true) = (number(LOCAL_SIZE), announced_ranks() > 1) else {
        return allowed;
    };
    let own = cpus_of("self");
    let launcher = parent().and_then(|parent| cpus_of(&parent));
    share_of(allowed, own, launcher, local)
}

/// The cores of one of `local` ranks that may use `allowed` cores. `own` and `launcher` are the
/// processors that this process and its launcher are bound to, where the system says.
fn share_of(allowed: usize, own: Option<usize>, launcher: Option<usize>, local: usize) -> usize {
    let bound = own.zip(launcher).is_some_and(|(own, launcher)| own < launcher);
    let all = if bound { launcher.unwrap_or(allowed) } else { allowed };
    allowed.min(all / local.max(1)).max(1)
}

/// The number of processors that a process may run on.
fn cpus_of(process: &str) -> Option<usize> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let range = |part: &str| -> Option<usize> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(last.trim().parse::<usize>().ok()? + 1 - first.trim().parse::<usize>().ok()?)
    };
    list.trim().split(',').map(range).sum()
}

fn parent() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")).map(|id| id.trim().to_owned())
}

/// What a test lets this rank do: `KINDLING_TEST_RANK=1:drift@3` is rank 1 in step 3.
pub(crate) fn injected(what: &str, step: u64) -> bool {
    std::env::var("KINDLING_TEST_RANK")
        .is_ok_and(|wish| wish == format!("{}:{what}@{step}", announced_rank()))
}

#[cfg(test)]
mod tests {
    use super::share_of;

    /// Mutations caught: the cores of a bound process divided again; all cores for
    /// every rank of an unbound one.
    #[test]
    fn ranks_on_one_host_share_its_cores() {
        // Not bound: 2 ranks on 8 cores.
        assert_eq!(share_of(8, Some(8), Some(8), 2), 4);
        // Bound to one core each, and two to a socket of 16.
        assert_eq!(share_of(1, Some(1), Some(8), 2), 1);
        assert_eq!(share_of(16, Some(16), Some(32), 4), 8);
        // A container's quota of 8 on a host of 64; more ranks than cores; nothing known.
        assert_eq!(share_of(8, Some(64), Some(64), 2), 4);
        assert_eq!(share_of(2, Some(2), Some(2), 3), 1);
        assert_eq!(share_of(8, None, None, 2), 4);
    }
}
