//! What the terminal shows: colour where a person reads, and how wide it is.

use std::io::IsTerminal as _;

/// A style of a word on the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// What matters.
    Bold,
    /// What separates.
    Dim,
    /// What is good.
    Green,
    /// What needs attention.
    Yellow,
}

/// Whether words on standard output may be coloured: a terminal reads them, and neither NO_COLOR
/// (<https://no-color.org>) nor a dumb terminal forbids it.
pub fn colour() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb
}

/// A word in a style, where colour is on.
pub fn styled(word: &str, style: Style, colour: bool) -> String {
    let code = match style {
        Style::Bold => "1",
        Style::Dim => "2",
        Style::Green => "1;32",
        Style::Yellow => "33",
    };
    match colour {
        true => format!("\x1b[{code}m{word}\x1b[0m"),
        false => word.to_owned(),
    }
}
