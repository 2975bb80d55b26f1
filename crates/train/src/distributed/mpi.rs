//! MPI as the engine of a group of ranks: Open MPI, MPICH and their relatives, through ferrompi.
//!
//! A thread of its own watches the others. Collective operations of MPI wait for ever for a rank
//! that is stopped or behind a cut link, and MPI says nothing. Every rank therefore tells rank 0
//! several times within the timeout that it lives, and rank 0 tells every rank. Whoever misses a
//! sign of life ends its own process with a sentence, and the launcher ends the others.

use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferrompi::{Communicator as MpiGroup, Mpi, ReduceOp, Source, ThreadLevel};

use crate::distributed::bf16;
use crate::distributed::communicator::Communicator;
use crate::err;
use crate::error::{Error, ErrorKind};

/// Tag of a sign of life.
const LIFE: i32 = 1;

/// Values of one operation of MPI: its counts are 32-bit numbers.
const MOST_VALUES: usize = 1 << 28;

/// The ranks that MPI knows.
pub(super) struct MpiCommunicator {
    group: MpiGroup,
    watch: Mutex<Option<(Arc<AtomicBool>, JoinHandle<()>)>>,
    /// The group of the watching threads.
    signs: Arc<MpiGroup>,
}

thread_local! {
    /// MPI is left by [`Communicator::finish`] alone, on the thread that has joined it. To leave it
    /// is to wait for all others, which an error or a panic must not do: they wait for this rank.
    static MPI: std::cell::RefCell<Option<ManuallyDrop<Mpi>>> =
        const { std::cell::RefCell::new(None) };
}

fn fault(error: ferrompi::Error) -> Error {
    Error::communication(format!(
        "MPI: {error}; the last checkpoint is intact: start the job again with --resume"
    ))
}

impl MpiCommunicator {
    /// Joins the group and begins to watch it.
    ///
    /// # Errors
    /// [`ErrorKind::Communication`]: MPI fails, or is built without support for threads.
    pub(super) fn open(timeout: Duration) -> Result<Self, Error> {
        let mpi = Mpi::init_thread(ThreadLevel::Multiple).map_err(fault)?;
        let threads = mpi.thread_level() == ThreadLevel::Multiple;
        let group = mpi.world();
        MPI.set(Some(ManuallyDrop::new(mpi)));
        if !threads {
            return Err(Error::communication(
                "this MPI library is built without MPI_THREAD_MULTIPLE, by which ranks watch each \
                 other; use Open MPI 4 or MPICH 4",
            ));
        }
        let signs = Arc::new(group.duplicate().map_err(fault)?);
        let watch = Mutex::new(None);
        let own = Self { group, watch, signs };
        if own.world() > 1 {
            let stop = Arc::new(AtomicBool::new(false));
            let (signs, stopped) = (Arc::clone(&own.signs), Arc::clone(&stop));
            let thread = std::thread::spawn(move || watch_others(&signs, timeout, &stopped));
            *own.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some((stop, thread));
        }
        Ok(own)
    }
}

impl Communicator for MpiCommunicator {
    fn rank(&self) -> usize {
        self.group.rank() as usize
    }

    fn world(&self) -> usize {
        self.group.size() as usize
    }

    fn sum(&self, values: &mut [f32]) -> Result<(), Error> {
        let mut parts = values.chunks_mut(MOST_VALUES);
        parts.try_for_each(|part| self.group.allreduce_inplace(part, ReduceOp::Sum)).map_err(fault)
    }

    fn sum_bf16(&self, values: &mut [f32]) -> Result<(), Error> {
        let world = self.world();
        for values in values.chunks_mut(MOST_VALUES / 4) {
            let own = bf16::rounded(values, world);
            let mut parts = vec![0; own.len()];
            self.group.alltoall(&own, &mut parts).map_err(fault)?;
            let sums = bf16::sum_of(&parts, world);
            // As many bytes as were sent.
            let mut all = own;
            self.group.allgather(&sums, &mut all).map_err(fault)?;
            bf16::read(&all, values);
        }
        Ok(())
    }

    fn sum_f64(&self, values: &mut [f64]) -> Result<(), Error> {
        let mut parts = values.chunks_mut(MOST_VALUES);
        parts.try_for_each(|part| self.group.allreduce_inplace(part, ReduceOp::Sum)).map_err(fault)
    }

    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<(), Error> {
        let mut count = [bytes.len() as u64];
        self.group.broadcast(&mut count, 0).map_err(fault)?;
        bytes.resize(count[0] as usize, 0);
        let mut parts = bytes.chunks_mut(MOST_VALUES);
        parts.try_for_each(|part| self.group.broadcast(part, 0)).map_err(fault)
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let mut counts = vec![0_i32; self.world()];
        self.group.allgather(&[bytes.len() as i32], &mut counts).map_err(fault)?;
        let starts: Vec<i32> = counts
            .iter()
            .scan(0, |end, count| Some(std::mem::replace(end, *end + count)))
            .collect();
        let mut all = vec![0_u8; counts.iter().map(|count| *count as usize).sum()];
        self.group.allgatherv(bytes, &mut all, &counts, &starts).map_err(fault)?;
        let part = |(start, count): (&i32, &i32)| {
            all[*start as usize..(*start + *count) as usize].to_vec()
        };
        Ok(starts.iter().zip(&counts).map(part).collect())
    }

    fn finish(&self) -> Result<(), Error> {
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, thread)) = watch {
            // Nobody stops to send before all have stopped to listen.
            self.group.barrier().map_err(fault)?;
            stop.store(true, Ordering::Relaxed);
            thread.thread().unpark();
            let _ = thread.join();
        }
        self.group.barrier().map_err(fault)?;
        while hear(&self.signs)?.is_some() {}
        if let Some(mpi) = MPI.take() {
            drop(ManuallyDrop::into_inner(mpi));
        }
        Ok(())
    }
}

impl Drop for MpiCommunicator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            err!(
                "error: rank {} of {} panicked, and the job ends with it; the last checkpoint is \
                 intact; please report this as a bug",
                self.rank(),
                self.world()
            );
        }
    }
}

/// The sender of a sign of life that has come; none if there is none.
fn hear(signs: &MpiGroup) -> Result<Option<usize>, Error> {
    let Some(status) = signs.iprobe::<u8>(Source::Any, LIFE).map_err(fault)? else {
        return Ok(None);
    };
    let mut sign = [0_u8];
    signs.recv(&mut sign, status.source, LIFE).map_err(fault)?;
    match status.source {
        Source::Rank(rank) => Ok(Some(rank as usize)),
        _ => Ok(None),
    }
}

/// Sends signs of life and waits for those of the others: the work of the watching thread.
fn watch_others(signs: &MpiGroup, timeout: Duration, stop: &AtomicBool) {
    let (rank, world) = (signs.rank() as usize, signs.size() as usize);
    // Everybody watches rank 0, and rank 0 everybody.
    let others: Vec<usize> = if rank == 0 { (1..world).collect() } else { vec![0] };
    let mut heard = vec![Instant::now(); world];
    // Few enough signs that MPI buffers all that a stopped rank does not take.
    let pause = timeout / 10;
    let mut round = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        // A process that was stopped itself, or a laptop that slept, knows nothing of the others.
        if round.elapsed() > timeout / 2 {
            heard.fill(Instant::now());
        }
        round = Instant::now();
        for other in &others {
            if signs.send(&[1_u8], *other as i32, LIFE).is_err() {
                end(rank, world, &format!("rank {other} cannot be reached"));
            }
        }
        loop {
            match hear(signs) {
                Ok(Some(other)) => heard[other] = Instant::now(),
                Ok(None) => break,
                Err(error) => end(rank, world, &error.message),
            }
        }
        let silent = |other: &&usize| heard[**other].elapsed() + pause > timeout;
        if let Some(lost) = others.iter().find(silent) {
            let what = format!(
                "no sign of life from rank {lost} for {} s: it is stopped, or its host is lost",
                timeout.as_secs_f32()
            );
            end(rank, world, &what);
        }
        std::thread::park_timeout(pause);
    }
}

/// Ends the process, whatever its other threads wait for.
fn end(rank: usize, world: usize, what: &str) {
    err!(
        "error: rank {rank} of {world}: {what}; the job ends, and the last checkpoint is intact: \
         start it again with --resume"
    );
    signal_hook::low_level::exit(i32::from(ErrorKind::Communication.exit_code()));
}
