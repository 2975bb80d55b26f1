//! Ranges of options: how a value is checked, and the message about one that is outside.

use std::fmt::Display;
use std::ops::{RangeFrom, RangeInclusive};

use crate::error::Error;

/// Whether a value lies in a range.
pub(in crate::config) trait InRange<Range> {
    /// The value and what was expected instead.
    fn fault(&self, range: &Range) -> Option<(String, String)>;
}

/// Refuses a value outside its range, by flag name, with the range.
pub(in crate::config) fn check<R, T: InRange<R>>(
    key: &str,
    value: &T,
    range: &R,
) -> Result<(), Error> {
    value.fault(range).map_or(Ok(()), |(value, expected)| {
        Err(Error::usage(format!("{}: `{value}`: expected {expected}", flag(key))))
    })
}

/// The parser of a flag that takes a number of a range: what it lets through is in the range.
pub(crate) fn number(range: RangeInclusive<f64>) -> impl Fn(&str) -> Result<f64, String> + Clone {
    move |text| match text.parse::<f64>() {
        Ok(value) if range.contains(&value) => Ok(value),
        _ => Err(format!("expected {} to {}", range.start(), range.end())),
    }
}

/// 0, which switches something off, or a number of a range.
pub(in crate::config) struct OrZero(RangeInclusive<f64>);

/// See [`OrZero`].
pub(in crate::config) fn or_zero(range: RangeInclusive<f64>) -> OrZero {
    OrZero(range)
}

/// The range of each of several values, in any order.
pub(in crate::config) struct Each(RangeInclusive<f64>);

/// See [`Each`].
pub(in crate::config) fn each(range: RangeInclusive<f64>) -> Each {
    Each(range)
}

fn between<T: PartialOrd + Display>(
    value: &T,
    range: &RangeInclusive<T>,
) -> Option<(String, String)> {
    // A number that is none is in no range.
    (!range.contains(value))
        .then(|| (value.to_string(), format!("{} to {}", range.start(), range.end())))
}

macro_rules! whole_numbers {
    ($($type:ty),+) => {$(
        impl InRange<RangeInclusive<$type>> for $type {
            fn fault(&self, range: &RangeInclusive<$type>) -> Option<(String, String)> {
                between(self, range)
            }
        }

        impl InRange<RangeFrom<$type>> for $type {
            fn fault(&self, range: &RangeFrom<$type>) -> Option<(String, String)> {
                (!range.contains(self))
                    .then(|| (self.to_string(), format!("at least {}", range.start)))
            }
        }
    )+};
}
whole_numbers!(u64, usize);

impl InRange<RangeInclusive<f64>> for f64 {
    fn fault(&self, range: &RangeInclusive<f64>) -> Option<(String, String)> {
        between(self, range)
    }
}

impl InRange<OrZero> for f64 {
    fn fault(&self, range: &OrZero) -> Option<(String, String)> {
        let fault = if *self == 0.0 { None } else { between(self, &range.0) };
        fault.map(|(value, expected)| (value, format!("0 or {expected}")))
    }
}

impl InRange<RangeInclusive<f64>> for [f64; 2] {
    fn fault(&self, range: &RangeInclusive<f64>) -> Option<(String, String)> {
        let [low, high] = self;
        let ascending = range.contains(low) && range.contains(high) && low <= high;
        (!ascending).then(|| {
            let expected = format!("{} to {}, the smaller one first", range.start(), range.end());
            (format!("{low} {high}"), format!("two numbers from {expected}"))
        })
    }
}

impl<T: InRange<RangeInclusive<f64>>> InRange<Each> for Vec<T> {
    fn fault(&self, range: &Each) -> Option<(String, String)> {
        self.iter().find_map(|value| value.fault(&range.0))
    }
}

impl InRange<Each> for [f64; 2] {
    fn fault(&self, range: &Each) -> Option<(String, String)> {
        self.iter().find_map(|value| value.fault(&range.0))
    }
}

impl<R, T: InRange<R>> InRange<R> for Option<T> {
    fn fault(&self, range: &R) -> Option<(String, String)> {
        self.as_ref().and_then(|value| value.fault(range))
    }
}

/// The flag of a key.
pub(in crate::config) fn flag(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::{check, each, or_zero};

    /// Mutations caught: NaN let through, a pair that descends, 0 refused by `or_zero`.
    #[test]
    fn values_outside_their_range_are_refused_by_flag_and_range() {
        let fault = |result: Result<(), crate::error::Error>| result.unwrap_err().message;
        assert_eq!(
            fault(check("max_hours", &f64::NAN, &(0.0..=1.0))),
            "--max-hours: `NaN`: expected 0 to 1"
        );
        assert_eq!(fault(check("epochs", &0_u64, &(1..))), "--epochs: `0`: expected at least 1");
        assert_eq!(
            fault(check("scale", &[0.5, 0.3], &(0.001..=1.0))),
            "--scale: `0.5 0.3`: expected two numbers from 0.001 to 1, the smaller one first"
        );
        let alpha = or_zero(0.01..=100.0);
        assert_eq!(
            fault(check("mixup", &0.001, &alpha)),
            "--mixup: `0.001`: expected 0 or 0.01 to 100"
        );
        check("mixup", &0.0, &alpha).unwrap();
        check("opt_betas", &[0.9, 0.5], &each(0.0..=0.99)).unwrap();
        check("swa_lr", &None::<f64>, &(0.0..=1.0)).unwrap();
    }
}
