//! Weights out of a TensorFlow frozen graph (`.pb`): MobileNetV1 as TF-slim names it. Only what that
//! takes of the protobuf wire format is read.

use std::collections::HashMap;

use crate::weights::{NamedTensor, WeightsError};

/// A constant of the graph: shape and f32 values.
type Constant = (Vec<usize>, Vec<f32>);

/// TF-slim's MobileNetV1 under timm's names, kernels turned from HWIO to OIHW.
///
/// Its padding is SAME, its epsilon 1e-3, its input `x / 127.5 - 1`, and of its 1001 classes number 0 is
/// the background.
///
/// # Errors
/// [`WeightsError::Unreadable`]: not a graph, or not of this network.
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
        tensors.push(turned(format!("{conv}.weight"), shape, values, depthwise)?);
        let parts = [
            ("gamma", "weight"),
            ("beta", "bias"),
            ("moving_mean", "running_mean"),
            ("moving_variance", "running_var"),
        ];
        for (theirs, ours) in parts {
            let (shape, values) = find(&format!("{from}/BatchNorm/{theirs}"))?;
            let (name, shape) = (format!("{norm}.{ours}"), shape.clone());
            tensors.push(NamedTensor { name, shape, values: values.clone() });
        }
        Ok::<(), WeightsError>(())
    };
    layer("MobilenetV1/Conv2d_0".into(), "weights", "conv_stem".into(), "bn1".into())?;
    // timm's stages hold 1, 2, 2, 6 and 2 blocks.
    let places = [1, 2, 2, 6, 2].into_iter().enumerate();
    let places = places.flat_map(|(stage, count)| (0..count).map(move |i| (stage, i)));
    for (number, (stage, i)) in places.enumerate() {
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
    let mut weight = turned("classifier.weight".into(), shape, values, false)?;
    weight.shape.truncate(2);
    tensors.push(weight);
    let (shape, values) = find(&format!("{head}/biases"))?;
    let (name, shape, values) = ("classifier.bias".to_owned(), shape.clone(), values.clone());
    tensors.push(NamedTensor { name, shape, values });
    Ok(tensors)
}

/// `[h, w, in, out]` to `[out, in, h, w]`, or depthwise `[h, w, c, 1]` to `[c, 1, h, w]`.
fn turned(
    name: String,
    shape: &[usize],
    values: &[f32],
    depthwise: bool,
) -> Result<NamedTensor, WeightsError> {
    let &[h, w, input, output] = shape else {
        return Err(WeightsError::Unreadable(format!("`{name}` has shape {shape:?}, not 4 axes")));
    };
    // What varies slowest in the result, and what next.
    let (slow, next) = if depthwise { (input, output) } else { (output, input) };
    let mut turned = Vec::with_capacity(values.len());
    for s in 0..slow {
        for n in 0..next {
            for place in 0..h * w {
                let (i, o) = if depthwise { (s, n) } else { (n, s) };
                turned.push(values[(place * input + i) * output + o]);
            }
        }
    }
    Ok(NamedTensor { name, shape: vec![slow, next, h, w], values: turned })
}

/// A field of a message: its number and content.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a protobuf message, or `None` where it breaks off.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let field = match key & 7 {
            0 => Field::Number(varint(&mut bytes)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                Field::Bytes(take(&mut bytes, length)?)
            }
            1 => take(&mut bytes, 8).map(|_| Field::Other)?,
            5 => take(&mut bytes, 4).map(|_| Field::Other)?,
            _ => return None,
        };
        found.push((key >> 3, field));
    }
    Some(found)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(head)
}

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

/// The field of that number that is bytes.
fn bytes_of<'a>(message: &[(u64, Field<'a>)], number: u64) -> Option<&'a [u8]> {
    message.iter().find_map(|(n, field)| match field {
        Field::Bytes(bytes) if *n == number => Some(*bytes),
        _ => None,
    })
}

/// GraphDef: node = 1. NodeDef: name = 1, op = 2, attr = 5, a map whose entries have key 1 and value 2.
fn constants(bytes: &[u8]) -> Option<HashMap<String, Constant>> {
    let mut found = HashMap::new();
    for (number, node) in fields(bytes)? {
        let (1, Field::Bytes(node)) = (number, node) else { continue };
        let node = fields(node)?;
        if bytes_of(&node, 2) != Some(b"Const") {
            continue;
        }
        let name = String::from_utf8_lossy(bytes_of(&node, 1)?).into_owned();
        for (number, attribute) in &node {
            let (5, Field::Bytes(entry)) = (number, attribute) else { continue };
            let entry = fields(entry)?;
            if bytes_of(&entry, 1) != Some(b"value") {
                continue;
            }
            // AttrValue: tensor = 8.
            let value = fields(bytes_of(&entry, 2)?)?;
            if let Some(constant) = bytes_of(&value, 8).and_then(tensor) {
                found.insert(name.clone(), constant);
            }
        }
    }
    (!found.is_empty()).then_some(found)
}

/// TensorProto: dtype = 1 (DT_FLOAT is 1), tensor_shape = 2, tensor_content = 4. TensorShapeProto: dim = 2,
/// whose size = 1.
fn tensor(bytes: &[u8]) -> Option<Constant> {
    let tensor = fields(bytes)?;
    let float = tensor.iter().any(|(n, f)| *n == 1 && matches!(f, Field::Number(1)));
    let content = bytes_of(&tensor, 4)?;
    let mut shape = Vec::new();
    for (number, dim) in fields(bytes_of(&tensor, 2)?)? {
        let (2, Field::Bytes(dim)) = (number, dim) else { continue };
        let size = fields(dim)?.iter().find_map(|(n, f)| match f {
            Field::Number(size) if *n == 1 => usize::try_from(*size).ok(),
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
    fn kernels_are_turned() {
        // h = 1, w = 2, in = 2, out = 3: value = 100 w + 10 i + o.
        let values: Vec<f32> =
            [0, 1, 2, 10, 11, 12, 100, 101, 102, 110, 111, 112].map(|v| v as f32).into();
        let turned = |depthwise, shape: &[usize]| {
            super::turned("x".into(), shape, &values, depthwise).unwrap()
        };
        let standard = turned(false, &[1, 2, 2, 3]);
        assert_eq!(standard.shape, [3, 2, 1, 2]);
        assert_eq!(standard.values[..4], [0.0, 100.0, 10.0, 110.0]);
        let depthwise = turned(true, &[2, 2, 3, 1]);
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
