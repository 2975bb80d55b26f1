//! Efficient image classifiers as Burn modules, exact to their papers and to torchvision.
//!
//! | architecture | paper | parameters | multiply-adds at 224 |
//! |---|---|---|---|
//! | [`mobilenet_v3`] Large | arXiv:1905.02244, table 1 | 5,483,032 | 216.6 M |
//! | [`mobilenet_v3`] Small | arXiv:1905.02244, table 2 | 2,542,856 | 56.5 M |
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nn::network::{Architecture, NetworkConfig};
//!
//! let device = Device::flex();
//! let network = NetworkConfig::new(Architecture::MobilenetV3Small, 10).init(&device);
//! let logits = network.forward(Tensor::zeros([1, 3, 64, 64], &device));
//! assert_eq!(logits.dims(), [1, 10]);
//! ```

#![forbid(unsafe_code)]

pub mod activation;
pub mod block;
pub mod channels;
pub mod cost;
pub mod init;
pub mod layer_spec;
pub mod models;
pub mod network;
pub mod preprocessing;
pub mod weights;
