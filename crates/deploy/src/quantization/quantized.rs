//! A network in integers as data, beside its graph.

use std::collections::HashMap;

use crate::quantization::affine::Affine;

/// A convolution or linear layer in integers: weight `= value * scale` of its output channel.
#[derive(Clone, Debug)]
pub(crate) struct QuantizedLayer {
    /// -127 to 127, in the order of the folded weights.
    pub(crate) weights: Vec<i8>,
    /// One an output channel.
    pub(crate) scales: Vec<f32>,
    /// The corrected bias in units of the input's scale times the channel's.
    pub(crate) bias: Vec<i32>,
}

/// What a network needs beside its graph to run in integers.
#[derive(Clone, Debug)]
pub struct Quantization {
    /// How the map of a node is rounded, by node.
    pub(crate) maps: HashMap<usize, Affine>,
    /// How a layer's map is rounded before its activation, by node, where the activation needs it.
    pub(crate) before_activation: HashMap<usize, Affine>,
    /// How the input of a layer with weights is rounded, by layer.
    pub(crate) inputs: HashMap<usize, Affine>,
    /// By layer.
    pub(crate) layers: HashMap<usize, QuantizedLayer>,
    /// Calibration images.
    pub images: usize,
    /// Logits of the rounded network for the first calibration images, `[n, classes]`, flat.
    pub(crate) logits: Vec<f32>,
    /// These images, `[n, 3, height, width]`, flat.
    pub(crate) sample: Vec<f32>,
}
