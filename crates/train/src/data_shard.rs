//! `kindling data shard`: a folder of pictures as a few tar files, which a disk reads in long runs and a copy moves
//! at once. Any tar reads them; members are `<class>/<name>`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::checkpoint::write_atomically;
use crate::failure::Failure;
use crate::folder::{ImageFolder, VAL_NAMES};
use crate::out;
use crate::quarantine::{Quarantine, leave_out_of};
use crate::shards::{FORMAT, INDEX, Index, Member, Shard};

/// Bytes of a tar block.
const BLOCK: usize = 512;

/// The words of `kindling data shard`.
#[derive(Args)]
pub struct ShardArgs {
    /// Folder with `train/<class>/*` and, if there is one, `val/<class>/*`
    #[arg(value_name = "DIR")]
    data_dir: PathBuf,
    /// Folder of the shards; `train`, `eval` and `data preview` take it like DIR
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Megabytes from which the next file is begun
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    shard_size: u64,
}

/// Runs the subcommand; its exit code.
///
/// # Errors
/// Faults of the folder, a picture that cannot be read, a file that cannot be written, shards that are there.
pub fn shard(args: &ShardArgs) -> Result<u8, Failure> {
    let place = args.output.join(INDEX);
    if place.exists() {
        return Err(Failure::usage(format!(
            "{}: there are shards already; remove them or choose another --output",
            place.display()
        )));
    }
    let mut train = ImageFolder::open_train(&args.data_dir, None)?;
    let has_val = VAL_NAMES.iter().any(|name| args.data_dir.join(name).is_dir());
    let mut val = match has_val {
        true => Some(ImageFolder::open_val(&args.data_dir, None, &train.classes)?),
        false => None,
    };
    // The shards hold what training and evaluation take.
    let list = Quarantine::of(&args.data_dir, None)?;
    leave_out_of(&list, &args.data_dir, &mut train);
    if let Some(val) = &mut val {
        leave_out_of(&list, &args.data_dir, val);
    }
    std::fs::create_dir_all(&args.output).map_err(|e| cannot_write(&args.output, &e))?;
    let limit = args.shard_size << 20;
    let write = |split: &str, folder: &ImageFolder| write_split(&args.output, split, folder, limit);
    let index = Index {
        format: FORMAT,
        classes: train.classes.clone(),
        train: write("train", &train)?,
        val: val.as_ref().map(|val| write("val", val)).transpose()?.unwrap_or_default(),
    };
    // The index comes last: a folder that has one is whole.
    let text = serde_json::to_vec(&index).expect("an index is plain data");
    write_atomically(&place, &text)?;
    for (split, shards) in [("train", &index.train), ("val", &index.val)] {
        let pictures: usize = shards.iter().map(|shard| shard.pictures.len()).sum();
        let bytes: u64 = shards.iter().map(|shard| shard.bytes).sum();
        out!(
            "{split}: {pictures} pictures in {} files, {:.1} MB",
            shards.len(),
            bytes as f64 / 1e6
        );
    }
    Ok(0)
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::file(format!(
        "{}: cannot write: {error}; make room or choose another --output",
        path.display()
    ))
}

/// The files of a split, each written beside its place and renamed.
fn write_split(
    output: &Path,
    split: &str,
    folder: &ImageFolder,
    limit: u64,
) -> Result<Vec<Shard>, Failure> {
    let (mut shards, mut next, mut bytes) = (Vec::new(), 0, Vec::new());
    while next < folder.items.len() {
        let name = format!("{split}-{:06}.tar", shards.len());
        let (path, scratch) = (output.join(&name), output.join(format!("{name}.tmp")));
        let failed = |e: std::io::Error| {
            let _ = std::fs::remove_file(&scratch);
            cannot_write(&path, &e)
        };
        let mut file = BufWriter::new(File::create(&scratch).map_err(failed)?);
        let mut shard = Shard { file: name, bytes: 0, pictures: Vec::new() };
        while next < folder.items.len() && (shard.bytes < limit || shard.pictures.is_empty()) {
            folder.bytes(next, &mut bytes)?;
            let (path, label) = &folder.items[next];
            let below = path.strip_prefix(&folder.root).unwrap_or(path);
            let below = below.to_str().ok_or_else(|| {
                Failure::data(format!("{}: a name that is not UTF-8; rename it", path.display()))
            })?;
            let below = if cfg!(windows) { below.replace('\\', "/") } else { below.to_owned() };
            let header = header(&below, next, bytes.len() as u64);
            let padding = bytes.len().next_multiple_of(BLOCK) - bytes.len();
            file.write_all(&header)
                .and_then(|()| file.write_all(&bytes))
                .and_then(|()| file.write_all(&[0; BLOCK][..padding]))
                .map_err(failed)?;
            let (from, crc) = (shard.bytes + BLOCK as u64, crc32fast::hash(&bytes));
            shard.pictures.push(Member(from, bytes.len() as u64, *label, crc, below));
            shard.bytes = from + (bytes.len() + padding) as u64;
            next += 1;
        }
        // Two empty blocks end a tar file.
        shard.bytes += 2 * BLOCK as u64;
        file.write_all(&[0; 2 * BLOCK])
            .and_then(|()| file.into_inner().map_err(std::io::IntoInnerError::into_error))
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(&scratch, &path))
            .map_err(failed)?;
        shards.push(shard);
    }
    Ok(shards)
}

/// The ustar header of a member (POSIX.1-1988). A name that is too long for it gives way to the picture's number; the
/// index has the whole.
fn header(name: &str, number: usize, bytes: u64) -> [u8; BLOCK] {
    let ending = Path::new(name).extension().map(|x| x.to_string_lossy().into_owned());
    let (prefix, short) = match name.rsplit_once('/') {
        _ if name.len() <= 100 => (String::new(), name.to_owned()),
        Some((folder, file)) if folder.len() <= 155 && file.len() <= 100 => {
            (folder.to_owned(), file.to_owned())
        }
        _ => (String::new(), format!("{number:08}.{}", ending.unwrap_or_default())),
    };
    let mut block = [0; BLOCK];
    let mut put =
        |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, &short);
    put(100, "0000644\0"); // mode
    put(108, "0000000\0"); // owner
    put(116, "0000000\0"); // group
    put(124, &format!("{bytes:011o}\0"));
    put(136, "00000000000\0"); // time: the same pictures give the same file
    put(148, "        "); // the sum is taken over blanks
    put(156, "0"); // a file
    put(257, "ustar\x0000");
    put(345, &prefix);
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
