//! `kindling report`: the report of a run, made again, or a comparison of several.

use std::path::PathBuf;

use clap::Args;

use crate::device::{Backend, OpenedDevice};
use crate::error::Error;
use crate::files::refuse_other_extension;
use crate::report;
use crate::signal::Stop;
use crate::{err, out};

/// Runs of a comparison: a colour for each.
const MOST_RUNS: usize = crate::plot::svg::SERIES;

/// The arguments of `kindling report`.
#[derive(Args)]
pub struct ReportArgs {
    /// Run folders; several are compared
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// HTML file of a comparison [default: comparison.html]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Backend; `list` prints those of this machine
    #[arg(long, value_enum, default_value = "auto", value_name = "NAME")]
    backend: Backend,
}

/// Writes the report of a run into its folder, or compares several runs; the exit code.
///
/// # Errors
/// A folder without a run; data that are no more there; files that cannot be written.
pub fn report(args: &ReportArgs) -> Result<u8, Error> {
    if args.runs.len() > MOST_RUNS {
        return Err(Error::usage(format!(
            "{} runs: at most {MOST_RUNS} can be told apart in one drawing; give fewer",
            args.runs.len()
        )));
    }
    let opened = args.backend.open()?;
    let stop = Stop::listen().map_err(|e| Error::file(format!("signals: {e}")))?;
    let written = write(args, &opened, &stop);
    match (&written, stop.requested()) {
        (Err(_), Some(signal)) => {
            err!("interrupted; no report");
            Ok(signal)
        }
        _ => written.map(|()| 0),
    }
}

fn write(args: &ReportArgs, opened: &OpenedDevice, stop: &Stop) -> Result<(), Error> {
    if let [run] = args.runs.as_slice() {
        if args.output.is_some() {
            return Err(Error::usage(
                "--output: the report of one run is written into its folder; omit the flag",
            ));
        }
        let written = report::write(run, opened, stop)?;
        out!("report: {}", written.page.display());
        written.files.iter().for_each(|file| out!("        {}", file.display()));
        return Ok(());
    }
    let to = args.output.clone().unwrap_or_else(|| "comparison.html".into());
    refuse_other_extension(&to, "html")?;
    report::compare(&args.runs, &to, opened, stop)?.iter().for_each(|line| out!("{line}"));
    Ok(())
}
