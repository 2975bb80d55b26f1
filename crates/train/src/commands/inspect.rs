//! `kindling inspect`: what a checkpoint contains.

use std::path::PathBuf;

use clap::Args;

use crate::commands::checkpoint_args::chosen;
use crate::error::Error;
use crate::out;
use crate::run::checkpoint::Checkpoint;

/// Arguments of `inspect`.
#[derive(Args)]
pub struct InspectArgs {
    /// Checkpoint to describe
    #[arg(value_name = "CKPT")]
    checkpoint: PathBuf,
    /// Print the whole manifest as JSON [default: text]
    #[arg(long)]
    json: bool,
}

/// Classes that are shown.
const SHOWN: usize = 10;

/// The first classes of many, and how many more there are.
fn first_of(classes: &[String]) -> String {
    match classes.len().checked_sub(SHOWN) {
        None | Some(0) => classes.join(", "),
        Some(more) => format!("{} and {more} more", classes[..SHOWN].join(", ")),
    }
}

/// Prints the manifest of a checkpoint.
pub fn inspect(args: &InspectArgs) -> Result<(), Error> {
    let path = &args.checkpoint;
    let checkpoint = Checkpoint::read(&chosen(Some(path))?)?;
    let manifest = &checkpoint.manifest;
    if args.json {
        out!("{}", serde_json::to_string_pretty(manifest).expect("plain data"));
        return Ok(());
    }
    let values = |it: &mut dyn Iterator<Item = usize>| it.sum::<usize>();
    out!("{}: checksums right", path.display());
    out!("network     {} width {}", manifest.network.architecture.name(), manifest.network.width);
    out!("classes     {}: {}", manifest.classes.len(), first_of(&manifest.classes));
    out!("preprocess  {}", serde_json::to_string(&manifest.preprocess).expect("plain data"));
    let p = &manifest.position;
    out!("position    epoch {}, batch {}, step {}", p.epoch + 1, p.batch, p.step);
    if let Some(best) = manifest.best {
        out!("best        {:.3} % top-1 at epoch {}", 100.0 * best.top1, best.epoch + 1);
    }
    out!(
        "weights     {} values in {} tensors",
        values(&mut checkpoint.weights.iter().map(|t| t.values.len())),
        checkpoint.weights.len()
    );
    out!(
        "optimizer   {:?}, {} values",
        manifest.plan.optimizer.opt,
        values(&mut checkpoint.optimizer.iter().map(|t| t.values.len()))
    );
    let better = if manifest.prefer_ema { "the better one" } else { "the weights are better" };
    if let Some(updates) = manifest.ema_updates {
        out!("ema         average of {updates} updates, {better}");
    }
    if let Some(epochs) = manifest.swa_epochs {
        out!("swa         average of {epochs} epochs");
    }
    out!("written by  kindling {}", manifest.kindling);
    Ok(())
}
