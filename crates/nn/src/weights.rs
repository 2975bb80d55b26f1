//! Weights under torchvision's or timm's names: out of a network, into one, and from files. This
//! file has the types of all formats; each format and each direction is a file below.

mod choose;
pub mod frozen_graph;
pub mod kind;
pub mod known;
pub mod load;
pub mod read;
mod safetensors;
pub mod state_dict;
mod stored;
mod torch;

/// A tensor in torch's layout: linear weights are `[out, in]`.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Name in torchvision or timm.
    pub name: String,
    /// Extent of every axis.
    pub shape: Vec<usize>,
    /// Values in row-major order.
    pub values: Vec<f32>,
}

/// Why weights do not fit or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// Names of the missing, unused and misshapen tensors.
    #[error("the weights do not fit this network: {0}")]
    Mismatch(String),
    /// Names of the tensors that hold NaN or infinity.
    #[error(
        "{0}: not all values are finite numbers; the weights come from a training that diverged, \
         or from a damaged file: take an earlier one"
    )]
    NotFinite(String),
    /// Names of the running variances with a negative value.
    #[error(
        "{0}: a running variance is negative, so that the network would give NaN; the file is damaged, \
         or holds another tensor under this name"
    )]
    NegativeVariance(String),
    /// The file does not hold the weights that were asked for, or several.
    #[error("{0}")]
    Kind(String),
    /// The file ends early.
    #[error("the file is cut short ({0}); copy or download it again")]
    Truncated(String),
    /// The file has an unknown format or is broken.
    #[error("not readable as safetensors or .pth weights: {0}")]
    Unreadable(String),
    /// The file cannot be read from disk.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// The transpose of a `rows` by `columns` matrix. Linear weights are the only matrices among the
/// tensors: Burn holds them as `[in, out]`, torch as `[out, in]`.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    assert_eq!(values.len(), rows * columns, "{} values for {rows}x{columns}", values.len());
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}
