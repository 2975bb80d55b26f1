//! The macro [`theme!`]: one entry for an option, and everything that a program needs of it comes
//! from that entry. Also the small functions by which an entry converts and describes values;
//! `range.rs` checks them.
//!
//! # An entry
//!
//! ```text
//! theme! {
//!     /// Learning-rate schedule.                       documentation of both structs
//!     "Schedule": ScheduleOptions -> SchedulePlan (given, epochs: u64, lr: f64);
//!     //          all `Option`       resolved     what defaults and ranges may look at
//!
//!     /// Shape of the decay after the warm-up         help text, one sentence
//!     #[arg(long, value_enum)]                         clap's own attribute
//!     #[brief]                                         shown by `-h` too
//!     sched: LrSchedulerKind = LrSchedulerKind::Cosine;
//!
//!     /// Epochs of linear warm-up
//!     #[arg(long, value_parser = finite)]
//!     warmup_epochs: f64 = 0.3 * epochs as f64, shown "0.3 of --epochs", in 0.0..=1e6;
//!
//!     /// Range of the run with a noisy rate, as two shares
//!     #[arg(long, num_args = 2, value_names = ["FROM", "TO"])]
//!     lr_noise: Vec<f64> => Option<[f64; 2]>, in 0.0..=1.0;
//! }
//! ```
//!
//! In this order, all but the type optional:
//!
//! * `#[brief]`: the option appears in the short help. `#[resumable]`: a resumed run may change it.
//! * `name: Given => Resolved`: the type as typed, and in the plan where that is another one:
//!   `Option<T>` for an option that may stay open, `[T; N]` for a fixed number of values.
//! * `= default`: any expression. It may use the options above it in the theme (resolved), `given`
//!   (the theme as typed), and the arguments in the head of the theme.
//! * `, shown "text"`: the default in words, where the expression would not tell a reader.
//! * `, as |value| ...`: applied to the value, given or default.
//! * `, in range`: `low..=high`, `low..`, `or_zero(low..=high)`, `each(low..=high)`; it may use what
//!   a default may use, and later options too. A pair has to ascend, unless `each` is said.
//! * `, older value`: the value in a plan of an older run that lacks the key, where it is not the
//!   default of today.
//!
//! `only given { ... }` at the end holds options that decide defaults and are no part of the plan,
//! each as `name: Type, shown "text", in range`.

use crate::config::range::flag;
use crate::error::Error;

/// Makes the two structs of a theme from its entries; see the head of the file.
macro_rules! theme {
    (
        $(#[doc = $about:literal])+
        $heading:literal: $options:ident -> $plan:ident
            ($given:ident $(, $argument:ident: $argument_type:ty)* $(,)?);
        $(
            $(#[doc = $doc:literal])+
            #[arg($($arg:tt)*)]
            $(#[$mark:ident])*
            $field:ident: $type:ty $(=> $resolved:ty)? $(= $default:expr)?
                $(, shown $shown:literal)? $(, as $map:expr)? $(, in $range:expr)?
                $(, older $older:expr)?;
        )+
        $(only given {
            $(
                $(#[doc = $only_doc:literal])+
                #[arg($($only_arg:tt)*)]
                $only:ident: $only_type:ty, shown $only_shown:literal $(, in $only_range:expr)?;
            )+
        })?
    ) => {
        $(#[doc = $about])+
        ///
        /// As typed: `None` is an option that was not given.
        #[derive(clap::Args, Clone, Debug, Default, PartialEq)]
        #[command(next_help_heading = $heading)]
        pub struct $options {
            $(
                $(#[doc = $doc])+
                #[arg(
                    help = $crate::config::theme::HelpText {
                        text: &[$($doc),+],
                        shown: [$($shown,)? ""][0],
                        default: [$(stringify!($default),)? "none"][0],
                        range: [$(stringify!($range),)? ""][0],
                    }.text(),
                    hide_short_help = ![$(stringify!($mark)),*].contains(&"brief"),
                    $($arg)*
                )]
                pub $field: Option<$type>,
            )+
            $($(
                $(#[doc = $only_doc])+
                #[arg(
                    help = $crate::config::theme::HelpText {
                        text: &[$($only_doc),+],
                        shown: $only_shown,
                        default: "none",
                        range: [$(stringify!($only_range),)? ""][0],
                    }.text(),
                    hide_short_help = true,
                    $($only_arg)*
                )]
                pub $only: Option<$only_type>,
            )+)?
        }

        $(#[doc = $about])+
        ///
        /// Resolved and checked.
        #[derive(Clone, Debug, PartialEq)]
        pub struct $plan {
            $(
                $(#[doc = $doc])+
                pub $field: $crate::config::theme::first!([$($resolved)?] [$type]),
            )+
        }

        impl $options {
            /// The keys of the theme in a file.
            pub(in crate::config) const KEYS: &[&str] =
                &[$(stringify!($field),)+ $($(stringify!($only),)+)?];

            /// The keys that a resumed run may change.
            pub(in crate::config) fn resumable() -> impl Iterator<Item = &'static str> {
                let marked: &[(&str, &[&str])] =
                    &[$((stringify!($field), &[$(stringify!($mark)),*])),+];
                marked.iter().filter(|(_, marks)| marks.contains(&"resumable")).map(|(key, _)| *key)
            }

            /// Fills what is not given with what `under` gives.
            pub(in crate::config) fn over(&self, under: &Self) -> Self {
                Self {
                    $($field: self.$field.clone().or_else(|| under.$field.clone()),)+
                    $($($only: self.$only.clone().or_else(|| under.$only.clone()),)+)?
                }
            }

            /// Adds what is given to a map.
            pub(in crate::config) fn list(
                &self,
                map: &mut serde_json::Map<String, serde_json::Value>,
            ) {
                let mut add = |key: &str, value: Option<serde_json::Value>| {
                    value.and_then(|value| map.insert(key.to_owned(), value));
                };
                $(add(stringify!($field), $crate::config::theme::value(self.$field.as_ref()));)+
                $($(add(stringify!($only), $crate::config::theme::value(self.$only.as_ref()));)+)?
            }

            /// Refuses a value that no file of a run could hold: a path that is not UTF-8.
            pub(in crate::config) fn utf8(&self) -> Result<(), $crate::error::Error> {
                $($crate::config::theme::utf8(stringify!($field), self.$field.as_ref())?;)+
                $($($crate::config::theme::utf8(stringify!($only), self.$only.as_ref())?;)+)?
                Ok(())
            }

            /// Reads the value of a key, if it is one of the theme.
            pub(in crate::config) fn read<'de, M: serde::de::MapAccess<'de>>(
                &mut self,
                key: &str,
                map: &mut M,
            ) -> Result<bool, M::Error> {
                match key {
                    $(stringify!($field) => self.$field = Some(map.next_value()?),)+
                    $($(stringify!($only) => self.$only = Some(map.next_value()?),)+)?
                    _ => return Ok(false),
                }
                Ok(true)
            }

            /// Fills in the defaults and checks the ranges. Of an `older` plan the missing keys
            /// take the values that they had before there was a choice.
            #[allow(unused_variables, clippy::too_many_arguments, clippy::too_many_lines)]
            #[allow(clippy::redundant_closure_call)]
            pub(in crate::config) fn resolve(
                &self,
                older: bool,
                $($argument: $argument_type),*
            ) -> Result<$plan, $crate::error::Error> {
                let $given = self;
                $(
                    let $field: $crate::config::theme::first!([$($resolved)?] [$type]) =
                        match &self.$field {
                            Some(given) => $crate::config::theme::resolve(
                                stringify!($field), given.clone())?,
                            $(None if older => $older,)?
                            None => $crate::config::theme::first!([$($default)?] [None]),
                        };
                    $(let $field = ($map)($field);)?
                )+
                $($(
                    $crate::config::range::check(stringify!($field), &$field, &$range)?;
                )?)+
                $($($(
                    $crate::config::range::check(
                        stringify!($only), &self.$only, &$only_range)?;
                )?)+)?
                Ok($plan { $($field),+ })
            }
        }

        impl $plan {
            /// Writes every key that has a value.
            pub(in crate::config) fn write<M: serde::ser::SerializeMap>(
                &self,
                map: &mut M,
            ) -> Result<(), M::Error> {
                $($crate::config::theme::write::<$type, _, _>(
                    map, stringify!($field), &self.$field)?;)+
                Ok(())
            }
        }
    };
}
pub(in crate::config) use theme;

/// The tokens of the first brackets, or of the second if those are empty.
macro_rules! first {
    ([] [$($second:tt)*]) => { $($second)* };
    ([$($first:tt)+] [$($second:tt)*]) => { $($first)+ };
}
pub(in crate::config) use first;

/// How a value as typed becomes a value of the plan.
pub(in crate::config) trait Resolve<Given>: Sized {
    /// Converts, or says what was expected.
    fn from_given(given: Given) -> Result<Self, String>;

    /// Whether there is nothing to write.
    fn is_open(&self) -> bool {
        false
    }
}

impl<T> Resolve<T> for T {
    fn from_given(given: T) -> Result<Self, String> {
        Ok(given)
    }
}

impl<T> Resolve<T> for Option<T> {
    fn from_given(given: T) -> Result<Self, String> {
        Ok(Some(given))
    }

    fn is_open(&self) -> bool {
        self.is_none()
    }
}

impl<T, const N: usize> Resolve<Vec<T>> for [T; N] {
    fn from_given(given: Vec<T>) -> Result<Self, String> {
        let count = given.len();
        given.try_into().map_err(|_| format!("expected {N} numbers, got {count}"))
    }
}

impl<T, const N: usize> Resolve<Vec<T>> for Option<[T; N]> {
    fn from_given(given: Vec<T>) -> Result<Self, String> {
        <[T; N]>::from_given(given).map(Some)
    }

    fn is_open(&self) -> bool {
        self.is_none()
    }
}

/// Converts a value, or names the flag that cannot be.
pub(in crate::config) fn resolve<G, T: Resolve<G>>(key: &str, given: G) -> Result<T, Error> {
    T::from_given(given).map_err(|why| Error::usage(format!("{}: {why}", flag(key))))
}

/// A value as JSON.
pub(in crate::config) fn value<T: serde::Serialize>(
    given: Option<&T>,
) -> Option<serde_json::Value> {
    given.map(|given| serde_json::to_value(given).expect("options are plain data"))
}

/// Refuses a value that cannot be text, by flag: of all options only paths can be such.
pub(in crate::config) fn utf8<T: serde::Serialize>(
    key: &str,
    given: Option<&T>,
) -> Result<(), Error> {
    match given.map(serde_json::to_value) {
        None | Some(Ok(_)) => Ok(()),
        Some(Err(_)) => Err(Error::usage(format!(
            "{}: the path is not UTF-8, which the files of a run need; rename it, or give a link \
             to it whose name is UTF-8",
            flag(key)
        ))),
    }
}

/// Writes an entry of a plan, unless it is open.
pub(in crate::config) fn write<G, T: Resolve<G> + serde::Serialize, M: serde::ser::SerializeMap>(
    map: &mut M,
    key: &str,
    value: &T,
) -> Result<(), M::Error> {
    match value.is_open() {
        true => Ok(()),
        false => map.serialize_entry(key, value),
    }
}

/// A number that is one: NaN and infinities are refused before anything compares with them.
pub(in crate::config) fn finite(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("not a finite number".into()),
    }
}

/// The parts of a help text, as an entry has them.
pub(in crate::config) struct HelpText {
    /// Lines of documentation.
    pub text: &'static [&'static str],
    /// The default in words; empty: the expression says it.
    pub shown: &'static str,
    /// The expression of the default.
    pub default: &'static str,
    /// The expression of the range; empty: none.
    pub range: &'static str,
}

impl HelpText {
    /// The sentence, the default, the range.
    pub(in crate::config) fn text(&self) -> String {
        let lines: Vec<&str> = self.text.iter().map(|line| line.trim()).collect();
        let default = match self.shown {
            "" => word(self.default),
            shown => shown.to_owned(),
        };
        let range = match self.range {
            "" => String::new(),
            range => format!(" [range: {}]", in_words(range)),
        };
        format!("{} [default: {default}]{range}", lines.join(" "))
    }
}

/// An expression of a range as people write it: `0.01..=1.0` is `0.01 to 1`.
fn in_words(range: &str) -> String {
    let inner = range.rsplit('(').next().unwrap_or(range).trim_end_matches(')');
    let words = match inner.split_once("..=") {
        Some((low, high)) => format!("{} to {}", word(low), word(high)),
        None => format!("at least {}", word(inner.trim_end_matches(".."))),
    };
    match range.split('(').next() {
        Some("or_zero") => format!("0 or {words}"),
        _ => words,
    }
}

/// A constant as people type it; a name is that of an option.
fn word(constant: &str) -> String {
    let constant = constant.trim().trim_matches('"');
    if let Some((_, variant)) = constant.rsplit_once("::") {
        return variant.to_lowercase();
    }
    if constant.starts_with(|first: char| first.is_ascii_digit()) {
        let number = constant.replace('_', "");
        return number.strip_suffix(".0").map_or(number.clone(), str::to_owned);
    }
    match constant {
        "true" | "false" | "none" => constant.to_owned(),
        // Arguments of themes that are no options.
        "last_epoch" => "the last epoch".to_owned(),
        option => flag(option),
    }
}
