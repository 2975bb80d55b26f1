//! From values to pixels, with ticks at round numbers.

/// An axis: its values, where they lie in pixels, and whether equal ratios are equal distances.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Values at both ends.
    pub values: [f64; 2],
    /// Pixels at both ends.
    pub pixels: [f64; 2],
    /// Logarithmic; the values are above 0.
    pub log: bool,
}

impl Scale {
    /// A scale that holds all finite `values`. With `from_zero` it begins at 0.
    pub fn of(
        values: impl Iterator<Item = f64>,
        pixels: [f64; 2],
        log: bool,
        from_zero: bool,
    ) -> Self {
        let usable = values.filter(|value| value.is_finite() && (!log || *value > 0.0));
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        usable.for_each(|value| (low, high) = (low.min(value), high.max(value)));
        if low > high {
            (low, high) = if log { (1e-3, 1.0) } else { (0.0, 1.0) };
        }
        if from_zero && !log {
            low = low.min(0.0);
        }
        if low == high {
            (low, high) = match log {
                true => (low / 2.0, high * 2.0),
                false => (low - 0.5 * low.abs().max(1e-9), high + 0.5 * high.abs().max(1e-9)),
            };
        }
        if !log {
            let step = step(low, high);
            (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
        }
        Self { values: [low, high], pixels, log }
    }

    /// The pixel of a value.
    pub fn at(&self, value: f64) -> f64 {
        let mapped = |value: f64| if self.log { value.ln() } else { value };
        let [low, high] = self.values.map(mapped);
        let share = (mapped(value) - low) / (high - low);
        self.pixels[0] + share * (self.pixels[1] - self.pixels[0])
    }

    /// Round values along the axis, with their words.
    pub fn ticks(&self) -> Vec<(f64, String)> {
        let [low, high] = self.values;
        if self.log {
            let (from, to) = (low.log10().ceil() as i32, high.log10().floor() as i32);
            let every = ((to - from) / 6).max(0) + 1;
            let powers = (from..=to).filter(|power| (power - from) % every == 0);
            return powers.map(|power| (10_f64.powi(power), format!("1e{power}"))).collect();
        }
        let step = step(low, high);
        let low = (low / step).ceil() * step;
        let digits = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
        let count = ((high - low) / step + 1e-9).floor() as usize;
        (0..=count)
            .map(|number| low + number as f64 * step)
            .map(|value| (value, format!("{:.digits$}", value + 0.0)))
            .collect()
    }
}

/// The round distance of ticks: 1, 2 or 5 times a power of ten, for four to eight of them.
fn step(low: f64, high: f64) -> f64 {
    let rough = (high - low) / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let round = [1.0, 2.0, 5.0, 10.0].into_iter().find(|round| rough <= round * power);
    round.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::Scale;

    /// Mutations caught, each alone: steps of 3; no room around a single value.
    #[test]
    fn ticks_are_round_and_hold_every_value() {
        let words = |values: &[f64], log| {
            let scale = Scale::of(values.iter().copied(), [0.0, 100.0], log, false);
            values
                .iter()
                .filter(|v| v.is_finite())
                .for_each(|v| assert!((0.0..=100.0).contains(&scale.at(*v)), "{v}"));
            scale.ticks().into_iter().map(|tick| tick.1).collect::<Vec<_>>()
        };
        assert_eq!(words(&[0.13, 2.31], false), ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5"]);
        assert_eq!(words(&[0.0, 39.0], false), ["0", "10", "20", "30", "40"]);
        assert_eq!(words(&[0.981, 0.993], false).first().unwrap(), "0.980");
        assert_eq!(words(&[1e-5, 2e-3], true), ["1e-5", "1e-4", "1e-3"]);
        assert!(words(&[5.0], false).len() >= 3);
        assert!(!words(&[f64::NAN], false).is_empty());
    }
}
