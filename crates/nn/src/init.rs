//! Initial weights as a function of (seed, number of the parameter, element): the same on every
//! backend. Rules of torchvision: convolutions normal with variance `2 / (out * kh * kw)` (fan-out,
//! not divided by the groups), linear layers normal with deviation 0.01, biases 0, norms 1 and 0.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};

/// The output function of splitmix64 (Steele, Lea and Flood, 2014) at state `x`.
pub fn splitmix64(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Uniform in (0, 1), a function of a stream and an index.
pub fn uniform(stream: u64, index: u64) -> f64 {
    let bits = splitmix64(splitmix64(stream) ^ index.wrapping_mul(0xD129_0DDB_53C4_3E49)) >> 11;
    (bits as f64 + 0.5) / (1_u64 << 53) as f64
}

/// Standard normal by Box and Muller's transform.
fn normal(stream: u64, index: u64) -> f64 {
    let (u, v) = (uniform(stream, 2 * index), uniform(stream, 2 * index + 1));
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

struct Fill {
    seed: u64,
    number: u64,
}

impl ModuleMapper for Fill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.number += 1;
        let shape = param.lazy_shape();
        let deviation = match D {
            4 => (2.0 / (shape[0] * shape[2] * shape[3]) as f64).sqrt(),
            2 => 0.01,
            _ => return param,
        };
        let stream = splitmix64(self.seed) ^ self.number;
        let count = shape.num_elements() as u64;
        let values: Vec<f32> = (0..count).map(|i| (normal(stream, i) * deviation) as f32).collect();
        let require = param.is_require_grad();
        let (id, old, mapper) = param.consume();
        let tensor = Tensor::from_data(TensorData::new(values, shape), &old.device());
        Param::from_mapped_value(id, tensor.set_require_grad(require), mapper)
    }
}

/// Draws every convolution and linear weight of `module` from `seed`.
pub fn fill<M: Module>(module: M, seed: u64) -> M {
    module.map(&mut Fill { seed, number: 0 })
}
