//! The plan of a command that takes the options of `train`: flags over `--config` over `--recipe`,
//! then what the pretrained weights decide.

use std::path::Path;

use crate::config::options::Options;
use crate::config::plan::Plan;
use crate::config::recipe;
use crate::err;
use crate::error::Error;
use crate::run::begin::complete;

/// The end of the long help of a command that takes the options of a run.
pub(crate) const PRECEDENCE: &str = "Every option of a run is also a key of the TOML file of --config, with _ for - in its \
                                     name.\nPrecedence, lowest first: default, --recipe, --config, flag.";

/// The flags over the options of the file and of the recipe.
///
/// # Errors
/// A file that cannot be read, an unknown recipe, a path that is not UTF-8.
pub(super) fn merge(flags: &Options, config: Option<&Path>) -> Result<Options, Error> {
    let file = match config {
        Some(path) => Options::read(path)?,
        None => Options::default(),
    };
    let options = flags.over(&file);
    options.utf8()?;
    recipe::under(options)
}

/// The plan of a new run with these flags; what was chosen for its data is said on standard error.
///
/// # Errors
/// A file that cannot be read, an unknown recipe, and those of [`complete`].
pub(super) fn plan(flags: &Options, config: Option<&Path>) -> Result<Plan, Error> {
    let (plan, notes) = complete(merge(flags, config)?)?;
    notes.iter().for_each(|note| err!("note: {note}"));
    Ok(plan)
}
