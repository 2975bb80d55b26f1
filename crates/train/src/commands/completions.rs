//! `kindling completions`: a shell's completion script on standard output.

use std::io::Write as _;

use clap::{Args, Command};
use clap_complete::Shell;

/// The arguments of `kindling completions`.
#[derive(Args)]
pub struct CompletionsArgs {
    /// Shell that the script is for
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs the subcommand; `program` is the whole command line.
pub fn completions(args: &CompletionsArgs, program: &mut Command) {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, program, "kindling", &mut script);
    // A reader that has gone away wants no more.
    let _ = std::io::stdout().lock().write_all(&script);
}
