//! The running statistics of batch norm of a whole network: restored after a step that failed, and
//! re-estimated for weights that no forward pass has seen (SWA, averaged checkpoints).

use burn::module::{Flag, Module as _, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use nn::layer_spec::{Key, Naming};
use nn::network::Network;

use crate::datasets::batch::Batch;
use crate::error::Error;
use crate::learner::device_images::images;
use crate::optimizers::buffer;

/// Means and variances in parameter order, each with the flag whether its norm is updated by
/// batches.
struct ReadStatistics {
    keys: std::vec::IntoIter<Key>,
    found: Vec<(Tensor<1>, bool)>,
}

impl ModuleVisitor for ReadStatistics {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.keys.next().expect("a key for every tensor").trained {
            self.found.push((param.val().reshape([-1]), true));
        }
    }

    fn visit_flag(&mut self, flag: &Param<Flag>) {
        // The flag of a norm comes right after its mean and variance.
        for (_, updated) in self.found.iter_mut().rev().take(2) {
            *updated = flag.is_enabled();
        }
    }
}

struct WriteStatistics {
    keys: std::vec::IntoIter<Key>,
    values: std::vec::IntoIter<Tensor<1>>,
}

impl ModuleMapper for WriteStatistics {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.keys.next().expect("a key for every tensor").trained {
            return param;
        }
        let value = self.values.next().expect("a value for every statistic");
        param.map(|old| value.reshape(old.dims()))
    }
}

fn keys(network: &Network) -> std::vec::IntoIter<Key> {
    network.config().keys(Naming::Torchvision).into_iter()
}

/// The statistics after all forward passes so far.
fn read(network: &Network) -> Vec<(Tensor<1>, bool)> {
    let mut read = ReadStatistics { keys: keys(network), found: Vec::new() };
    network.visit(&mut read);
    read.found
}

fn write(network: Network, values: Vec<Tensor<1>>) -> Network {
    let mut write = WriteStatistics { keys: keys(&network), values: values.into_iter() };
    network.map(&mut write)
}

/// A snapshot of the statistics: handles, not copies.
pub fn snapshot(network: &Network) -> Vec<Tensor<1>> {
    read(network).into_iter().map(|(value, _)| value).collect()
}

/// The network with the statistics of a [`snapshot`]. Needed after forward passes that were not
/// finite, which the gradient alone may show.
pub fn restore(network: Network, snapshot: Vec<Tensor<1>>) -> Network {
    write(network, snapshot)
}

/// The network with statistics of zero, from which forward passes leave nothing but their own
/// share; and the statistics that it had, for [`blend`].
pub fn from_zero(network: Network) -> (Network, Vec<Tensor<1>>) {
    let before = snapshot(&network);
    let zeros = before.iter().map(Tensor::zeros_like).collect();
    (write(network, zeros), before)
}

/// After forward passes [`from_zero`]: the statistics `before` and those of the passes, the latter
/// with a weight of `own`. `moved` is the share that the passes have left. Frozen norms keep
/// theirs.
pub fn blend(network: Network, before: Vec<Tensor<1>>, Share { own, moved }: Share) -> Network {
    let found = read(&network);
    let blended = before.into_iter().zip(found).map(|(old, (new, updated))| match updated {
        true => old.mul_scalar(1.0 - own) + new.mul_scalar(own / moved),
        false => old,
    });
    let values = blended.collect();
    write(network, values)
}

/// All statistics that batches update, one after the other.
pub fn flat(network: &Network) -> Vec<f32> {
    let updated = read(network).into_iter().filter(|(_, updated)| *updated);
    updated.flat_map(|(value, _)| buffer::read(value.without_autodiff())).collect()
}

/// The network with the statistics that [`flat`] has read.
///
/// # Panics
/// When `flat` has too few values.
pub fn with_flat(network: Network, mut flat: &[f32]) -> Network {
    let values = read(&network).into_iter().map(|(old, updated)| {
        if !updated {
            return old;
        }
        let (own, rest) = flat.split_at(old.dims()[0]);
        flat = rest;
        Tensor::from_data(TensorData::new(own.to_vec(), old.dims()), &old.device())
    });
    let values = values.collect();
    write(network, values)
}

/// The weight that a batch shall have in the statistics, and the one that its momentum gives it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// The weight that it shall have.
    pub own: f64,
    /// The weight that it has after its forward passes.
    pub moved: f64,
}

/// The weight of batch `number` of a run, from 1, with which the statistics are the mean over all
/// batches so far; none once `momentum` gives it more. The batch is one of `parts` forward passes.
///
/// PyTorch's `BatchNorm2d(momentum=None)`.
pub fn cumulative_share(momentum: f64, number: u64, parts: usize) -> Option<Share> {
    let own = 1.0 / number as f64;
    let moved = 1.0 - (1.0 - momentum).powi(parts as i32);
    (momentum > 0.0 && own > moved).then_some(Share { own, moved })
}

/// The network with the statistics of these batches: the mean over the batches of their means and
/// unbiased variances (torch.optim.swa_utils.update_bn). Frozen norms keep their statistics.
///
/// # Errors
/// A momentum of 0, with which statistics never change; an image that cannot be read; no batch.
pub fn reestimate<E: Into<Error>>(
    mut network: Network,
    batches: impl Iterator<Item = Result<Batch, E>>,
    autodiff_device: &Device,
) -> Result<Network, Error> {
    let momentum = network.config().bn_momentum;
    if momentum == 0.0 {
        return Err(Error::usage(
            "--bn-reestimate: with --bn-momentum 0 the statistics never move; give another one",
        ));
    }
    let before = read(&network);
    let mut sums: Vec<Tensor<1>> = before.iter().map(|(value, _)| value.zeros_like()).collect();
    let mut count = 0;
    for batch in batches {
        let mut batch = batch.map_err(Into::into)?;
        if batch.labels.len() < 2 {
            continue;
        }
        // From zero, a forward pass leaves momentum times the statistics of the batch.
        network = write(network, sums.iter().map(Tensor::zeros_like).collect());
        let _ = network.forward_train(images(&mut batch, autodiff_device), 0);
        let found = read(&network).into_iter();
        sums = sums.into_iter().zip(found).map(|(sum, (new, _))| sum + new.detach()).collect();
        count += 1;
    }
    if count == 0 {
        return Err(Error::data("no batch to estimate the statistics of batch norm on"));
    }
    let factor = 1.0 / (momentum * f64::from(count));
    let mean = |((old, updated), sum): ((Tensor<1>, bool), Tensor<1>)| match updated {
        true => sum.mul_scalar(factor),
        false => old,
    };
    let values = before.into_iter().zip(sums).map(mean).collect();
    Ok(write(network, values))
}

#[cfg(test)]
mod tests {
    use nn::config::{Architecture, NetworkConfig};
    use nn::weights::state_dict::state_dict;

    use super::*;

    fn network(momentum: f64, autodiff_device: &Device) -> Network {
        let mut config = NetworkConfig::new(Architecture::MobilenetV3Small, 3);
        (config.width, config.bn_momentum) = (0.35, momentum);
        config.init_seeded(autodiff_device, 1)
    }

    fn batch(shade: f32) -> Batch {
        let values = (0..2 * 3 * 32 * 32).map(|i| shade * ((i * 7) % 11) as f32);
        Batch {
            images: values.collect(),
            bytes: None,
            shape: [2, 3, 32, 32],
            labels: vec![0, 1],
            mixed_labels: None,
            indices: vec![0, 1],
            rows: vec![0, 1],
            skipped: Vec::new(),
            skipped_indices: Vec::new(),
        }
    }

    fn pass(network: &Network, shade: f32, autodiff_device: &Device) {
        let batch = batch(shade);
        let images =
            Tensor::<4>::from_data(TensorData::new(batch.images, batch.shape), autodiff_device);
        let _ = network.forward_train(images, 0);
    }

    /// Mutations caught: a snapshot of the statistics before the last pass.
    #[test]
    fn forward_passes_can_be_undone() {
        let autodiff_device = Device::flex().autodiff();
        let other = network(0.1, &autodiff_device);
        pass(&other, 0.1, &autodiff_device);
        let expected = state_dict(&other);
        let own = network(0.1, &autodiff_device);
        pass(&own, 0.1, &autodiff_device);
        let before = snapshot(&own);
        pass(&own, f32::NAN, &autodiff_device);
        pass(&own, f32::NAN, &autodiff_device);
        let own = restore(own, before);
        assert_eq!(state_dict(&own), expected);
        // The next forward pass updates the statistics as usual.
        pass(&own, 0.2, &autodiff_device);
        pass(&other, 0.2, &autodiff_device);
        assert_eq!(state_dict(&own), state_dict(&other));
    }

    /// Mutations caught: the values of the flat list not taken.
    #[test]
    fn flat_statistics_come_back() {
        let autodiff_device = Device::flex().autodiff();
        let (one, other) = (network(0.1, &autodiff_device), network(0.1, &autodiff_device));
        pass(&one, 0.3, &autodiff_device);
        assert_ne!(flat(&one), flat(&other));
        let expected = state_dict(&one);
        assert_eq!(state_dict(&with_flat(other, &flat(&one))), expected);
    }

    /// Mutations caught, each alone: `own / moved` left out; passes not from zero.
    #[test]
    fn cumulative_statistics_are_the_mean_over_all_batches_so_far() {
        let autodiff_device = Device::flex().autodiff();
        let plain = network(1.0, &autodiff_device);
        let mut mean: Vec<Vec<f32>> = Vec::new();
        let mut own = network(0.01, &autodiff_device);
        for (number, shade) in (1..).zip([0.1, 0.3, 0.2]) {
            pass(&plain, shade, &autodiff_device);
            let of_batch = state_dict(&plain);
            let before;
            (own, before) = from_zero(own);
            pass(&own, shade, &autodiff_device);
            own = blend(own, before, cumulative_share(0.01, number, 1).unwrap());
            mean.resize(of_batch.len(), Vec::new());
            for (mean, tensor) in mean.iter_mut().zip(&of_batch) {
                mean.resize(tensor.values.len(), 0.0);
                let share = 1.0 / number as f32;
                let pairs = mean.iter_mut().zip(&tensor.values);
                pairs.for_each(|(mean, value)| *mean += share * (value - *mean));
            }
        }
        for (got, mean) in state_dict(&own).iter().zip(&mean) {
            for (got, mean) in got.values.iter().zip(mean) {
                assert!((got - mean).abs() < 1e-4 * (1.0 + mean.abs()), "{got} for {mean}");
            }
        }
    }

    /// A variance next to nothing stays one: 1 + 10 (0.9 - 1) is below 0 in f32.
    ///
    /// Extrapolating the old statistics did it.
    #[test]
    fn a_variance_of_nothing_never_becomes_negative() {
        let autodiff_device = Device::flex().autodiff();
        let (own, before) = from_zero(network(0.1, &autodiff_device));
        pass(&own, 0.0, &autodiff_device);
        let own = blend(own, before, cumulative_share(0.1, 1, 1).unwrap());
        for tensor in state_dict(&own) {
            let low = tensor.values.iter().copied().fold(f32::INFINITY, f32::min);
            assert!(!tensor.name.ends_with("running_var") || low >= 0.0, "{}: {low}", tensor.name);
        }
    }

    /// Each end of the rule.
    #[test]
    fn a_cumulative_average_ends_where_the_momentum_is_the_larger_weight() {
        assert_eq!(cumulative_share(0.1, 1, 1).map(|share| share.own), Some(1.0));
        assert!(cumulative_share(0.1, 9, 1).is_some());
        assert_eq!(cumulative_share(0.1, 11, 1), None);
        assert_eq!(cumulative_share(0.1, 6, 2), None);
        assert_eq!(cumulative_share(0.0, 1, 1), None);
    }

    /// With a momentum of 1 a forward pass leaves exactly the statistics of the batch. Two batches
    /// must give the mean of their statistics, whatever the momentum.
    ///
    /// Mutations caught: the momentum left in the result.
    #[test]
    fn statistics_are_the_mean_over_batches() {
        let autodiff_device = Device::flex().autodiff();
        let plain = network(1.0, &autodiff_device);
        let mut each = Vec::new();
        for shade in [0.1, 0.3] {
            pass(&plain, shade, &autodiff_device);
            each.push(state_dict(&plain));
        }
        let batches = [0.1, 0.3].map(|shade| Ok::<_, Error>(batch(shade)));
        let got =
            reestimate(network(0.01, &autodiff_device), batches.into_iter(), &autodiff_device)
                .unwrap();
        for ((got, a), b) in state_dict(&got).iter().zip(&each[0]).zip(&each[1]) {
            for ((got, a), b) in got.values.iter().zip(&a.values).zip(&b.values) {
                let mean = 0.5 * (a + b);
                assert!((got - mean).abs() < 1e-4 * (1.0 + mean.abs()), "{got} for {mean}");
            }
        }
    }
}
