//! The command line: parse, dispatch, print the one sentence of a failure, return the exit code.
//!
//! Exit codes: 0 done, 2 usage, 3 data, 4 out of time and saved, 5 diverged, 6 checkpoint, 7 backend,
//! memory or threads, 8 file,
//! 130/143 interrupted by SIGINT/SIGTERM with the run saved.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use kernels::isa::Isa;
use kernels::ops::threads::inside;

use crate::commands::average::{AverageArgs, average};
use crate::commands::bench::{BenchArgs, bench};
use crate::commands::bn_reestimate::{BnReestimateArgs, bn_reestimate};
use crate::commands::completions::{CompletionsArgs, completions};
use crate::commands::convert::{ConvertArgs, convert};
use crate::commands::data::{DataCommand, data};
use crate::commands::eval::{EvalArgs, eval};
use crate::commands::explain::{ExplainArgs, explain};
use crate::commands::forward::{ForwardArgs, forward};
use crate::commands::inspect::{InspectArgs, inspect};
use crate::commands::lr_find::{LrFindArgs, lr_find};
use crate::commands::man::{ManArgs, man};
use crate::commands::models::models;
use crate::commands::predict::{PredictArgs, predict};
use crate::commands::preprocess::{PreprocessArgs, preprocess};
use crate::commands::profile::{ProfileArgs, profile};
use crate::commands::recipes::{RecipesArgs, recipes};
use crate::commands::replay::{ReplayArgs, replay};
use crate::commands::summary::{SummaryArgs, summary};
use crate::commands::train::{TrainArgs, train};
use crate::device;
use crate::error::Error;
use crate::learner::out_of_memory::catch_oom;
use crate::{err, out};

/// Trains, evaluates and ships efficient image classifiers
#[derive(Parser)]
#[command(name = "kindling", version, propagate_version = true, args_override_self = true)]
struct Program {
    #[command(subcommand)]
    command: Command,
    /// Threads of the CPU kernels [default: as many as cores] [range: 1 to 4096]
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..=4096))]
    #[arg(value_name = "N", help_heading = "Machine", hide_short_help = true)]
    threads: Option<u32>,
    /// Instruction set of the CPU kernels: portable, neon, avx2 or avx512 [default: the largest]
    #[arg(long, global = true, value_name = "NAME")]
    #[arg(help_heading = "Machine", hide_short_help = true)]
    isa: Option<String>,
}

/// The end of the short help of a subcommand with the options of a run.
const SHORT_HELP: &str = "Only the most important options are listed; --help lists all of them.";

/// The end of its long help.
const LONG_HELP: &str = "Every option of a run is also a key of the TOML file of --config, with _ \
                         for - in its name.\nPrecedence, lowest first: default, --recipe, \
                         --config, flag.";

/// What a program prints where an allocation that cannot be done without finds no memory.
pub const OUT_OF_MEMORY: &str = "error: out of memory: an allocation failed; the last checkpoint of \
                                 a run is intact; lower --batch-size, --img-size or --workers, or \
                                 raise `ulimit -v`\n";

/// The exit code that follows: that of [`crate::error::ErrorKind::Memory`].
pub const OUT_OF_MEMORY_CODE: i32 = 7;

/// Chooses the instructions, where they are given, and makes the one pool of threads; before anything
/// has run.
fn prepare(threads: Option<u32>, isa: Option<&str>) -> Result<(), Error> {
    if let Some(isa) = isa {
        Isa::force(isa).map_err(|why| Error::usage(format!("--isa: {why}")))?;
    }
    // Without a number as many as rayon takes by itself.
    let threads = threads.unwrap_or(0) as usize;
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().map_err(|why| {
        let wanted = match threads {
            0 => "the threads of the CPU kernels".to_owned(),
            number => format!("--threads {number}"),
        };
        Error::backend(format!(
            "{wanted}: the system starts no more threads ({why}); give a lower --threads, or raise \
             `ulimit -u` or `ulimit -v`"
        ))
    })
}

#[derive(Subcommand)]
enum Command {
    /// Train a network on a folder of images
    #[command(args_override_self = true, allow_negative_numbers = true)]
    #[command(after_help = SHORT_HELP, after_long_help = LONG_HELP)]
    Train(Box<TrainArgs>),
    /// Evaluate a checkpoint on a folder of images
    #[command(visible_alias = "val", visible_alias = "validate")]
    Eval(EvalArgs),
    /// Predict the classes of images in files and folders
    Predict(PredictArgs),
    /// Write the input tensors that the network gets for images
    Preprocess(PreprocessArgs),
    /// List the models with parameters, multiply-adds, published accuracy and source
    Models,
    /// List published training recipes, for `train --recipe`
    Recipes(RecipesArgs),
    /// Print a network layer by layer
    Summary(Box<SummaryArgs>),
    /// Explain what convolutions, blocks and multipliers cost, with your numbers
    Explain(ExplainArgs),
    /// Convert weights between files and naming schemes
    Convert(Box<ConvertArgs>),
    /// Run a network, or training steps, on tensors from a file
    Forward(Box<ForwardArgs>),
    /// Measure images per second of a network in training or inference
    Bench(Box<BenchArgs>),
    /// Measure each layer of a network against the best this machine can do
    Profile(Box<ProfileArgs>),
    /// Check, preview and pack folders of images
    #[command(subcommand)]
    Data(DataCommand),
    /// Find a learning rate: plot the loss along a rising one, as CSV and SVG
    #[command(name = "lr-find", args_override_self = true)]
    #[command(after_help = SHORT_HELP, after_long_help = LONG_HELP)]
    LrFind(Box<LrFindArgs>),
    /// Average the weights of several checkpoints into one
    Average(AverageArgs),
    /// Re-estimate the batch-norm statistics of a checkpoint
    #[command(name = "bn-reestimate")]
    Reestimate(BnReestimateArgs),
    /// Replay a batch whose loss or gradient was not finite
    Replay(ReplayArgs),
    /// Describe a checkpoint
    Inspect(InspectArgs),
    /// Print a completion script for bash, zsh, fish, elvish or PowerShell
    Completions(CompletionsArgs),
    /// Write manual pages
    Man(ManArgs),
}

/// Runs the program on its arguments, the name of the program first.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let lists = |pair: &[OsString]| pair[0] == "--backend" && pair[1] == "list";
    if arguments.windows(2).any(lists) || arguments.iter().any(|w| w == "--backend=list") {
        device::list().iter().for_each(|line| out!("{line}"));
        return ExitCode::SUCCESS;
    }
    let program = match parse(arguments) {
        Ok(program) => program,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let result = prepare(program.threads, program.isa.as_deref())
        .and_then(|()| inside(|| run_within_memory(program.command)));
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            err!("error: {failure}");
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// Runs a command; missing memory that the command does not handle is an error like any other.
fn run_within_memory(command: Command) -> Result<u8, Error> {
    catch_oom(|| run(command)).unwrap_or_else(|why| {
        Err(Error::memory(format!(
            "{why}; lower --batch-size or --img-size, or close other programs"
        )))
    })
}

/// Parses the command line.
fn parse(words: Vec<OsString>) -> Result<Program, clap::Error> {
    let mut program = Program::command();
    if words.iter().any(|word| word == "-h") {
        program = program.mut_subcommand("train", brief).mut_subcommand("lr-find", brief);
        program = program.mut_subcommand("data", |data| data.mut_subcommand("preview", brief));
    }
    let mut matches = program.try_get_matches_from_mut(words)?;
    Program::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut program))
}

/// The subcommand for `-h`: its options in one list without headings, each on one line of 80
/// columns, so that the list fits on one screen.
fn brief(command: clap::Command) -> clap::Command {
    /// Columns beside the flags.
    const WIDTH: usize = 48;

    let command = command.mut_args(|arg| {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let with_default = help.split(" [range").next().unwrap_or_default();
        let help = match with_default.chars().count() {
            0..=WIDTH => with_default,
            _ => help.split(" [default").next().unwrap_or_default(),
        };
        // `None` takes the aliases away, which come back unseen. The program ends after its help.
        let aliases: Vec<&str> = arg
            .get_visible_aliases()
            .unwrap_or_default()
            .into_iter()
            .map(|alias| &*alias.to_owned().leak())
            .collect();
        let help = help.to_owned();
        arg.help(help)
            .help_heading(None::<&str>)
            .hide_possible_values(true)
            .visible_alias(None::<&str>)
            .aliases(aliases)
    });
    let template = "{about}\n{usage-heading} {usage}\n\n{all-args}{after-help}";
    command.disable_version_flag(true).help_template(template)
}

fn run(command: Command) -> Result<u8, Error> {
    match command {
        Command::Train(args) => train(&args),
        Command::Eval(args) => eval(&args),
        Command::Predict(args) => predict(&args),
        Command::Preprocess(args) => preprocess(&args).map(|()| 0),
        Command::Models => {
            models();
            Ok(0)
        }
        Command::Recipes(args) => recipes(&args).map(|()| 0),
        Command::Summary(args) => summary(&args).map(|()| 0),
        Command::Explain(args) => explain(&args).map(|()| 0),
        Command::Convert(args) => convert(&args).map(|said| {
            out!("{said}");
            0
        }),
        Command::Forward(args) => forward(&args).map(|()| 0),
        Command::Bench(args) => bench(&args).map(|()| 0),
        Command::Profile(args) => profile(&args).map(|()| 0),
        Command::Data(command) => data(&command),
        Command::LrFind(args) => lr_find(&args).map(|()| 0),
        Command::Average(args) => average(&args).map(|()| 0),
        Command::Reestimate(args) => bn_reestimate(&args).map(|()| 0),
        Command::Replay(args) => replay(&args).map(|()| 0),
        Command::Inspect(args) => inspect(&args).map(|()| 0),
        Command::Completions(args) => {
            completions(&args, &mut Program::command());
            Ok(0)
        }
        Command::Man(args) => man(&args, Program::command()).map(|()| 0),
    }
}
