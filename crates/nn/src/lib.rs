//! Efficient image classifiers as Burn modules, exact to their papers and to torchvision.
//!
//! | architecture | paper | parameters | multiply-adds | image |
//! |---|---|---:|---:|---:|
//! | [MobileNetV1](models::mobilenet_v1) | arXiv:1704.04861, table 1 | 4,231,976 | 568.74 M | 224 |
//! | [MobileNetV2](models::mobilenet_v2) | arXiv:1801.04381, table 2 | 3,504,872 | 300.77 M | 224 |
//! | [MobileNetV3-Large](models::mobilenet_v3) | arXiv:1905.02244, table 1 | 5,483,032 | 216.59 M | 224 |
//! | [MobileNetV3-Small](models::mobilenet_v3) | arXiv:1905.02244, table 2 | 2,542,856 | 56.51 M | 224 |
//! | [GoogLeNet](models::googlenet) | arXiv:1409.4842, table 1 | 6,624,904 | 1,498.38 M | 224 |
//! | [Inception v3](models::inception_v3) | arXiv:1512.00567, table 1 | 23,834,568 | 5,713.22 M | 299 |
//! | [Xception](models::xception) | arXiv:1610.02357, figure 5 | 22,855,952 | 8,357.40 M | 299 |
//! | [Xception-41](models::xception_aligned) | arXiv:1802.02611, figure 4 | 26,969,560 | 9,204.13 M | 299 |
//! | [Xception-65](models::xception_aligned) | arXiv:1802.02611, figure 4 | 39,916,312 | 13,852.68 M | 299 |
//! | [Xception-71](models::xception_aligned) | arXiv:1802.02611, figure 4 | 42,338,736 | 17,946.55 M | 299 |
//!
//! Parameters are those of 1000 classes without auxiliary heads. Multiply-adds are those of one
//! image of the native size, whose height and width are in the last column. GoogLeNet is
//! torchvision's, whose third branch is 3x3; with the paper's 5x5 (`googlenet_5x5`) it has
//! 7,005,832 and 1,582.67 M. `tests/cost.rs` checks all of these numbers.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nn::config::{Architecture, NetworkConfig};
//!
//! let device = Device::flex();
//! let network = NetworkConfig::new(Architecture::MobilenetV3Small, 10).init(&device);
//! let logits = network.forward(Tensor::zeros([1, 3, 64, 64], &device));
//! assert_eq!(logits.dims(), [1, 10]);
//! ```
//!
//! # Modules in reading order
//!
//! A module imports only modules above it in this list.
//!
//! 1. [`activation`], [`channels`], [`geometry`], [`preprocessing`]: activations, rounding of channel
//!    counts, convolutions and pooling windows as data, normalisation of images.
//! 2. [`layer_spec`]: the list of a network's layers with shapes, weight names and initial values.
//! 3. [`config`], [`init`], [`outputs`]: the configuration of a network, seeded initial weights, the
//!    logits of a training pass.
//! 4. [`block`]: the blocks that more than one paper uses.
//! 5. [`models`]: one paper per file, and every published variant ([`models::variants`]).
//! 6. [`network`], [`cost`]: a configuration to a network; parameters and multiply-adds.
//! 7. [`weights`]: weights out of a network, into one, and from files.

#![forbid(unsafe_code)]

pub mod activation;
pub mod block;
pub mod channels;
pub mod config;
pub mod cost;
pub mod geometry;
pub mod graph;
mod graph_builder;
pub mod init;
pub mod layer_spec;
pub mod models;
pub mod network;
pub mod outputs;
pub mod preprocessing;
pub mod weights;
