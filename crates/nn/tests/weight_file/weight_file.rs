//! Weight files as torch and safetensors write them, made byte by byte: tensors of every type, in
//! dictionaries of any depth, beside numbers and objects.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part of it")]

use burn::tensor::{bf16, f16};
use nn::weights::NamedTensor;
use safetensors::tensor::{Dtype, TensorView};

/// The type of the values in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    F64,
    F32,
    F16,
    Bf16,
}

pub const FLOATS: [Float; 4] = [Float::F64, Float::F32, Float::F16, Float::Bf16];

impl Float {
    pub fn bytes(self, values: &[f32]) -> Vec<u8> {
        let one = |v: &f32| match self {
            Float::F64 => f64::from(*v).to_le_bytes().to_vec(),
            Float::F32 => v.to_le_bytes().to_vec(),
            Float::F16 => f16::from_f32(*v).to_le_bytes().to_vec(),
            Float::Bf16 => bf16::from_f32(*v).to_le_bytes().to_vec(),
        };
        values.iter().flat_map(one).collect()
    }

    fn storage(self) -> &'static str {
        match self {
            Float::F64 => "DoubleStorage",
            Float::F32 => "FloatStorage",
            Float::F16 => "HalfStorage",
            Float::Bf16 => "BFloat16Storage",
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Float::F64 => Dtype::F64,
            Float::F32 => Dtype::F32,
            Float::F16 => Dtype::F16,
            Float::Bf16 => Dtype::BF16,
        }
    }
}

/// What a pickle holds.
#[derive(Clone)]
pub enum Value {
    Dict(Vec<(String, Value)>),
    List(Vec<Value>),
    /// Storage class, shape, bytes, number of values.
    Tensor(&'static str, Vec<usize>, Vec<u8>),
    Int(i32),
    /// An instance of `__main__.<name>` with these attributes.
    Object(&'static str, Vec<(String, Value)>),
}

pub fn dict(entries: Vec<(&str, Value)>) -> Value {
    Value::Dict(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// A state dictionary, with the count of batches that every batch norm of torch has.
pub fn state(tensors: &[NamedTensor], float: Float, prefix: &str) -> Value {
    let mut entries: Vec<(String, Value)> = Vec::new();
    for t in tensors {
        let value = Value::Tensor(float.storage(), t.shape.clone(), float.bytes(&t.values));
        entries.push((format!("{prefix}{}", t.name), value));
        if let Some(norm) = t.name.strip_suffix("running_var") {
            let count = Value::Tensor("LongStorage", vec![], 7_i64.to_le_bytes().to_vec());
            entries.push((format!("{prefix}{norm}num_batches_tracked"), count));
        }
    }
    Value::Dict(entries)
}

/// The layouts of `torch.save`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Zip,
    Legacy,
}

pub fn torch(value: &Value, layout: Layout) -> Vec<u8> {
    let mut storages = Vec::new();
    let mut root = vec![0x80, 2];
    pickle(value, &mut root, &mut storages);
    root.push(b'.');
    match layout {
        Layout::Legacy => legacy(&root, &storages),
        Layout::Zip => {
            let mut files = vec![("archive/data.pkl".to_owned(), root)];
            files.push(("archive/byteorder".to_owned(), b"little".to_vec()));
            let data = storages.into_iter().enumerate();
            files.extend(data.map(|(i, (bytes, _))| (format!("archive/data/{i}"), bytes)));
            files.push(("archive/version".to_owned(), b"3\n".to_vec()));
            zip(&files)
        }
    }
}

fn text(text: &str, to: &mut Vec<u8>) {
    to.push(b'X');
    to.extend((text.len() as u32).to_le_bytes());
    to.extend(text.as_bytes());
}

fn int(value: i32, to: &mut Vec<u8>) {
    to.push(b'J');
    to.extend(value.to_le_bytes());
}

fn ints(values: &[usize], to: &mut Vec<u8>) {
    to.push(b'(');
    values.iter().for_each(|value| int(*value as i32, to));
    to.push(b't');
}

fn entries(all: &[(String, Value)], to: &mut Vec<u8>, storages: &mut Vec<(Vec<u8>, usize)>) {
    to.extend(b"}(");
    for (name, value) in all {
        text(name, to);
        pickle(value, to, storages);
    }
    to.push(b'u');
}

fn pickle(value: &Value, to: &mut Vec<u8>, storages: &mut Vec<(Vec<u8>, usize)>) {
    match value {
        Value::Int(value) => int(*value, to),
        Value::Dict(all) => entries(all, to, storages),
        Value::List(all) => {
            to.extend(b"](");
            all.iter().for_each(|value| pickle(value, to, storages));
            to.push(b'e');
        }
        Value::Object(name, attributes) => {
            to.extend(format!("c__main__\n{name}\n").as_bytes());
            to.extend(b")\x81");
            entries(attributes, to, storages);
            to.push(b'b');
        }
        Value::Tensor(storage, shape, bytes) => {
            let count: usize = shape.iter().product();
            to.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
            text("storage", to);
            to.extend(format!("ctorch\n{storage}\n").as_bytes());
            text(&storages.len().to_string(), to);
            text("cpu", to);
            int(count as i32, to);
            to.extend(b"tQ");
            int(0, to);
            ints(shape, to);
            let strides = |i: usize| shape[i + 1..].iter().product();
            ints(&(0..shape.len()).map(strides).collect::<Vec<_>>(), to);
            to.extend(b"\x89ccollections\nOrderedDict\n)RtR");
            storages.push((bytes.clone(), count));
        }
    }
}

fn legacy(root: &[u8], storages: &[(Vec<u8>, usize)]) -> Vec<u8> {
    let mut bytes = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec();
    bytes.extend(b"\x80\x02M\xe9\x03.\x80\x02}(");
    text("little_endian", &mut bytes);
    bytes.extend(b"\x88u.");
    bytes.extend(root);
    bytes.extend(b"\x80\x02](");
    (0..storages.len()).for_each(|i| text(&i.to_string(), &mut bytes));
    bytes.extend(b"e.");
    for (storage, count) in storages {
        bytes.extend((*count as i64).to_le_bytes());
        bytes.extend(storage);
    }
    bytes
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    })
}

/// A zip archive of files that are not compressed.
fn zip(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend(crc(content).to_le_bytes());
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend((bytes.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&common);
        bytes.extend(name.as_bytes());
        bytes.extend(content);
    }
    let (count, start) = ((files.len() as u16).to_le_bytes(), bytes.len() as u32);
    let size = directory.len() as u32;
    bytes.append(&mut directory);
    bytes.extend(b"PK\x05\x06\x00\x00\x00\x00");
    bytes.extend([count, count].concat());
    bytes.extend(size.to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

/// The bytes of a safetensors file, each tensor under a prefix, with counts of batches.
pub fn safetensors(tensors: &[(&str, &[NamedTensor])], float: Float) -> Vec<u8> {
    let mut raw: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (prefix, tensors) in tensors {
        for t in *tensors {
            let name = format!("{prefix}{}", t.name);
            if let Some(norm) = name.strip_suffix("running_var") {
                let (name, count) = (format!("{norm}num_batches_tracked"), 7_i64.to_le_bytes());
                raw.push((name, Dtype::I64, vec![], count.to_vec()));
            }
            raw.push((name, float.dtype(), t.shape.clone(), float.bytes(&t.values)));
        }
    }
    let views = raw.iter().map(|(name, dtype, shape, bytes)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    ::safetensors::serialize(views, None).unwrap()
}
