//! The epochs of a run, as `summary.csv` has them.

use std::path::Path;

use crate::error::Error;

/// An epoch. Losses are cross-entropies, accuracies and waits percent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Epoch {
    /// From 1.
    pub(super) number: f64,
    pub(super) train_loss: f64,
    pub(super) val_loss: f64,
    pub(super) top1: f64,
    pub(super) ema: f64,
    pub(super) lr: f64,
    pub(super) wait: f64,
    pub(super) seconds: f64,
}

/// Reads the epochs of a run folder; what is missing in a row is not a number.
///
/// # Errors
/// [`crate::error::ErrorKind::File`]: the file cannot be read.
pub(super) fn history(folder: &Path) -> Result<Vec<Epoch>, Error> {
    let path = folder.join("summary.csv");
    let text = match std::fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Error::file(format!("{}: cannot read: {error}", path.display()))),
    };
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let epochs = lines.filter_map(|line| {
        let fields: Vec<&str> = line.split(',').collect();
        let value = |name: &str| {
            let column = names.iter().position(|own| *own == name);
            let field = column.and_then(|column| fields.get(column));
            field.and_then(|field| field.trim().parse::<f64>().ok()).unwrap_or(f64::NAN)
        };
        let number = value("epoch") + 1.0;
        number.is_finite().then(|| Epoch {
            number,
            train_loss: value("train_loss"),
            val_loss: value("eval_loss"),
            top1: value("eval_top1"),
            ema: value("eval_top1_ema"),
            lr: value("lr"),
            wait: value("data_wait_pct"),
            seconds: value("epoch_s"),
        })
    });
    Ok(epochs.collect())
}
