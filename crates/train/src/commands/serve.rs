//! `kindling serve`: checkpoints over HTTP.

use std::io::{self, IsTerminal as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};
use deploy::serve::{
    NamedModel, RequestLog, RequestRecord, ServeConfig, ServeError, Server, ServerHandle,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::commands::checkpoint_args::{WeightsArgs, chosen, load_classifier};
use crate::config::range::number;
use crate::device::Backend;
use crate::error::Error;
use crate::{err, out};

/// Arguments of `kindling serve`.
#[derive(Args)]
pub struct ServeArgs {
    /// Checkpoints or run folders, with a name in front or none [default: the newest run in
    /// checkpoints]
    #[arg(value_name = "[NAME=]CKPT")]
    checkpoints: Vec<String>,
    #[command(flatten)]
    weights: WeightsArgs,
    /// Address to listen on, 0.0.0.0 for all
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_name = "ADDRESS")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 8000, value_name = "PORT")]
    port: u16,
    /// Most images in one pass through the network [range: at least 1]
    #[arg(long, default_value_t = 16, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4096))]
    max_batch: u32,
    /// Milliseconds that an image waits for others to fill a batch; on a CPU waiting gains nothing
    /// [range: 0 to 10000]
    #[arg(long, default_value_t = 0, value_name = "MS")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=10_000))]
    #[arg(hide_short_help = true)]
    max_delay_ms: u32,
    /// Megabytes of one request, at most [range: 0.001 to 2000]
    #[arg(long, default_value_t = 10.0, value_name = "MB", value_parser = number(0.001..=2000.0))]
    #[arg(hide_short_help = true)]
    max_megabytes: f64,
    /// Millions of pixels of one image, at most [range: 0.001 to 179]
    #[arg(long, default_value_t = 50.0, value_name = "MP", value_parser = number(0.001..=179.0))]
    #[arg(hide_short_help = true)]
    max_megapixels: f64,
    /// Images of one request, at most [range: 1 to 4096]
    #[arg(long, default_value_t = 64, value_name = "N", hide_short_help = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4096))]
    max_images: u32,
    /// Requests at a time; one more gets status 429 [range: 1 to 65536]
    #[arg(long, default_value_t = 64, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    max_requests: u32,
    /// Open connections; one more waits [range: 1 to 65536]
    #[arg(long, default_value_t = 1024, value_name = "N", hide_short_help = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    max_connections: u32,
    /// Seconds for one request, at most [range: 0.1 to 3600]
    #[arg(long, default_value_t = 30.0, value_name = "S", value_parser = number(0.1..=3600.0))]
    #[arg(hide_short_help = true)]
    timeout: f64,
    /// Seconds for the last requests after SIGTERM [range: 0 to 3600]
    #[arg(long, default_value_t = 30.0, value_name = "S", value_parser = number(0.0..=3600.0))]
    #[arg(hide_short_help = true)]
    drain_timeout: f64,
    /// Seconds between SIGTERM and the end of accepting, for a load balancer that has to notice
    /// [range: 0 to 3600]
    #[arg(long, default_value_t = 0.0, value_name = "S", value_parser = number(0.0..=3600.0))]
    #[arg(hide_short_help = true)]
    drain_delay: f64,
    /// The line for each request, on standard error
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    log_format: AccessLog,
    /// Backend; `list` prints those of this machine
    #[arg(long, value_enum, default_value = "auto", value_name = "NAME")]
    backend: Backend,
}

/// How requests are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AccessLog {
    /// One line for people
    Text,
    /// One JSON object a line
    Json,
    /// Nothing
    Off,
}

/// Serves until a signal ends it; the exit code: 0 where every request had its answer, 4 where the
/// time for them ran out.
///
/// # Errors
/// A checkpoint that cannot be read; two models of one name; an address that cannot be taken.
pub fn serve(args: &ServeArgs) -> Result<u8, Error> {
    let device = args.backend.open()?.device;
    let models = named(&args.checkpoints)?;
    let labels: Vec<String> =
        models.iter().map(|(name, path)| format!("{name} ({})", path.display())).collect();
    let weights = args.weights;
    let served = models
        .into_iter()
        .map(|(name, path)| {
            let device = device.clone();
            let load =
                move || load_classifier(&path, weights, &device).map_err(|error| error.message);
            NamedModel { name, load: Box::new(load) }
        })
        .collect();
    let server = Server::bind(config(args), served, log(args.log_format)).map_err(|error| {
        let message = error.to_string();
        match error {
            ServeError::Listen { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
                Error::usage(format!(
                    "{address}: another program listens there; give another --port, or 0 for a free one"
                ))
            }
            ServeError::Listen { .. } => {
                Error::usage(format!("{message}; give another --host or --port"))
            }
            ServeError::Model(why) => Error::checkpoint(why),
            ServeError::Name(_) => Error::usage(format!("{message}; write NAME=CKPT")),
            ServeError::Thread(_) => Error::backend(message),
        }
    })?;
    let address = server.address().map_err(|error| Error::file(format!("the socket: {error}")))?;
    out!("serving {}", labels.join(", "));
    out!("page     http://{}/", shown(address));
    out!("predict  curl --data-binary @photo.jpg http://{}/predict", shown(address));
    out!("KServe   http://{}/v2 · metrics http://{0}/metrics", shown(address));
    match args.host.is_loopback() {
        true => out!("only this machine can reach it; --host 0.0.0.0 lets others in"),
        false => err!(
            "note: every machine that reaches this one can send requests: there is no TLS and no password"
        ),
    }
    if io::stdout().is_terminal() {
        out!("Ctrl-C ends it");
    }
    listen(server.handle()).map_err(|error| Error::file(format!("signals: {error}")))?;
    match server.run() {
        true => Ok(0),
        false => {
            err!("note: requests were still under way after {} s", args.drain_timeout);
            Ok(4)
        }
    }
}

fn config(args: &ServeArgs) -> ServeConfig {
    ServeConfig {
        address: SocketAddr::new(args.host, args.port),
        max_batch: args.max_batch as usize,
        max_delay: Duration::from_millis(args.max_delay_ms.into()),
        max_body: (args.max_megabytes * 1e6) as usize,
        max_pixels: (args.max_megapixels * 1e6) as u64,
        max_images: args.max_images as usize,
        max_requests: args.max_requests as usize,
        max_connections: args.max_connections as usize,
        timeout: Duration::from_secs_f64(args.timeout),
        drain_timeout: Duration::from_secs_f64(args.drain_timeout),
        drain_delay: Duration::from_secs_f64(args.drain_delay),
        ..ServeConfig::default()
    }
}

/// An address that a browser takes: one for all interfaces cannot be opened.
fn shown(address: SocketAddr) -> String {
    match address.ip().is_unspecified() {
        true => format!("localhost:{}", address.port()),
        false => address.to_string(),
    }
}

/// The models with their names: the given one, otherwise that of the run or of the file.
fn named(given: &[String]) -> Result<Vec<(String, PathBuf)>, Error> {
    if given.is_empty() {
        let path = chosen(None)?;
        return Ok(vec![(own_name(&path), path)]);
    }
    let mut models = Vec::with_capacity(given.len());
    for word in given {
        // A path may hold `=`; what exists is a path.
        let (name, path) = match word.split_once('=') {
            Some((name, path)) if !Path::new(word).exists() => (Some(name.to_owned()), path),
            _ => (None, &word[..]),
        };
        let path = chosen(Some(Path::new(path)))?;
        let name = name.unwrap_or_else(|| own_name(&path));
        models.push((name, path));
    }
    Ok(models)
}

/// The name of a model by its file; for a checkpoint of a run the name of the run.
fn own_name(path: &Path) -> String {
    let file = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let run = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy());
    let name = match (file.as_str(), run) {
        ("model_best" | "last" | "model_swa", Some(run)) => run.into_owned(),
        _ => file,
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    name.chars().map(plain).collect()
}

/// Hears SIGTERM and Ctrl-C, which end the server, and SIGHUP, which reads the models again. A
/// second ending signal ends the process at once.
fn listen(handle: ServerHandle) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGQUIT, SIGHUP])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut ending = false;
        for signal in signals.forever() {
            if signal == SIGHUP {
                for (name, result) in handle.reload() {
                    match result {
                        Ok(()) => err!("reloaded {name}"),
                        Err(why) => err!("error: {name} stays as it was: {why}"),
                    }
                }
            } else if ending {
                std::process::exit(128 + signal);
            } else {
                ending = true;
                err!("ending: the last requests are answered");
                handle.drain();
            }
        }
    })?;
    Ok(())
}

/// Writes a line a request.
fn log(format: AccessLog) -> RequestLog {
    let now = chrono::Local::now;
    // A load balancer asks every few seconds.
    let routine = |record: &RequestRecord| {
        record.status == 200
            && ["/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"]
                .contains(&&*record.path)
    };
    match format {
        AccessLog::Off => Box::new(|_| ()),
        AccessLog::Text => Box::new(move |record: &RequestRecord| {
            if routine(record) {
                return;
            }
            let RequestRecord { method, path, status, images, milliseconds, error } = record;
            let images = match images {
                0 => String::new(),
                1 => " · 1 image".to_owned(),
                many => format!(" · {many} images"),
            };
            let error = error.as_ref().map(|why| format!(" · {why}")).unwrap_or_default();
            let time = now().format("%H:%M:%S");
            err!("{time} {status} {method} {path}{images} · {milliseconds:.1} ms{error}");
        }),
        AccessLog::Json => Box::new(move |record: &RequestRecord| {
            let mut line = serde_json::json!(record);
            line["time"] = serde_json::json!(now().to_rfc3339());
            err!("{line}");
        }),
    }
}
