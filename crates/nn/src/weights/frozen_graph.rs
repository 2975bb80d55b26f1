//! TensorFlow's frozen graphs (`.pb`): MobileNetV1 under TF-slim's names. The reader knows only the
//! parts of the protobuf wire format that such a graph uses.

use std::collections::HashMap;

use crate::weights::stored::{StoredType, floats};
use crate::weights::{NamedTensor, WeightsError};

/// A constant of the graph: shape and f32 values.
type Constant = (Vec<usize>, Vec<f32>);

/// Most values that a constant may have beyond those in the file, which are then all the last one.
const REPEATED: usize = 1 << 16;

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
        let bytes = constants.get(name).ok_or_else(|| {
            WeightsError::Unreadable(format!("the graph has no constant `{name}` of MobileNetV1"))
        })?;
        tensor(bytes).map_err(|why| WeightsError::Unreadable(format!("`{name}` {why}")))
    };
    let mut tensors = Vec::new();
    let mut layer = |from: String, weights: &str, conv: String, norm: String| {
        let (shape, values) = find(&format!("{from}/{weights}"))?;
        let depthwise = weights == "depthwise_weights";
        tensors.push(transposed(format!("{conv}.weight"), &shape, &values, depthwise)?);
        for (tensorflow, timm) in BATCH_NORM {
            let (shape, values) = find(&format!("{from}/BatchNorm/{tensorflow}"))?;
            tensors.push(NamedTensor { name: format!("{norm}.{timm}"), shape, values });
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
    let mut weight = transposed("classifier.weight".into(), &shape, &values, false)?;
    weight.shape.truncate(2);
    tensors.push(weight);
    let (shape, values) = find(&format!("{head}/biases"))?;
    tensors.push(NamedTensor { name: "classifier.bias".into(), shape, values });
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
    /// A message, a text, packed numbers; or a number of fixed length.
    Bytes(&'a [u8]),
    Fixed(&'a [u8]),
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
            1 => WireField::Fixed(take(&mut bytes, 8)?),
            5 => WireField::Fixed(take(&mut bytes, 4)?),
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

/// The tensors of the constants of a graph by name, not yet read.
///
/// Field numbers: GraphDef has node = 1. NodeDef has name = 1, op = 2, attr = 5; attr is a map
/// whose entries have key = 1 and value = 2.
fn constants(bytes: &[u8]) -> Option<HashMap<String, &[u8]>> {
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
            if let Some(constant) = bytes_of(&value, 8) {
                found.insert(name.clone(), constant);
            }
        }
    }
    (!found.is_empty()).then_some(found)
}

/// A tensor of floats, or why it is none.
///
/// Field numbers: TensorProto has dtype = 1 (DT_FLOAT is 1, DT_DOUBLE 2, DT_BFLOAT16 14, DT_HALF 19),
/// tensor_shape = 2, tensor_content = 4, float_val = 5, double_val = 6, half_val = 13 (also for
/// bfloat16, each value a varint). Of missing values TensorFlow takes the last one. TensorShapeProto
/// has dim = 2, which has size = 1.
fn tensor(bytes: &[u8]) -> Result<Constant, String> {
    let truncated = || "is damaged".to_owned();
    let tensor = fields(bytes).ok_or_else(truncated)?;
    let kind = tensor.iter().find_map(|(n, field)| match field {
        WireField::Number(kind) if *n == 1 => Some(*kind),
        _ => None,
    });
    let (kind, listed) = match kind {
        Some(1) => (StoredType::F32, 5),
        Some(2) => (StoredType::F64, 6),
        Some(14) => (StoredType::Bf16, 13),
        Some(19) => (StoredType::F16, 13),
        other => {
            let kind = other.unwrap_or_default();
            return Err(format!(
                "is of TensorFlow's type {kind}; expected float, double, half or bfloat16"
            ));
        }
    };
    let mut shape = Vec::new();
    let dims = bytes_of(&tensor, 2).and_then(fields).ok_or_else(truncated)?;
    for (number, dim) in dims {
        let (2, WireField::Bytes(dim)) = (number, dim) else { continue };
        let size = fields(dim).ok_or_else(truncated)?.iter().find_map(|(n, f)| match f {
            WireField::Number(size) if *n == 1 => usize::try_from(*size).ok(),
            _ => None,
        });
        shape.push(size.ok_or_else(truncated)?);
    }
    let count = shape.iter().try_fold(1_usize, |count, side| count.checked_mul(*side));
    let mut values = match bytes_of(&tensor, 4) {
        Some(content) => floats(&kind, content),
        None => floats(&kind, &listed_values(&tensor, listed).ok_or_else(truncated)?),
    };
    if let (Some(count), Some(last)) = (count, values.last().copied())
        && bytes_of(&tensor, 4).is_none()
        && (values.len()..=REPEATED).contains(&count)
    {
        values.resize(count, last);
    }
    match count == Some(values.len()) && !values.is_empty() {
        true => Ok((shape, values)),
        false => Err(format!("has {} values for the shape {shape:?}", values.len())),
    }
}

/// The little-endian bytes of the numbers in a repeated field, packed or not; of varints the lower
/// two bytes.
fn listed_values(tensor: &[(u64, WireField<'_>)], number: u64) -> Option<Vec<u8>> {
    let mut found = Vec::new();
    let half = |value: u64| (value as u16).to_le_bytes();
    for (_, field) in tensor.iter().filter(|(n, _)| *n == number) {
        match field {
            WireField::Number(value) => found.extend(half(*value)),
            WireField::Bytes(bytes) if number == 13 => {
                let mut bytes = *bytes;
                while !bytes.is_empty() {
                    found.extend(half(varint(&mut bytes)?));
                }
            }
            WireField::Fixed(bytes) | WireField::Bytes(bytes) => found.extend_from_slice(bytes),
        }
    }
    Some(found)
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

    /// A constant in each type and form.
    ///
    /// Mutations caught: f64 read as the upper half of its bits; the list of halves in the field of
    /// floats; a value that stands for all not repeated.
    #[test]
    fn constants_of_every_type_are_read() {
        let message = |fields: &[(u8, u8, &[u8])]| -> Vec<u8> {
            let mut bytes = Vec::new();
            for (number, wire, content) in fields {
                bytes.push(number << 3 | wire);
                if *wire == 2 {
                    bytes.push(content.len() as u8);
                }
                bytes.extend_from_slice(content);
            }
            bytes
        };
        let dim = message(&[(1, 0, &[3])]);
        let shape = message(&[(2, 2, &dim)]);
        let values = [0.5_f32, -2.0, 0.25];
        let packed =
            |bytes: &dyn Fn(f32) -> Vec<u8>| values.iter().flat_map(|v| bytes(*v)).collect();
        let (single, double): (Vec<u8>, Vec<u8>) = (
            packed(&|v| v.to_le_bytes().to_vec()),
            packed(&|v| f64::from(v).to_le_bytes().to_vec()),
        );
        let half: Vec<u8> = packed(&|v| burn::tensor::f16::from_f32(v).to_le_bytes().to_vec());
        let brain: Vec<u8> = packed(&|v| burn::tensor::bf16::from_f32(v).to_le_bytes().to_vec());
        let varints = |words: [u16; 3]| -> Vec<u8> {
            let varint = |w: u16| [w as u8 | 0x80, (w >> 7) as u8 | 0x80, (w >> 14) as u8];
            words.into_iter().flat_map(varint).collect()
        };
        let halves = varints(values.map(|v| burn::tensor::f16::from_f32(v).to_bits()));
        for (kind, field, wire, content) in [
            (1, 4, 2, &single),
            (1, 5, 2, &single),
            (2, 4, 2, &double),
            (2, 6, 2, &double),
            (19, 4, 2, &half),
            (19, 13, 2, &halves),
            (14, 4, 2, &brain),
        ] {
            let bytes = message(&[(1, 0, &[kind]), (2, 2, &shape), (field, wire, content)]);
            let (shape, got) = tensor(&bytes).unwrap();
            assert_eq!((shape, got), (vec![3], values.to_vec()), "type {kind}, field {field}");
        }
        // Equal values are written once.
        let one = 0.5_f32.to_le_bytes();
        let bytes = message(&[(1, 0, &[1]), (2, 2, &shape), (5, 5, &one)]);
        assert_eq!(tensor(&bytes).unwrap().1, [0.5; 3]);
        // An integer, a count that is no count, a content that is too short.
        let refused = |bytes: &[u8], word: &str| {
            let why = tensor(bytes).unwrap_err();
            assert!(why.contains(word), "{why}");
        };
        refused(&message(&[(1, 0, &[3]), (2, 2, &shape), (4, 2, &single)]), "type 3");
        refused(&message(&[(1, 0, &[1]), (2, 2, &shape), (4, 2, &single[..8])]), "2 values");
        let dim = message(&[(1, 0, &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F])]);
        let shape = message(&[(2, 2, &dim), (2, 2, &dim)]);
        refused(&message(&[(1, 0, &[1]), (2, 2, &shape), (5, 5, &one)]), "1 values");
    }

    #[test]
    fn garbage_is_refused() {
        for bytes in [&b""[..], b"garbage", &[0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F], &[0x80; 12]] {
            assert!(mobilenet_v1(bytes).is_err());
        }
    }
}
