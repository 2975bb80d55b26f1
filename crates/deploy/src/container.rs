//! The file of a checkpoint: a safetensors container whose metadata holds a manifest, as JSON text.
//!
//! Any safetensors reader opens the tensors. safetensors has no checksum: the metadata carries a
//! CRC-32 over the names, shapes and bytes of all tensors, and one over the manifest. The container
//! checks both and the version of the layout; the other fields of the manifest are read by its
//! users.

use nn::weights::NamedTensor;
use safetensors::tensor::{SafeTensors, TensorView};
use serde_json::{Map, Value, json};

const MANIFEST: &str = "kindling.manifest";
const MANIFEST_CRC: &str = "kindling.manifest_crc32";
const TENSORS_CRC: &str = "kindling.tensors_crc32";

/// The version of the layout: the manifest's field `format`.
pub const FORMAT: u32 = 1;

/// Prefix of the names of the optimizer's state.
pub const OPTIMIZER: &str = "optimizer.";
/// Prefix of the names of the exponential average's tensors.
pub const EMA: &str = "ema.";
/// Prefix of the names of the equal average's tensors.
pub const SWA: &str = "swa.";

/// The content of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// JSON text.
    pub manifest: String,
    /// All tensors, in the order of their names.
    pub tensors: Vec<NamedTensor>,
}

/// Why bytes are no container.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContainerError {
    /// The bytes have no header of safetensors, or end within it.
    #[error("not a Kindling checkpoint, or a truncated one; copy it again")]
    Foreign,
    /// The metadata has no manifest.
    #[error(
        "a safetensors file without Kindling's manifest; use it with --pretrained-path, or convert it \
         with `kindling convert`"
    )]
    NoManifest,
    /// The manifest does not have its checksum.
    #[error("the manifest was altered (checksum); copy it again")]
    ManifestAltered,
    /// The manifest is no JSON.
    #[error("manifest: {0}; write the checkpoint again")]
    ManifestText(String),
    /// The layout is of another version.
    #[error(
        "layout version {found} where this program reads {FORMAT}; use the program that wrote it"
    )]
    Version {
        /// The version, `?` where there is none.
        found: String,
    },
    /// The tensors are not all there.
    #[error("truncated: {0}; copy it again")]
    Truncated(String),
    /// The tensors do not have their checksum.
    #[error("the tensors were altered (checksum); copy it again")]
    TensorsAltered,
}

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct TensorRef<'a> {
    /// Name in the file.
    pub name: &'a str,
    /// Extents.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub values: &'a [f32],
}

impl<'a> From<&'a NamedTensor> for TensorRef<'a> {
    fn from(tensor: &'a NamedTensor) -> Self {
        Self { name: &tensor.name, shape: tensor.shape.clone(), values: &tensor.values }
    }
}

/// The bytes of a safetensors file of f32 tensors; `metadata` are keys and values, which may be
/// none.
///
/// # Panics
/// When a tensor does not have as many values as its extents say, or a name occurs twice.
pub fn safetensors_of<'a>(
    tensors: impl IntoIterator<Item = TensorRef<'a>>,
    metadata: &[(&str, &str)],
) -> Vec<u8> {
    serialise(&raw_of(tensors), metadata)
}

/// The bytes of a checkpoint.
///
/// # Panics
/// See [`safetensors_of`].
pub fn container_of<'a>(
    manifest: &str,
    tensors: impl IntoIterator<Item = TensorRef<'a>>,
) -> Vec<u8> {
    let raw = raw_of(tensors);
    let crc = crc_of(raw.iter().map(|(n, s, b)| (*n, s.as_slice(), b.as_slice())));
    let (manifest_crc, tensors_crc) =
        (crc32fast::hash(manifest.as_bytes()).to_string(), crc.to_string());
    let metadata = [
        (MANIFEST, manifest),
        (MANIFEST_CRC, manifest_crc.as_str()),
        (TENSORS_CRC, tensors_crc.as_str()),
    ];
    serialise(&raw, &metadata)
}

/// Name, extents and little-endian bytes of a tensor.
type RawTensor<'a> = (&'a str, Vec<usize>, Vec<u8>);

fn raw_of<'a>(tensors: impl IntoIterator<Item = TensorRef<'a>>) -> Vec<RawTensor<'a>> {
    tensors.into_iter().map(|t| (t.name, t.shape, bytes_of(t.values))).collect()
}

/// Alignment of the tensors' bytes in a file.
const ALIGNMENT: usize = 8;

/// The file: the length of the header, the header, the tensors in the order of their names. The
/// `safetensors` crate writes the keys of the metadata in a random order; here the same content
/// gives the same bytes.
fn serialise(raw: &[RawTensor], metadata: &[(&str, &str)]) -> Vec<u8> {
    let mut sorted: Vec<&RawTensor> = raw.iter().collect();
    sorted.sort_by_key(|(name, ..)| *name);
    let mut header = Map::new();
    if !metadata.is_empty() {
        let pairs = metadata.iter().map(|(key, value)| ((*key).to_owned(), json!(value)));
        header.insert("__metadata__".to_owned(), Value::Object(pairs.collect()));
    }
    let mut end = 0;
    for (name, shape, bytes) in &sorted {
        let start = end;
        end += bytes.len();
        assert_eq!(4 * shape.iter().product::<usize>(), bytes.len(), "{name}: bytes of {shape:?}");
        let tensor = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] });
        let before = header.insert((*name).to_owned(), tensor);
        assert!(before.is_none(), "{name}: a tensor's name occurs twice");
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    let mut file = Vec::with_capacity(8 + header.len() + end);
    file.extend((header.len() as u64).to_le_bytes());
    file.extend(header);
    sorted.iter().for_each(|(_, _, bytes)| file.extend(bytes));
    file
}

/// Little-endian bytes of the values.
fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Values of little-endian bytes.
fn floats_of(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// CRC-32 over names, shapes and bytes, in the order of the names.
fn crc_of<'a>(tensors: impl Iterator<Item = (&'a str, &'a [usize], &'a [u8])>) -> u32 {
    let mut all: Vec<_> = tensors.collect();
    all.sort_by_key(|(name, ..)| *name);
    let mut crc = crc32fast::Hasher::new();
    for (name, shape, bytes) in all {
        crc.update(format!("{name}:{shape:?}:").as_bytes());
        crc.update(bytes);
    }
    crc.finalize()
}

/// Whether bytes begin like a checkpoint: with a header of safetensors that has a manifest.
pub fn is_container(head: &[u8]) -> bool {
    let text = head.get(8..).unwrap_or_default();
    let key = MANIFEST_CRC.as_bytes();
    text.first() == Some(&b'{') && text.windows(key.len()).any(|window| window == key)
}

impl Container {
    /// Reads and verifies the bytes of a checkpoint.
    ///
    /// # Errors
    /// [`ContainerError`]: foreign, truncated, altered, or of another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ContainerError> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|_| ContainerError::Foreign)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let manifest = metadata.get(MANIFEST).ok_or(ContainerError::NoManifest)?;
        let recorded = |key: &str| metadata.get(key).and_then(|v| v.parse::<u32>().ok());
        if recorded(MANIFEST_CRC) != Some(crc32fast::hash(manifest.as_bytes())) {
            return Err(ContainerError::ManifestAltered);
        }
        let fields: serde_json::Value = serde_json::from_str(manifest)
            .map_err(|e| ContainerError::ManifestText(e.to_string()))?;
        let format = fields.get("format").and_then(serde_json::Value::as_u64);
        if format != Some(u64::from(FORMAT)) {
            let found = format.map_or_else(|| "?".to_owned(), |format| format.to_string());
            return Err(ContainerError::Version { found });
        }
        let tensors = SafeTensors::deserialize(bytes)
            .map_err(|e| ContainerError::Truncated(e.to_string()))?;
        let mut all = tensors.tensors();
        let crc = crc_of(all.iter().map(|(n, v)| (n.as_str(), v.shape(), v.data())));
        if recorded(TENSORS_CRC) != Some(crc) {
            return Err(ContainerError::TensorsAltered);
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let named = |(name, view): (String, TensorView)| NamedTensor {
            name,
            shape: view.shape().to_vec(),
            values: floats_of(view.data()),
        };
        Ok(Self { manifest: manifest.clone(), tensors: all.into_iter().map(named).collect() })
    }
}
