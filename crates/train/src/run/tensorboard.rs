//! `--tensorboard`: the scalars of a run as TensorBoard's event files.
//!
//! A file is a chain of records: length, masked CRC32C of the length, an `Event` of TensorFlow's
//! protocol buffers, masked CRC32C of the event. A resumed run opens a new file, whose session mark
//! tells TensorBoard that later steps of older files are void.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::err;
use crate::error::Error;
use crate::files::create_folders;
use crate::learner::evaluate::EvalReport;
use crate::run::observer::{BatchRecord, EpochRecord, Observer};

/// Folder of the event files in the folder of a run.
const FOLDER: &str = "tensorboard";

/// The writer of one start of a run.
pub struct TensorBoard {
    writer: Mutex<Writer>,
    interval: usize,
}

struct Writer {
    /// None once a write has failed.
    file: Option<File>,
    /// The session mark of a resumed run is still to be written, with the first step.
    session: bool,
}

impl TensorBoard {
    /// Opens a new file in the run folder; scalars are written every `interval` batches and after
    /// each epoch. Steps are batches of the run, and epochs from 1.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::File`].
    pub fn open(run: &Path, interval: usize, resumed: bool) -> Result<Self, Error> {
        let folder = run.join(FOLDER);
        create_folders(&folder)?;
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host: String = host.chars().filter(char::is_ascii_alphanumeric).collect();
        let host = if host.is_empty() { "host" } else { &host };
        // TensorBoard reads the files in the order of their names.
        let name =
            format!("events.out.tfevents.{:.0}.{host}.{}.0", now().floor(), std::process::id());
        let path = folder.join(name);
        let file = File::create(&path)
            .map_err(|e| Error::file(format!("{}: cannot write: {e}", path.display())))?;
        let board =
            Self { writer: Mutex::new(Writer { file: Some(file), session: resumed }), interval };
        board.write(&event(0, &bytes_field(FILE_VERSION, b"brain.Event:2")));
        Ok(board)
    }

    fn write(&self, event: &[u8]) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = &mut writer.file else { return };
        if let Err(error) = file.write_all(&record(event)) {
            err!("note: --tensorboard: cannot write: {error}; the run goes on without it");
            writer.file = None;
        }
    }

    /// Writes numbers of a step; those that are not finite are left out.
    fn scalars(&self, step: u64, scalars: &[(&str, f64)]) {
        let first = {
            let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut writer.session)
        };
        if first {
            self.write(&event(step, &bytes_field(SESSION_LOG, &[1 << 3, START])));
        }
        let values: Vec<u8> = scalars
            .iter()
            .filter(|(_, value)| value.is_finite())
            .flat_map(|(tag, value)| {
                let mut scalar = bytes_field(1, tag.as_bytes());
                scalar.push(2 << 3 | 5);
                scalar.extend((*value as f32).to_le_bytes());
                bytes_field(1, &scalar)
            })
            .collect();
        self.write(&event(step, &bytes_field(SUMMARY, &values)));
    }
}

impl Observer for TensorBoard {
    fn batch(&self, record: &BatchRecord) {
        if !(record.batch.is_multiple_of(self.interval) || record.batch == record.batches) {
            return;
        }
        let step = record.epoch * record.batches as u64 + record.batch as u64;
        self.scalars(
            step,
            &[
                ("batch/loss", record.loss),
                ("batch/lr", record.lr),
                ("batch/images_per_second", record.epoch_stats.img_per_s()),
                ("batch/data_wait_percent", record.epoch_stats.wait_percent()),
            ],
        );
    }

    fn evaluated(&self, _done: u64, _all: usize) {}

    fn epoch(&self, record: &EpochRecord) {
        let mut scalars = vec![("epoch/train_loss", record.stats.mean_loss().unwrap_or(f64::NAN))];
        if let Some(report) = record.report {
            scalars.extend([
                ("epoch/val_loss", report.loss),
                ("epoch/top1", 100.0 * report.top1),
                ("epoch/top5", 100.0 * report.top5),
            ]);
        }
        if let Some(report) = record.ema {
            scalars.push(("epoch/top1_ema", 100.0 * report.top1));
        }
        self.scalars(record.epoch + 1, &scalars);
    }

    fn averaged(&self, _report: &EvalReport) {}

    fn note(&self, _text: &str) {}
}

/// Fields of `Event`.
const FILE_VERSION: u8 = 3;
const SUMMARY: u8 = 5;
const SESSION_LOG: u8 = 7;

/// `SessionLog.START`.
const START: u8 = 1;

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// An `Event` of this moment: wall time, step, and what happened.
fn event(step: u64, what: &[u8]) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend(now().to_le_bytes());
    event.push(2 << 3);
    varint(&mut event, step);
    event.extend(what);
    event
}

/// A field of bytes, text or a message.
fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    varint(&mut field, bytes.len() as u64);
    field.extend(bytes);
    field
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// A record of TensorFlow's event files.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(crc32c(&length)).to_le_bytes());
    record.extend(data);
    record.extend(masked(crc32c(data)).to_le_bytes());
    record
}

/// TensorFlow's mask: a CRC of bytes that hold a CRC is a weak one.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), which `crc32fast` does not compute.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut crc, mut bit) = (byte as u32, 0);
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, byte| crc >> 8 ^ TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of RFC 3720 (B.4) and of TensorFlow's own reader for a record of no bytes.
    ///
    /// Mutations caught: the polynomial of CRC-32.
    #[test]
    fn checksums_are_castagnolis_and_masked() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked(0), 0xa282_ead8);
        assert_eq!(masked(0x8a91_36aa), 0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    /// Mutations caught: a varint of one byte.
    #[test]
    fn a_record_has_its_length_and_both_checksums() {
        let data = vec![7; 300];
        let record = record(&data);
        assert_eq!(record.len(), 8 + 4 + 300 + 4);
        assert_eq!(record[..8], 300_u64.to_le_bytes());
        assert_eq!(record[8..12], masked(crc32c(&record[..8])).to_le_bytes());
        assert_eq!(record[312..], masked(crc32c(&data)).to_le_bytes());
        let mut bytes = Vec::new();
        varint(&mut bytes, 300);
        assert_eq!(bytes, [0b1010_1100, 0b10]);
    }
}
