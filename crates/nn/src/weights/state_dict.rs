//! Weights and gradients out of a network.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::layer_spec::{Key, Naming};
use crate::network::Network;
use crate::weights::{NamedTensor, transposed};

/// `tensor` in torch's layout.
fn named<const D: usize>(name: &str, tensor: Tensor<D>) -> NamedTensor {
    let mut shape = tensor.dims().to_vec();
    let mut values =
        tensor.into_data().convert::<f32>().try_into_vec::<f32>().expect("a float tensor");
    if D == 2 {
        values = transposed(&values, shape[0], shape[1]);
        shape.reverse();
    }
    NamedTensor { name: name.to_owned(), shape, values }
}

struct TensorCollector<'a> {
    keys: std::vec::IntoIter<Key>,
    /// Collects these gradients instead of the weights.
    gradients: Option<&'a GradientsParams>,
    found: Vec<NamedTensor>,
}

impl ModuleVisitor for TensorCollector<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let key = self.keys.next().expect("a key for every tensor");
        let tensor = match self.gradients {
            None => Some(param.val().without_autodiff()),
            Some(gradients) => gradients.get::<D>(param.id),
        };
        if let Some(tensor) = tensor {
            let mut found = named(&key.name, tensor);
            if key.pointwise {
                found.shape.extend([1, 1]);
            }
            self.found.push(found);
        }
    }
}

/// Every parameter and running statistic under torchvision's names, in parameter order.
pub fn state_dict(network: &Network) -> Vec<NamedTensor> {
    state_dict_as(network, Naming::Torchvision)
}

/// Every parameter and running statistic under the names of `naming`, in parameter order.
///
/// # Panics
/// When the network has more or fewer tensors than its configuration says.
pub fn state_dict_as(network: &Network, naming: Naming) -> Vec<NamedTensor> {
    let keys = network.config().keys(naming).into_iter();
    let mut collector = TensorCollector { keys, gradients: None, found: Vec::new() };
    network.visit(&mut collector);
    assert_eq!(collector.keys.len(), 0, "more keys than tensors");
    collector.found
}

/// Every gradient under its parameter's name, in parameter order.
pub fn gradients(
    network: &Network,
    gradients: &GradientsParams,
    naming: Naming,
) -> Vec<NamedTensor> {
    let keys = network.config().keys(naming).into_iter();
    let mut collector = TensorCollector { keys, gradients: Some(gradients), found: Vec::new() };
    network.visit(&mut collector);
    collector.found
}
