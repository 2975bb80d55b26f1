//! Measures the sum of gradients over the ranks of a job, for the size of every network:
//!
//! ```text
//! mpirun -n 2 target/debug/examples/all_reduce
//! ```
//!
//! Prints bytes, the median and the 95th percentile of the seconds of a sum, and the seconds and the
//! relative error of a sum of bf16 values. docs/distributed.md has the figures.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]

use std::time::{Duration, Instant};

use nn::cost::cost;
use nn::models::variants::Variant;
use train::distributed::launch;
use train::error::Error;

const NETWORKS: [&str; 7] = [
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "googlenet",
    "inception_v3",
    "xception",
];

fn main() -> Result<(), Error> {
    let ranks = launch::open(Duration::from_secs(30))?;
    let rounds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(21);
    if ranks.rank() == 0 {
        println!("network ranks bytes median_s p95_s bf16_error");
    }
    for name in NETWORKS {
        let config = Variant::parse(name).expect("a known name").config(1000);
        let count = cost(&config, 299, 299).parameters as usize;
        let value = |i: usize| {
            // Values between 1e-6 and 1e-2, as gradients have.
            let draw = ((i * 2_654_435_761 + 97 * ranks.rank()) % 10_007) as f32 / 10_007.0;
            1e-6 * 10_f32.powf(4.0 * draw) * if i.is_multiple_of(2) { 1.0 } else { -1.0 }
        };
        let own: Vec<f32> = (0..count).map(value).collect();
        let mut seconds = Vec::new();
        let mut sum = Vec::new();
        for _ in 0..rounds {
            sum.clone_from(&own);
            ranks.gather(&[])?;
            let began = Instant::now();
            ranks.sum(&mut sum)?;
            seconds.push(began.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        // What bf16 on the wire would lose: each summand is rounded, and the sum once more.
        let mut rounded: Vec<f32> = own.iter().map(|value| bf16(*value)).collect();
        ranks.sum(&mut rounded)?;
        let square = |values: &mut dyn Iterator<Item = f32>| {
            values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
        };
        let apart = square(&mut rounded.iter().zip(&sum).map(|(a, b)| bf16(*a) - b));
        let error = apart / square(&mut sum.iter().copied());
        if ranks.rank() == 0 {
            let at = |share: f64| seconds[((seconds.len() - 1) as f64 * share) as usize];
            let world = ranks.world();
            println!("{name} {world} {} {:.6} {:.6} {error:.2e}", 4 * count, at(0.5), at(0.95));
        }
    }
    ranks.finish()
}

/// The nearest bf16.
fn bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}
