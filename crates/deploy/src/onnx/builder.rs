//! The nodes and constants of an ONNX graph as they are added.

use std::collections::HashSet;

use super::proto::{Attribute, FLOAT, INT64, Initializer, OnnxNode};

/// The nodes and constants so far.
#[derive(Default)]
pub(super) struct OnnxBuilder {
    pub(super) nodes: Vec<OnnxNode>,
    pub(super) initializers: Vec<Initializer>,
    named: HashSet<String>,
}

impl OnnxBuilder {
    /// Adds a node and returns the name of its output: the operation behind the name of the layer.
    pub(super) fn push(
        &mut self,
        operation: &str,
        behind: &str,
        inputs: Vec<String>,
        attributes: Vec<Attribute>,
    ) -> String {
        let base = format!("{behind}/{operation}");
        // One map may be read by two nodes of a kind.
        let mut name = base.clone();
        let mut number = 2;
        while !self.named.insert(name.clone()) {
            name = format!("{base}.{number}");
            number += 1;
        }
        self.nodes.push(OnnxNode {
            input: inputs,
            output: vec![name.clone()],
            name: name.clone(),
            op_type: operation.to_owned(),
            attribute: attributes,
        });
        name
    }

    /// Adds a constant, once a name.
    pub(super) fn data(
        &mut self,
        name: &str,
        data_type: i32,
        shape: &[usize],
        raw_data: Vec<u8>,
    ) -> String {
        if self.named.insert(name.to_owned()) {
            self.initializers.push(Initializer {
                dims: shape.iter().map(|&extent| extent as i64).collect(),
                data_type,
                name: name.to_owned(),
                raw_data,
            });
        }
        name.to_owned()
    }

    pub(super) fn constant(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.data(name, FLOAT, shape, bytes)
    }

    /// Adds a list of integers, once a name.
    pub(super) fn integers(&mut self, name: &str, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.data(name, INT64, &[values.len()], bytes)
    }
}
