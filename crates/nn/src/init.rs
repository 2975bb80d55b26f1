//! Initial weights as a function of the seed, the parameter's number and the element's index. They
//! are therefore the same on every backend. The distribution of each tensor is in
//! [`crate::layer_spec`].

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use kernels::random::splitmix64;

use crate::layer_spec::{Init, Key};

/// A number in (0, 1), uniform over the indices of a stream.
pub fn uniform(stream: u64, index: u64) -> f64 {
    let bits = splitmix64(splitmix64(stream) ^ index.wrapping_mul(0xD129_0DDB_53C4_3E49)) >> 11;
    (bits as f64 + 0.5) / (1_u64 << 53) as f64
}

/// A standard normal number by Box and Muller's transform.
fn normal(stream: u64, index: u64) -> f64 {
    let (u, v) = (uniform(stream, 2 * index), uniform(stream, 2 * index + 1));
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

struct SeededInit<'a> {
    seed: u64,
    /// Number of the parameter, from 1 in parameter order.
    number: u64,
    keys: std::slice::Iter<'a, Key>,
}

impl ModuleMapper for SeededInit<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.number += 1;
        let key = self.keys.next().expect("a key for every tensor");
        let shape = param.lazy_shape();
        let stream = splitmix64(self.seed) ^ self.number;
        let scaled = |i, deviation: f64| normal(stream, i) * deviation;
        let fan =
            |groups: usize| (2.0 * groups as f64 / (shape[0] * shape[2] * shape[3]) as f64).sqrt();
        let value: Box<dyn Fn(u64) -> f64> = match key.init {
            // Batch norms and biases are built with their constants.
            Init::Constant(_) => return param,
            Init::Normal { deviation } => Box::new(move |i| scaled(i, deviation)),
            Init::FanOut => {
                let deviation = fan(1);
                Box::new(move |i| scaled(i, deviation))
            }
            Init::FanOutOfGroup => {
                // The grouped convolutions of these networks have one input channel per group.
                let deviation = fan(if shape[1] == 1 { shape[0] } else { 1 });
                Box::new(move |i| scaled(i, deviation))
            }
            Init::Uniform { bound } => Box::new(move |i| bound * (2.0 * uniform(stream, i) - 1.0)),
        };
        let count = shape.num_elements() as u64;
        let values: Vec<f32> = (0..count).map(|i| value(i) as f32).collect();
        let require = param.is_require_grad();
        let (id, old, mapper) = param.consume();
        let tensor = Tensor::from_data(TensorData::new(values, shape), &old.device());
        Param::from_mapped_value(id, tensor.set_require_grad(require), mapper)
    }
}

/// Sets every weight of `module` to its initial value; `keys` are in parameter order.
///
/// # Panics
/// When there are more or fewer keys than tensors.
pub fn fill<M: Module>(module: M, seed: u64, keys: &[Key]) -> M {
    let mut init = SeededInit { seed, number: 0, keys: keys.iter() };
    let module = module.map(&mut init);
    assert_eq!(init.keys.len(), 0, "keys left over, of {}", keys.len());
    module
}
