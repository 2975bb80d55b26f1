//! The command line: parse, dispatch, print the one sentence of a failure, return the exit code.
//!
//! Exit codes: 0 done, 2 usage, 3 data, 4 out of time and saved, 5 diverged, 6 checkpoint, 7
//! backend, memory or threads, 8 file, 9 another rank lost, 130/143 interrupted by SIGINT/SIGTERM
//! with the run saved.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use kernels::isa::Isa;
use kernels::ops::threads::inside;

use crate::commands::average::{AverageArgs, average};
use crate::commands::bench::{BenchArgs, bench};
use crate::commands::bn_reestimate::{BnReestimateArgs, bn_reestimate};
use crate::commands::compare::{CompareArgs, compare};
use crate::commands::completions::{CompletionsArgs, completions};
use crate::commands::convert::{ConvertArgs, convert};
use crate::commands::data::{DataCommand, data};
use crate::commands::eval::{EvalArgs, eval};
use crate::commands::explain::{ExplainArgs, explain};
use crate::commands::export::{ExportArgs, export};
use crate::commands::forward::{ForwardArgs, forward};
use crate::commands::inspect::{InspectArgs, inspect};
use crate::commands::lr_find::{LrFindArgs, lr_find};
use crate::commands::man::{ManArgs, man};
use crate::commands::models::{ModelsArgs, models};
use crate::commands::plan_args::PRECEDENCE;
use crate::commands::predict::{PredictArgs, predict};
use crate::commands::preprocess::{PreprocessArgs, preprocess};
use crate::commands::profile::{ProfileArgs, profile};
use crate::commands::recipes::{RecipesArgs, recipes};
use crate::commands::replay::{ReplayArgs, replay};
use crate::commands::report::{ReportArgs, report};
use crate::commands::serve::{ServeArgs, serve};
use crate::commands::summary::{SummaryArgs, summary};
use crate::commands::train::{TrainArgs, train};
use crate::device;
use crate::distributed::launch;
use crate::error::Error;
use crate::files;
use crate::foreign_flags;
use crate::learner::out_of_memory::catch_oom;
use crate::signal;
use crate::{err, out};

/// Trains, evaluates and ships efficient image classifiers
#[derive(Parser)]
#[command(name = "kindling", version, propagate_version = true)]
struct Program {
    #[command(subcommand)]
    command: Command,
    /// Threads of the CPU kernels [default: one per core] [range: 1 to 4096]
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..=4096))]
    #[arg(value_name = "N", help_heading = "Machine", hide_short_help = true)]
    threads: Option<u32>,
    /// Instruction set of the CPU kernels [default: the largest of this machine]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Machine")]
    #[arg(value_parser = ["portable", "neon", "avx2", "avx512"], hide_short_help = true)]
    isa: Option<String>,
}

/// The end of the short help.
const SHORT_HELP: &str = "Only the most important options are listed; --help lists all of them.";

/// What a program prints where an allocation that cannot be done without finds no memory.
pub const OUT_OF_MEMORY: &str = "error: out of memory: an allocation failed; the last checkpoint of \
                                 a run is intact; lower --batch-size, --img-size or --workers, or \
                                 raise `ulimit -v`\n";

/// The exit code that follows: that of [`crate::error::ErrorKind::Memory`].
pub const OUT_OF_MEMORY_CODE: i32 = 7;

/// How long other ranks leave rank 0 to say what is wrong.
const AFTER_ROOT: Duration = Duration::from_secs(3);

/// Chooses the instructions, where they are given, and makes the one pool of threads; before
/// anything has run.
fn prepare(threads: Option<u32>, isa: Option<&str>) -> Result<(), Error> {
    if let Some(isa) = isa {
        Isa::force(isa).map_err(|why| Error::usage(format!("--isa: {why}")))?;
    }
    // Without a number as many as rayon takes by itself, but ranks on one host share its cores.
    let of_a_rank = || if launch::announced_ranks() > 1 { launch::cores() } else { 0 };
    let threads = threads.map_or_else(of_a_rank, |threads| threads as usize);
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
    #[command(after_long_help = PRECEDENCE)]
    Train(Box<TrainArgs>),
    /// Evaluate a checkpoint on a folder
    #[command(visible_aliases = ["val", "validate"])]
    Eval(EvalArgs),
    /// Compare two checkpoints on the same images
    Compare(CompareArgs),
    /// Write the report of a run again, or compare several runs
    Report(ReportArgs),
    /// Predict the classes of images
    Predict(PredictArgs),
    /// Write the normalised input tensors of images
    Preprocess(PreprocessArgs),
    /// List the models with their size, cost and published accuracy
    Models(ModelsArgs),
    /// List the published training recipes, for `train --recipe`
    Recipes(RecipesArgs),
    /// Print a network layer by layer
    Summary(Box<SummaryArgs>),
    /// Explain what convolutions, blocks and multipliers cost
    Explain(ExplainArgs),
    /// Write a checkpoint for others: ONNX, a web page, timm's weights
    Export(ExportArgs),
    /// Serve checkpoints over HTTP: a page, /predict, KServe v2
    Serve(ServeArgs),
    /// Convert weights between file formats and naming schemes
    Convert(Box<ConvertArgs>),
    /// Run a network, or training steps, on tensors from a file
    Forward(Box<ForwardArgs>),
    /// Measure the images per second of a network
    Bench(Box<BenchArgs>),
    /// Measure each layer of a network against this machine's roofline
    Profile(Box<ProfileArgs>),
    /// Check, preview and shard folders of images
    #[command(subcommand)]
    Data(DataCommand),
    /// Find a learning rate: the loss along a rising rate
    #[command(name = "lr-find")]
    #[command(after_long_help = PRECEDENCE)]
    LrFind(Box<LrFindArgs>),
    /// Average the weights of several checkpoints
    Average(AverageArgs),
    /// Re-estimate the batch-norm statistics of a checkpoint
    #[command(name = "bn-reestimate")]
    Reestimate(BnReestimateArgs),
    /// Replay a batch whose loss or gradient was not finite
    Replay(ReplayArgs),
    /// Describe a checkpoint
    Inspect(InspectArgs),
    /// Print the completion script of a shell
    Completions(CompletionsArgs),
    /// Write man pages
    Man(ManArgs),
}

/// The command line as data, for documents and tests.
pub fn command() -> clap::Command {
    alike(Program::command())
}

/// What holds for every command: the last one of repeated flags counts, and `-1` is a number.
fn alike(command: clap::Command) -> clap::Command {
    let command = command.args_override_self(true).allow_negative_numbers(true);
    below(&command).into_iter().fold(command, |command, name| command.mut_subcommand(name, alike))
}

/// The names of the commands directly below a command.
fn below(command: &clap::Command) -> Vec<String> {
    command.get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

/// Runs the program on its arguments, the name of the program first.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    signal::survive_file_size_limit();
    files::inject_crash();
    let lists = |pair: &[OsString]| pair[0] == "--backend" && pair[1] == "list";
    if arguments.windows(2).any(lists) || arguments.iter().any(|w| w == "--backend=list") {
        device::list().iter().for_each(|line| out!("{line}"));
        return ExitCode::SUCCESS;
    }
    let arguments = match translated(arguments) {
        Ok(arguments) => arguments,
        Err(why) => {
            err!("error: {why}");
            return ExitCode::from(2);
        }
    };
    let program = match parse(arguments) {
        Ok(program) => program,
        Err(error) => {
            // All ranks have the same arguments; one says what is wrong with them.
            if launch::announced_rank() == 0 {
                let _ = error.print();
            }
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let ranks = match &program.command {
        Command::Train(_) => Ok(()),
        _ => launch::refuse_ranks("this command"),
    };
    let ready = ranks.and_then(|()| prepare(program.threads, program.isa.as_deref()));
    let result = ready.and_then(|()| {
        match program.command {
            // A server waits, and would keep a thread of the pool from the network.
            command @ Command::Serve(_) => run_within_memory(command),
            command => inside(|| run_within_memory(command)),
        }
    });
    let code = match result {
        Ok(code) => code,
        Err(failure) => {
            if launch::announced_rank() > 0 {
                // What every rank finds is rank 0's to say: it ends the job, and this rank with it.
                signal::end_at_once(failure.kind.exit_code());
                std::thread::sleep(AFTER_ROOT);
            }
            err!("error: {}{failure}", launch::prefix());
            failure.kind.exit_code()
        }
    };
    signal::exit_without_destructors(code)
}

/// The command line with the flags of other trainers translated; notes go to standard error.
fn translated(arguments: Vec<OsString>) -> Result<Vec<OsString>, String> {
    let Some(at) = arguments.iter().skip(1).position(|word| word == "train").map(|at| at + 1)
    else {
        return Ok(arguments);
    };
    // Only options that hold for every command may stand before it.
    let other = |word: &OsString| !word.to_string_lossy().starts_with('-');
    if arguments[1..at].iter().any(other)
        && !["--threads", "--isa"].iter().any(|own| arguments[at - 2] == *own)
    {
        return Ok(arguments);
    }
    let (before, words) = arguments.split_at(at + 1);
    let translated = foreign_flags::translate(words)?;
    translated.notes.iter().for_each(|note| err!("note: {note}"));
    Ok([before, &translated.words].concat())
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
    let mut program = command();
    if words.iter().any(|word| word == "-h") {
        program = short(program);
    }
    let mut matches = program.try_get_matches_from_mut(words)?;
    Program::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut program))
}

/// A command for `-h`, with everything below it.
fn short(command: clap::Command) -> clap::Command {
    let names = below(&command);
    let command = match names.is_empty() {
        true => brief(command),
        false => command
            .disable_help_subcommand(true)
            .help_template("{about}\n{usage-heading} {usage}\n\n{subcommands}{after-help}")
            .after_help("COMMAND --help lists the options of a command."),
    };
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, short))
}

/// A command without subcommands for `-h`: its options in one list without headings, each on one
/// line of 80 columns, so that the list fits on one screen.
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
    command.disable_version_flag(true).help_template(template).after_help(SHORT_HELP)
}

fn run(command: Command) -> Result<u8, Error> {
    match command {
        Command::Train(args) => train(&args),
        Command::Eval(args) => eval(&args),
        Command::Compare(args) => compare(&args),
        Command::Report(args) => report(&args),
        Command::Predict(args) => predict(&args),
        Command::Preprocess(args) => preprocess(&args).map(|()| 0),
        Command::Models(args) => {
            models(&args);
            Ok(0)
        }
        Command::Recipes(args) => recipes(&args).map(|()| 0),
        Command::Summary(args) => summary(&args).map(|()| 0),
        Command::Explain(args) => explain(&args).map(|()| 0),
        Command::Export(args) => export(&args).map(|()| 0),
        Command::Serve(args) => serve(&args),
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
            completions(&args, &mut self::command());
            Ok(0)
        }
        Command::Man(args) => man(&args, self::command()).map(|()| 0),
    }
}
