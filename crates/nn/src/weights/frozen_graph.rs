//! TensorFlow's frozen graphs (`.pb`): MobileNetV1 under TF-slim's names. The reader knows only the
//! parts of the protobuf wire format that such a graph uses.

use std::collections::HashMap;

use crate::weights::{NamedTensor, WeightsError};

/// A constant of the graph: shape and f32 values.
type Constant = (Vec<usize>, Vec<f32>);

/// The tensors of a batch norm in TensorFlow and in timm.
const BATCH_NORM: [(&str, &str); 4] = [
    ("gamma", "weight"),
    ("beta", "bias"),
    ("moving_mean", "running_mean"),
    ("moving_variance", "running_var"),
];

/// TF-slim's MobileNetV1 under timm's names, kernels transposed from HWIO to OIHW.
///
/// The network has SAME padding, epsilon 1e-3, inputs `x / 127.5 - 1` and 1001 classes, of which
/// number 0 is the background.
///
/// # Errors
/// [`WeightsError::Unreadable`] when the bytes are not a graph or the graph has another network.
pub fn mobilenet_v1(bytes: &[u8]) -> Result<Vec<NamedTensor>, WeightsError> {
    let constants = constants(bytes).ok_or_else(|| {
        WeightsError::Unreadable("not a TensorFlow graph, or a truncated one".into())
    })?;
    let find = |name: &str| {
        constants.get(name).ok_or_else(|| {
            WeightsError::Unreadable(format!("the graph has no constant `{name}` of MobileNetV1"))
        })
    };
    let mut tensors = Vec::new();
    let mut layer = |from: String, weights: &str, conv: String, norm: String| {
        let (shape, values) = find(&format!("{from}/{weights}"))?;
        let depthwise = weights == "depthwise_weights";
        tensors.push(transposed(format!("{conv}.weight"), shape, values, depthwise)?);
        for (tensorflow, timm) in BATCH_NORM {
            let (shape, values) = find(&format!("{from}/BatchNorm/{tensorflow}"))?;
            let (name, shape) = (format!("{norm}.{timm}"), shape.clone());
            tensors.push(NamedTensor { name, shape, values: values.clone() });
        }
        Ok::<(), WeightsError>(())
    };
    layer("MobilenetV1/Conv2d_0".into(), "weights", "conv_stem".into(), "bn1".into())?;
    // timm's stages hold 1, 2, 2, 6 and 2 blocks.
    let stages = [1, 2, 2, 6, 2].into_iter().enumerate();
    let blocks = stages.flat_map(|(stage, count)| (0..count).map(move |i| (stage, i)));
    for (number, (stage, i)) in blocks.enumerate() {
        let (from, to) =
            (format!("MobilenetV1/Conv2d_{}", number + 1), format!("blocks.{stage}.{i}"));
        let depthwise = format!("{from}_depthwise");
        layer(depthwise, "depthwise_weights", format!("{to}.conv_dw"), format!("{to}.bn1"))?;
        layer(
            format!("{from}_pointwise"),
            "weights",
            format!("{to}.conv_pw"),
            format!("{to}.bn2"),
        )?;
    }
    let head = "MobilenetV1/Logits/Conv2d_1c_1x1";
    let (shape, values) = find(&format!("{head}/weights"))?;
    let mut weight = transposed("classifier.weight".into(), shape, values, false)?;
    weight.shape.truncate(2);
    tensors.push(weight);
    let (shape, values) = find(&format!("{head}/biases"))?;
    let (name, shape, values) = ("classifier.bias".to_owned(), shape.clone(), values.clone());
    tensors.push(NamedTensor { name, shape, values });
    Ok(tensors)
}

/// A kernel from TensorFlow's layout to torch's: `[h, w, in, out]` to `[out, in, h, w]`, or
/// depthwise `[h, w, c, 1]` to `[c, 1, h, w]`.
fn transposed(
    name: String,
    shape: &[usize],
    values: &[f32],
    depthwise: bool,
) -> Result<NamedTensor, WeightsError> {
    let &[h, w, input, output] = shape else {
        return Err(WeightsError::Unreadable(format!("`{name}` has shape {shape:?}, not 4 axes")));
    };
    // The first and second axis of the result.
    let (first, second) = if depthwise { (input, output) } else { (output, input) };
    let mut transposed = Vec::with_capacity(values.len());
    for a in 0..first {
        for b in 0..second {
            for pixel in 0..h * w {
                let (i, o) = if depthwise { (a, b) } else { (b, a) };
                transposed.push(values[(pixel * input + i) * output + o]);
            }
        }
    }
    Ok(NamedTensor { name, shape: vec![first, second, h, w], values: transposed })
}

/// The content of a field of a protobuf message.
enum WireField<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The numbers and contents of a protobuf message's fields; `None` when the message is truncated.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, WireField<'_>)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let field = match key & 7 {
            0 => WireField::Number(varint(&mut bytes)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                WireField::Bytes(take(&mut bytes, length)?)
            }
            1 => take(&mut bytes, 8).map(|_| WireField::Other)?,
            5 => take(&mut bytes, 4).map(|_| WireField::Other)?,
            _ => return None,
        };
        found.push((key >> 3, field));
    }
    Some(found)
}

/// The first `length` bytes; `bytes` then begins after them.
fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(head)
}

/// A variable-length integer: seven bits a byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The bytes in the first field of this number.
fn bytes_of<'a>(message: &[(u64, WireField<'a>)], number: u64) -> Option<&'a [u8]> {
    message.iter().find_map(|(n, field)| match field {
        WireField::Bytes(bytes) if *n == number => Some(*bytes),
        _ => None,
    })
}

/// The constants of a graph by name.
///
/// Field numbers: GraphDef has node = 1. NodeDef has name = 1, op = 2, attr = 5; attr is a map
/// whose entries have key = 1 and value = 2.
fn constants(bytes: &[u8]) -> Option<HashMap<String, Constant>> {
    let mut found = HashMap::new();
    for (number, node) in fields(bytes)? {
        let (1, WireField::Bytes(node)) = (number, node) else { continue };
        let node = fields(node)?;
        if bytes_of(&node, 2) != Some(b"Const") {
            continue;
        }
        let name = String::from_utf8_lossy(bytes_of(&node, 1)?).into_owned();
        for (number, attribute) in &node {
            let (5, WireField::Bytes(entry)) = (number, attribute) else { continue };
            let entry = fields(entry)?;
            if bytes_of(&entry, 1) != Some(b"value") {
                continue;
            }
            // AttrValue has tensor = 8.
            let value = fields(bytes_of(&entry, 2)?)?;
            if let Some(constant) = bytes_of(&value, 8).and_then(tensor) {
                found.insert(name.clone(), constant);
            }
        }
    }
    (!found.is_empty()).then_some(found)
}

/// A tensor of f32 values; `None` for other types.
///
/// Field numbers: TensorProto has dtype = 1 (DT_FLOAT is 1), tensor_shape = 2, tensor_content = 4.
/// TensorShapeProto has dim = 2, which has size = 1.
fn tensor(bytes: &[u8]) -> Option<Constant> {
    let tensor = fields(bytes)?;
    let float = tensor.iter().any(|(n, f)| *n == 1 && matches!(f, WireField::Number(1)));
    let content = bytes_of(&tensor, 4)?;
    let mut shape = Vec::new();
    for (number, dim) in fields(bytes_of(&tensor, 2)?)? {
        let (2, WireField::Bytes(dim)) = (number, dim) else { continue };
        let size = fields(dim)?.iter().find_map(|(n, f)| match f {
            WireField::Number(size) if *n == 1 => usize::try_from(*size).ok(),
            _ => None,
        });
        shape.push(size?);
    }
    let count: usize = shape.iter().product();
    let values: Vec<f32> =
        content.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    (float && values.len() == count).then_some((shape, values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_transposed() {
        // h = 1, w = 2, in = 2, out = 3: value = 100 w + 10 i + o.
        let values: Vec<f32> =
            [0, 1, 2, 10, 11, 12, 100, 101, 102, 110, 111, 112].map(|v| v as f32).into();
        let transposed = |depthwise, shape: &[usize]| {
            super::transposed("x".into(), shape, &values, depthwise).unwrap()
        };
        let standard = transposed(false, &[1, 2, 2, 3]);
        assert_eq!(standard.shape, [3, 2, 1, 2]);
        assert_eq!(standard.values[..4], [0.0, 100.0, 10.0, 110.0]);
        let depthwise = transposed(true, &[2, 2, 3, 1]);
        assert_eq!(depthwise.shape, [3, 1, 2, 2]);
        assert_eq!(depthwise.values[..4], [0.0, 10.0, 100.0, 110.0]);
    }

    #[test]
    fn garbage_is_refused() {
        for bytes in [&b""[..], b"garbage", &[0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F], &[0x80; 12]] {
            assert!(mobilenet_v1(bytes).is_err());
        }
    }
}
