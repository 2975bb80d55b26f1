//! The weights of a layer as inference needs them: batch norm folded into the convolution.

use std::collections::HashMap;

use nn::layer_spec::{LayerOperation, LayerSpec};
use nn::weights::NamedTensor;

/// A convolution or linear layer without its norm.
#[derive(Clone, Debug)]
pub(crate) struct FoldedLayer {
    /// Name of the weights.
    pub(crate) name: String,
    /// `[out, in / groups, kh, kw]`, or `[out, in]` of a linear layer.
    pub(crate) shape: Vec<usize>,
    pub(crate) weights: Vec<f32>,
    /// `[out]`.
    pub(crate) bias: Option<Vec<f32>>,
}

/// The folded weights of a layer; none for pooling.
///
/// # Panics
/// When `weights` lack a tensor of the layer.
pub(crate) fn fold(
    layer: &LayerSpec,
    weights: &HashMap<&str, &NamedTensor>,
    epsilon: f64,
) -> Option<FoldedLayer> {
    let key = |i: usize| -> &NamedTensor {
        let name = &layer.keys[i].name;
        weights.get(name.as_str()).unwrap_or_else(|| panic!("{name}: not among the weights"))
    };
    let (values, shape, bias) = match layer.operation {
        LayerOperation::Convolution { norm: true, .. } => {
            let statistics = [1, 2, 3, 4].map(|i| &key(i).values[..]);
            let (values, bias) = folded(&key(0).values, statistics, epsilon);
            (values, key(0).shape.clone(), Some(bias))
        }
        LayerOperation::Convolution { bias, .. } => {
            (key(0).values.clone(), key(0).shape.clone(), bias.then(|| key(1).values.clone()))
        }
        LayerOperation::Linear => {
            let shape = vec![layer.output[0], layer.input.iter().product()];
            (key(0).values.clone(), shape, Some(key(1).values.clone()))
        }
        _ => return None,
    };
    Some(FoldedLayer { name: key(0).name.clone(), shape, weights: values, bias })
}

/// A convolution's weights and bias with batch norm folded in, computed in f64. `norm` is scale,
/// shift, running mean and running variance.
fn folded(weights: &[f32], norm: [&[f32]; 4], epsilon: f64) -> (Vec<f32>, Vec<f32>) {
    let [gamma, beta, mean, variance] = norm;
    let size = weights.len() / gamma.len();
    let factors: Vec<f64> = gamma
        .iter()
        .zip(variance)
        .map(|(&gamma, &variance)| f64::from(gamma) / (f64::from(variance) + epsilon).sqrt())
        .collect();
    let values = weights
        .chunks_exact(size)
        .zip(&factors)
        .flat_map(|(filter, factor)| filter.iter().map(move |w| (f64::from(*w) * factor) as f32))
        .collect();
    let bias = beta
        .iter()
        .zip(mean)
        .zip(&factors)
        .map(|((&beta, &mean), factor)| (f64::from(beta) - f64::from(mean) * factor) as f32)
        .collect();
    (values, bias)
}
