//! `kindling completions`: a shell's completion script on standard output.

use std::io::Write as _;

use clap::builder::PossibleValuesParser;
use clap::{Arg, Args, Command};
use clap_complete::Shell;
use nn::models::variants::VARIANTS;

use crate::config::recipe;
use crate::published_weights::PublishedWeights;

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
    let mut program = with_names(program.clone());
    clap_complete::generate(args.shell, &mut program, "kindling", &mut script);
    // A reader that has gone away wants no more.
    let _ = std::io::stdout().lock().write_all(&script);
}

/// The command line with the names that its options take, which the help does not list because
/// they are many.
fn with_names(command: Command) -> Command {
    let command = command.mut_args(|arg| match names(&arg) {
        names if names.is_empty() => arg,
        names => arg.value_parser(PossibleValuesParser::new(names)),
    });
    let below: Vec<String> =
        command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    below.into_iter().fold(command, |command, name| command.mut_subcommand(name, with_names))
}

/// The names that an option or argument takes; none where it takes something else.
fn names(arg: &Arg) -> Vec<&'static str> {
    let recipes = || recipe::all().iter().map(|recipe| recipe.name).collect();
    let value = arg.get_value_names().and_then(|names| names.first()).map(|name| name.as_str());
    match (arg.get_id().as_str(), value) {
        ("model", _) | (_, Some("MODEL")) => VARIANTS.iter().map(|variant| variant.name).collect(),
        ("recipe", _) => recipes(),
        ("pretrained", _) => PublishedWeights::all().iter().map(|weights| weights.name).collect(),
        _ => Vec::new(),
    }
}
