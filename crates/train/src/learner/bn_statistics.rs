//! The running statistics of batch norm of a whole network: restored after a step that failed, and
//! re-estimated for weights that no forward pass has seen (SWA, averaged checkpoints).

use burn::module::{Flag, Module as _, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use nn::layer_spec::{Key, Naming};
use nn::network::Network;

use crate::datasets::batch::Batch;
use crate::error::Error;

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

/// The statistics that Burn holds now, without the latest forward pass, whose update it delays.
fn read(network: &Network) -> Vec<(Tensor<1>, bool)> {
    let mut read = ReadStatistics { keys: keys(network), found: Vec::new() };
    network.visit(&mut read);
    read.found
}

fn write(network: Network, values: Vec<Tensor<1>>) -> Network {
    // A delayed update would overwrite the values at the next forward pass, so it is applied first.
    let _ = network.valid();
    let mut write = WriteStatistics { keys: keys(&network), values: values.into_iter() };
    network.map(&mut write)
}

/// A snapshot of the statistics after all forward passes so far: handles, not copies.
pub fn snapshot(network: &Network) -> Vec<Tensor<1>> {
    let _ = network.valid();
    read(network).into_iter().map(|(value, _)| value).collect()
}

/// The network with the statistics of a [`snapshot`]. Needed after forward passes that were not
/// finite, which the gradient alone may show.
pub fn restore(network: Network, snapshot: Vec<Tensor<1>>) -> Network {
    write(network, snapshot)
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
    let _ = network.valid();
    let before = read(&network);
    let mut sums: Vec<Tensor<1>> = before.iter().map(|(value, _)| value.zeros_like()).collect();
    let mut count = 0;
    for batch in batches {
        let batch = batch.map_err(Into::into)?;
        if batch.labels.len() < 2 {
            continue;
        }
        // From zero, a forward pass leaves momentum times the statistics of the batch.
        network = write(network, sums.iter().map(Tensor::zeros_like).collect());
        let images =
            Tensor::<4>::from_data(TensorData::new(batch.images, batch.shape), autodiff_device);
        let _ = network.forward_train(images, 0);
        let _ = network.valid();
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
            shape: [2, 3, 32, 32],
            labels: vec![0, 1],
            mixed_labels: None,
            indices: vec![0, 1],
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

    /// Mutations caught: no `valid` in `snapshot`.
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
