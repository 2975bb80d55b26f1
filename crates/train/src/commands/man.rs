//! `kindling man`: man pages, one for the program and one for every subcommand.

use std::path::{Path, PathBuf};

use clap::{Args, Command};

use crate::error::Error;
use crate::out;

/// The arguments of `kindling man`.
#[derive(Args)]
pub struct ManArgs {
    /// Folder for the pages: kindling.1, kindling-train.1 and so on
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Runs the subcommand; `program` is the whole command line.
///
/// # Errors
/// [`crate::error::ErrorKind::File`] if the folder or a page cannot be written.
pub fn man(args: &ManArgs, program: Command) -> Result<(), Error> {
    let fail = |path: &Path, why: std::io::Error| {
        Error::file(format!("{}: cannot write man pages: {why}", path.display()))
    };
    std::fs::create_dir_all(&args.dir).map_err(|why| fail(&args.dir, why))?;
    clap_mangen::generate_to(explained(program), &args.dir).map_err(|why| fail(&args.dir, why))?;
    let dir = args.dir.display();
    out!("wrote the man pages to {dir}; `man -l {dir}/kindling-train.1` shows one");
    Ok(())
}

/// A command whose every option has its text in a page: clap_mangen leaves out the text of an
/// option that the short help hides, unless it is the long one.
fn explained(command: Command) -> Command {
    let names: Vec<String> =
        command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let command = command.mut_args(|arg| match (arg.get_help().cloned(), arg.get_long_help()) {
        (Some(help), None) => arg.long_help(help),
        _ => arg,
    });
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, explained))
}
