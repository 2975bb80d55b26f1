//! Measures the sum of gradients over the ranks of a job, for the size of every network:
//!
//! ```text
//! mpirun -n 2 target/debug/examples/all_reduce [ROUNDS] [NETWORK]
//! ```
//!
//! Prints bytes, the median and the 95th percentile of the seconds of a sum, and the same of a sum
//! whose values travel as bf16, with its relative error. docs/distributed.md has the figures.

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
    let wanted = std::env::args().nth(2);
    if ranks.rank() == 0 {
        println!("network ranks bytes median_s p95_s bf16_median_s bf16_p95_s bf16_error");
    }
    for name in NETWORKS.into_iter().filter(|name| wanted.as_deref().is_none_or(|own| own == *name))
    {
        let config = Variant::parse(name).expect("a known name").config(1000);
        let count = cost(&config, 299, 299).parameters as usize;
        let value = |i: usize| {
            // Values between 1e-6 and 1e-2, as gradients have.
            let draw = ((i * 2_654_435_761 + 97 * ranks.rank()) % 10_007) as f32 / 10_007.0;
            1e-6 * 10_f32.powf(4.0 * draw) * if i.is_multiple_of(2) { 1.0 } else { -1.0 }
        };
        let own: Vec<f32> = (0..count).map(value).collect();
        let [mut sum, mut halved] = [own.clone(), own.clone()];
        let (mut whole_s, mut halved_s) = (Vec::new(), Vec::new());
        // In turn, so that a busy machine slows both.
        for _ in 0..rounds {
            sum.clone_from(&own);
            halved.clone_from(&own);
            ranks.gather(&[])?;
            let began = Instant::now();
            ranks.sum(&mut sum)?;
            whole_s.push(began.elapsed().as_secs_f64());
            ranks.gather(&[])?;
            let began = Instant::now();
            ranks.sum_bf16(&mut halved)?;
            halved_s.push(began.elapsed().as_secs_f64());
        }
        let square = |values: &mut dyn Iterator<Item = f32>| {
            values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
        };
        let apart = square(&mut halved.iter().zip(&sum).map(|(a, b)| a - b));
        let error = apart / square(&mut sum.iter().copied());
        if ranks.rank() == 0 {
            let of = |mut seconds: Vec<f64>| {
                seconds.sort_by(f64::total_cmp);
                let at = |share: f64| seconds[((seconds.len() - 1) as f64 * share) as usize];
                format!("{:.6} {:.6}", at(0.5), at(0.95))
            };
            let (world, bytes) = (ranks.world(), 4 * count);
            println!("{name} {world} {bytes} {} {} {error:.2e}", of(whole_s), of(halved_s));
        }
    }
    ranks.finish()
}
