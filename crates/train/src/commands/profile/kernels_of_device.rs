//! `kindling profile --count` and `--kernels`: what a batch asks of a GPU, and where its time goes.

use kernels::gpu::traffic::{KernelTime, Traffic, count, time};
use nn::network::Network;
use serde::Serialize;

use crate::commands::bench::{Work, batch_of};
use crate::device::OpenedDevice;
use crate::error::Error;
use crate::out;

/// What is printed.
pub(super) struct Request {
    /// Training or inference.
    pub(super) mode: Work,
    /// Times instead of counts.
    pub(super) times: bool,
    /// JSON instead of text.
    pub(super) json: bool,
}

/// Prints what a batch of `batch` images of `size` pixels asks of the device.
///
/// # Errors
/// A device whose work is not done by GPU kernels.
pub(super) fn report(
    network: Network,
    chosen: &OpenedDevice,
    [batch, size]: [usize; 2],
    request: &Request,
) -> Result<(), Error> {
    if chosen.is_host() {
        return Err(Error::usage(format!(
            "--count and --kernels: {} has no GPU kernels; name --backend wgpu",
            chosen.name
        )));
    }
    let mut work = batch_of(request.mode, network, batch, size, &chosen.device.clone().autodiff());
    // The first batch makes what later ones reuse: momentum, constants, compiled kernels.
    let first = count(&mut work);
    match request.times {
        true => {
            work();
            print_times(&time(&mut work), request.json);
        }
        false => {
            drop(first);
            print_counts(&count(&mut work), [batch, size], request);
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct Counted {
    operation: &'static str,
    calls: usize,
    read_gb: f64,
    written_gb: f64,
    longest_chain: usize,
}

fn gb(bytes: usize) -> f64 {
    bytes as f64 / 1e9
}

fn print_counts(traffic: &Traffic, [batch, size]: [usize; 2], request: &Request) {
    let mut operations: Vec<Counted> = traffic
        .operations
        .iter()
        .map(|(operation, work)| Counted {
            operation,
            calls: work.calls,
            read_gb: gb(work.read),
            written_gb: gb(work.written),
            longest_chain: work.chain,
        })
        .collect();
    operations.sort_by(|a, b| (b.read_gb + b.written_gb).total_cmp(&(a.read_gb + a.written_gb)));
    let mut launches: Vec<(String, usize)> =
        traffic.launches.iter().map(|(kernel, count)| (short(kernel), *count)).collect();
    launches.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    if request.json {
        let launches: Vec<_> = launches
            .iter()
            .map(|(kernel, count)| serde_json::json!({"kernel": kernel, "launches": count}))
            .collect();
        let whole = serde_json::json!({
            "batch_size": batch,
            "img_size": size,
            "mode": request.mode,
            "launches": traffic.launch_count(),
            "gb": gb(traffic.bytes()),
            "longest_chain": traffic.longest_chain(),
            "operations": operations,
            "kernels": launches,
        });
        out!("{}", serde_json::to_string_pretty(&whole).expect("plain data"));
        return;
    }
    out!(
        "{:<30} {:>6} {:>9} {:>11} {:>8}",
        "operation",
        "calls",
        "read, GB",
        "written, GB",
        "chain"
    );
    for o in &operations {
        out!(
            "{:<30} {:>6} {:>9.3} {:>11.3} {:>8}",
            o.operation,
            o.calls,
            o.read_gb,
            o.written_gb,
            o.longest_chain
        );
    }
    out!("");
    out!("{:<66} {:>8}", "kernel", "launches");
    for (kernel, count) in &launches {
        out!("{kernel:<66} {count:>8}");
    }
    out!("");
    let work = if request.mode == Work::Train { "a training step" } else { "inference" };
    out!(
        "{work} of {batch} images at {size}x{size}: {} launches, {:.2} GB by the operations above, \
         longest chain {}",
        traffic.launch_count(),
        gb(traffic.bytes()),
        traffic.longest_chain()
    );
}

fn print_times(kernels: &[KernelTime], json: bool) {
    let whole: f64 = kernels.iter().map(|kernel| kernel.seconds).sum();
    let mut rows: Vec<(String, usize, f64)> = Vec::new();
    for kernel in kernels {
        let name = short(kernel.kernel);
        match rows.iter_mut().find(|row| row.0 == name) {
            Some(row) => {
                row.1 += 1;
                row.2 += kernel.seconds;
            }
            None => rows.push((name, 1, kernel.seconds)),
        }
    }
    rows.sort_by(|a, b| b.2.total_cmp(&a.2));
    if json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(kernel, launches, s)| {
                serde_json::json!({"kernel": kernel, "launches": launches, "ms": 1e3 * s})
            })
            .collect();
        out!("{}", serde_json::to_string_pretty(&rows).expect("plain data"));
        return;
    }
    out!("{:<66} {:>8} {:>9} {:>6}", "kernel", "launches", "ms", "%");
    for (kernel, launches, seconds) in &rows {
        out!("{kernel:<66} {launches:>8} {:>9.2} {:>6.1}", 1e3 * seconds, 100.0 * seconds / whole);
    }
    out!("");
    out!("{} launches, {:.1} ms, one kernel at a time", kernels.len(), 1e3 * whole);
}

/// A kernel's name without the paths of its types.
fn short(kernel: &str) -> String {
    let mut name = String::new();
    let mut word = String::new();
    for letter in kernel.chars() {
        match letter {
            ':' => word.clear(),
            letter if letter.is_alphanumeric() || letter == '_' => word.push(letter),
            letter => {
                name.push_str(&word);
                word.clear();
                name.push(letter);
            }
        }
    }
    name.push_str(&word);
    name.chars().take(66).collect()
}
