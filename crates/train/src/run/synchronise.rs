//! What the ranks of a run do together: they begin with the same state, add up their gradients, and
//! stop and save at the same step. For one process each of these is the identity.

use std::path::Path;
use std::sync::Arc;

use burn::module::{Module as _, ModuleVisitor, Param};
use burn::tensor::Tensor;
use nn::block::sync_batch_norm::NormGroup;
use nn::network::Network;
use serde::{Deserialize, Serialize};

use crate::config::plan::Plan;
use crate::datasets::loader::Loader;
use crate::distributed::communicator::{CommDtype, Communicator};
use crate::distributed::launch::injected;
use crate::error::Error;
use crate::learner::bn_statistics;
use crate::optimizers::buffer;
use crate::optimizers::gradients::Gradients;
use crate::run::checkpoint::Checkpoint;
use crate::run::state::{RunContext, TrainState};

/// Steps between two comparisons of the ranks' weights.
const CHECK_STEPS: u64 = 100;

/// The loss of a batch, a mean over its images, and their number; no images for a batch of which
/// none could be read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct BatchLoss {
    pub(super) loss: f64,
    pub(super) images: u64,
}

impl BatchLoss {
    /// Whether the batch has images, and a loss that is not finite.
    pub(super) fn is_non_finite(&self) -> bool {
        self.images > 0 && !self.loss.is_finite()
    }
}

/// The batches of a step on all ranks.
pub(super) struct StepBatches {
    /// Each batch with the images of all ranks.
    pub(super) batches: Vec<BatchLoss>,
    /// The part of the step's images that this rank has, 0 to 1.
    share: f64,
}

/// Adds up the batches of a step over the ranks.
///
/// # Errors
/// [`crate::error::ErrorKind::Communication`].
pub(super) fn add_batches(
    communicator: &dyn Communicator,
    own: &[BatchLoss],
) -> Result<StepBatches, Error> {
    if communicator.world() == 1 {
        return Ok(StepBatches { batches: own.to_vec(), share: 1.0 });
    }
    let images = |batches: &[BatchLoss]| batches.iter().map(|batch| batch.images).sum::<u64>();
    let sums = own.iter().flat_map(|batch| {
        let sum = if batch.images > 0 { batch.loss * batch.images as f64 } else { 0.0 };
        [sum, batch.images as f64]
    });
    let mut sums: Vec<f64> = sums.collect();
    communicator.sum_f64(&mut sums)?;
    let batch = |pair: &[f64]| BatchLoss { loss: pair[0] / pair[1], images: pair[1] as u64 };
    let batches: Vec<BatchLoss> = sums.chunks_exact(2).map(batch).collect();
    let share = images(own) as f64 / images(&batches).max(1) as f64;
    Ok(StepBatches { batches, share })
}

/// The images of a batch on all ranks, where they share the statistics of batch norm; `own` of them
/// are this rank's.
///
/// # Errors
/// [`crate::error::ErrorKind::Data`]: a rank has none, and no forward pass either, for which the
/// others would wait. [`crate::error::ErrorKind::Communication`].
pub(super) fn shared_images(
    group: Option<&NormGroup>,
    communicator: &dyn Communicator,
    own: usize,
) -> Result<Option<u64>, Error> {
    if group.is_none() {
        return Ok(None);
    }
    let images = communicator.gather_values(own as u64)?;
    match images.iter().position(|images| *images == 0) {
        None => Ok(Some(images.iter().sum())),
        Some(rank) => Err(Error::data(format!(
            "--sync-bn: rank {rank} could read no image of its share of a batch; repair them \
             (`kindling data check` names them), or omit the flag"
        ))),
    }
}

/// The group whose ranks share the statistics of batch norm: with --sync-bn all of several, and
/// otherwise none.
pub(super) fn norm_group(sync_bn: bool, communicator: &Arc<dyn Communicator>) -> Option<NormGroup> {
    let (communicator, world) = (Arc::clone(communicator), communicator.world());
    let add = move |values: &mut [f64]| {
        // A lost rank ends the process in any case.
        communicator.sum_f64(values).expect("MPI adds up statistics");
    };
    (sync_bn && world > 1).then(|| NormGroup::new(add))
}

/// What a user may not expect of the ranks, in words.
///
/// # Errors
/// [`crate::error::ErrorKind::Communication`].
pub(super) fn notes(
    plan: &Plan,
    backend: &str,
    communicator: &dyn Communicator,
) -> Result<Vec<String>, Error> {
    if communicator.world() == 1 {
        let idle = plan.machine.comm_dtype == CommDtype::Bf16;
        let note = "--comm-dtype bf16: one process sends no gradients, and keeps their every bit";
        return Ok(idle.then(|| note.to_owned()).into_iter().collect());
    }
    // Ranks on a host take its graphics adapters in turn.
    let backends = communicator.gather_values(backend.to_owned())?;
    let of_rank = |(rank, name): (usize, String)| format!("rank {rank}: {name}");
    let listed = backends.iter().any(|name| name.contains("adapter"));
    Ok(backends.into_iter().enumerate().filter(|_| listed).map(of_rank).collect())
}

/// Which shards each rank reads, where these are dealt to canonical nodes.
///
/// # Errors
/// [`crate::error::ErrorKind::Communication`].
pub(super) fn shard_notes(
    plan: &Plan,
    loader: &Loader,
    communicator: &dyn Communicator,
) -> Result<Vec<String>, Error> {
    let (nodes, world) = (plan.data.canonical_nodes, communicator.world());
    if nodes == 1 || world == 1 {
        return Ok(Vec::new());
    }
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let own: Vec<String> = loader.shard_files().into_iter().map(name).collect();
    let said = |(rank, files): (usize, Vec<String>)| {
        let (first, last) = (files.first().cloned(), files.last().cloned());
        let range = [first.unwrap_or_default(), last.unwrap_or_default()].join(" to ");
        format!("note: rank {rank} reads {range}, {} files", files.len())
    };
    let mut notes: Vec<String> =
        communicator.gather_values(own)?.into_iter().enumerate().map(said).collect();
    if !nodes.is_multiple_of(world) {
        notes.push(format!(
            "note: {nodes} canonical nodes on {world} ranks: some shards are read by two ranks; \
             start a number of ranks that divides {nodes}"
        ));
    }
    Ok(notes)
}

/// How gradients are added up.
#[derive(Clone, Copy)]
pub(super) struct GradientSum {
    /// Whether they are summands already, of losses divided by the images of all ranks.
    pub(super) summands: bool,
    /// The type in which they travel.
    pub(super) dtype: CommDtype,
}

/// Replaces gradients and running statistics by their means over the images of all ranks.
///
/// One flat list of values travels: 170 small ones would each pay the latency. The statistics of
/// batch norm are a hundredth of it, and so the replicas are equal after every step, in everything
/// that an evaluation or a checkpoint has. They are f32 whatever the gradients are: they add up from
/// step to step, and a mean with 8 bits would stay where it is.
///
/// # Errors
/// [`crate::error::ErrorKind::Communication`].
pub(super) fn average(
    communicator: &dyn Communicator,
    network: Network,
    gradients: Gradients,
    step: &StepBatches,
    sum: GradientSum,
) -> Result<(Network, Gradients), Error> {
    if communicator.world() == 1 {
        return Ok((network, gradients));
    }
    let mut flat = gradients.flat(&network);
    let statistics = flat.len();
    flat.extend(bn_statistics::flat(&network));
    let share = step.share as f32;
    let of_gradients = if sum.summands { 1.0 } else { share };
    let (own, of_batches) = flat.split_at_mut(statistics);
    buffer::parts(own, |part| part.iter_mut().for_each(|value| *value *= of_gradients));
    of_batches.iter_mut().for_each(|value| *value *= share);
    match sum.dtype {
        CommDtype::F32 => communicator.sum(&mut flat)?,
        CommDtype::Bf16 => {
            communicator.sum_bf16(own)?;
            communicator.sum(of_batches)?;
        }
    }
    let gradients = Gradients::of_flat(&network, &flat);
    Ok((bn_statistics::with_flat(network, &flat[statistics..]), gradients))
}

/// The network with the mean of the ranks' running statistics.
///
/// # Errors
/// [`crate::error::ErrorKind::Communication`].
pub(super) fn average_statistics(
    communicator: &dyn Communicator,
    network: Network,
) -> Result<Network, Error> {
    if communicator.world() == 1 {
        return Ok(network);
    }
    let mut flat = bn_statistics::flat(&network);
    communicator.sum(&mut flat)?;
    let share = 1.0 / communicator.world() as f32;
    flat.iter_mut().for_each(|value| *value *= share);
    Ok(bn_statistics::with_flat(network, &flat))
}

/// The state of rank 0 on every rank. It travels as a checkpoint, so that what a resumed run knows
/// is what a rank knows; other ranks give no state.
///
/// # Errors
/// [`crate::error::ErrorKind::Data`]: the training images of this rank are others than those of
/// rank 0. [`crate::error::ErrorKind::Communication`].
pub(super) fn replicate(
    context: &RunContext,
    communicator: &dyn Communicator,
    state: Option<TrainState>,
) -> Result<TrainState, Error> {
    let mut bytes = match (&state, communicator.world()) {
        (Some(state), 2..) => context.checkpoint_of(state).to_bytes(),
        _ => Vec::new(),
    };
    communicator.broadcast(&mut bytes)?;
    if let Some(state) = state {
        return Ok(state);
    }
    let fault = |why| Error::communication(format!("the state of rank 0: {why}"));
    context.resume(Checkpoint::from_bytes(&bytes).map_err(fault)?, false)
}

/// The state of a checkpoint of the run folder, which rank 0 reads.
///
/// # Errors
/// As [`Checkpoint::read`] and [`RunContext::resume`].
pub(super) fn restore(
    context: &RunContext,
    communicator: &dyn Communicator,
    path: &Path,
) -> Result<TrainState, Error> {
    let state = match communicator.is_root() {
        true => Some(context.resume(Checkpoint::read(path)?, false)?),
        false => None,
    };
    replicate(context, communicator, state)
}

/// Between two steps: what one of the ranks wants.
#[derive(Serialize, Deserialize)]
struct Wish {
    /// Exit code of a run that has to stop; 0 for one that goes on.
    stop: u8,
    save: bool,
    /// Images that could not be read, each with the reason, since the last time.
    skipped: Vec<String>,
}

/// What all ranks do between two steps.
pub(super) struct Agreed {
    /// The exit code, if the run stops.
    pub(super) stop: Option<u8>,
    /// Whether a checkpoint is due.
    pub(super) save: bool,
    /// What other ranks could not read.
    pub(super) skipped: Vec<String>,
}

/// Agrees on what follows a step: one rank that got a signal stops them all.
///
/// # Errors
/// [`crate::error::ErrorKind::Communication`].
pub(super) fn agree(
    communicator: &dyn Communicator,
    stop: Option<u8>,
    save: bool,
    skipped: Vec<String>,
) -> Result<Agreed, Error> {
    let wishes = communicator.gather_values(Wish { stop: stop.unwrap_or(0), save, skipped })?;
    let stop = wishes.iter().map(|wish| wish.stop).max().filter(|code| *code > 0);
    let save = wishes.iter().any(|wish| wish.save);
    let others = wishes.into_iter().enumerate().filter(|(rank, _)| *rank != communicator.rank());
    let skipped = others.flat_map(|(_, wish)| wish.skipped).collect();
    Ok(Agreed { stop, save, skipped })
}

/// Compares the weights and running statistics of the ranks, every [`CHECK_STEPS`] steps.
///
/// # Errors
/// [`crate::error::ErrorKind::Communication`]: a rank has others than rank 0.
pub(super) fn check_replicas(
    communicator: &dyn Communicator,
    network: &Network,
    step: u64,
) -> Result<(), Error> {
    let due = step.is_multiple_of(CHECK_STEPS) || step == 1;
    if communicator.world() == 1 || !due {
        return Ok(());
    }
    let mut own = hash(network);
    if injected("drift", step) {
        own ^= 1;
    }
    let all = communicator.gather_values(own)?;
    match all.iter().position(|other| *other != all[0]) {
        None => Ok(()),
        Some(other) => Err(Error::communication(format!(
            "step {step}: the weights of rank {other} are others than those of rank 0; the last \
             checkpoint is of an earlier step: start the job again with --resume, and with the \
             same kindling and the same kind of processor on every host"
        ))),
    }
}

/// A hash of every weight and running statistic.
fn hash(network: &Network) -> u32 {
    struct Hash(crc32fast::Hasher);
    impl ModuleVisitor for Hash {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let values = buffer::read(param.val().without_autodiff());
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            self.0.update(&bytes);
        }
    }
    let mut hash = Hash(crc32fast::Hasher::new());
    network.valid().visit(&mut hash);
    hash.0.finalize()
}

#[cfg(test)]
mod tests {
    use super::{BatchLoss, add_batches, agree};
    use crate::distributed::communicator::{Alone, Communicator};
    use crate::error::Error;

    /// Rank 1 of 2, whose other rank always has the values of `other`.
    struct Pair {
        other: Vec<f64>,
    }

    impl Communicator for Pair {
        fn rank(&self) -> usize {
            1
        }

        fn world(&self) -> usize {
            2
        }

        fn sum(&self, _values: &mut [f32]) -> Result<(), Error> {
            unreachable!("no f32 here")
        }

        fn sum_bf16(&self, _values: &mut [f32]) -> Result<(), Error> {
            unreachable!("no bf16 here")
        }

        fn sum_f64(&self, values: &mut [f64]) -> Result<(), Error> {
            values.iter_mut().zip(&self.other).for_each(|(own, other)| *own += other);
            Ok(())
        }

        fn broadcast(&self, _bytes: &mut Vec<u8>) -> Result<(), Error> {
            unreachable!("no broadcast here")
        }

        fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
            let other = br#"{"stop":143,"save":true,"skipped":["a"]}"#;
            Ok(vec![other.to_vec(), bytes.to_vec()])
        }

        fn finish(&self) -> Result<(), Error> {
            Ok(())
        }
    }

    /// Mutations caught: ranks weighted alike; a rank without an image makes the loss
    /// of all NaN.
    #[test]
    fn batches_are_weighted_by_their_images() {
        let own = [BatchLoss { loss: 1.0, images: 1 }, BatchLoss { loss: f64::NAN, images: 0 }];
        let pair = Pair { other: vec![6.0, 3.0, 8.0, 4.0] };
        let step = add_batches(&pair, &own).unwrap();
        let expected = [BatchLoss { loss: 1.75, images: 4 }, BatchLoss { loss: 2.0, images: 4 }];
        assert_eq!(step.batches, expected);
        assert_eq!(step.share, 0.125);
        let alone = add_batches(&Alone, &own[..1]).unwrap();
        assert_eq!((alone.batches, alone.share), (own[..1].to_vec(), 1.0));
        let broken = Pair { other: vec![f64::NAN, 3.0, 8.0, 4.0] };
        assert!(add_batches(&broken, &own).unwrap().batches[0].is_non_finite());
    }

    /// Mutations caught: the wish of this rank alone; own images among the others'.
    #[test]
    fn one_rank_stops_all() {
        let agreed = agree(&Pair { other: Vec::new() }, None, false, vec!["b".into()]).unwrap();
        assert_eq!((agreed.stop, agreed.save, agreed.skipped), (Some(143), true, vec!["a".into()]));
        let agreed = agree(&Alone, None, false, vec!["b".into()]).unwrap();
        assert_eq!((agreed.stop, agreed.save, agreed.skipped), (None, false, vec![]));
    }
}
