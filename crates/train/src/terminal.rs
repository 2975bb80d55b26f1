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

/// Columns of the terminal; 80 where there is none. `COLUMNS` overrides it, as in clap's help.
pub fn width() -> usize {
    let set = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let own = || terminal_size::terminal_size().map(|(columns, _)| columns.0.into());
    set.or_else(own).unwrap_or(80).max(40)
}

/// Lines for people: on a terminal those that are too long are broken between words, and continue
/// with an indent; elsewhere they stay as they are.
pub fn fitted(text: &str, on_terminal: bool) -> String {
    let width = if on_terminal { width() } else { usize::MAX };
    let fits = |line: &str| letters(line) <= width;
    let lines = text.lines().map(|line| match fits(line) {
        true => line.to_owned(),
        false => wrapped(line, width, 2),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Letters of a line, without the codes of [`styled`].
fn letters(line: &str) -> usize {
    let mut parts = line.split("\x1b[");
    let first = parts.next().unwrap_or_default().chars().count();
    first
        + parts
            .map(|part| part.split_once('m').map_or(0, |(_, rest)| rest.chars().count()))
            .sum::<usize>()
}

/// A text in lines of at most `width` letters, broken between words; all but the first begin with
/// `indent` spaces, which count. A word that is longer has a line of its own.
pub fn wrapped(text: &str, width: usize, indent: usize) -> String {
    let first = text.len() - text.trim_start().len();
    let mut lines = " ".repeat(first);
    // Letters of the line, and whether a word is among them.
    let (mut used, mut begun) = (first, false);
    for word in text.split_whitespace() {
        let letters = letters(word);
        if begun && used + 1 + letters > width {
            lines += "\n";
            lines += &" ".repeat(indent);
            used = indent;
        } else if begun {
            lines += " ";
            used += 1;
        }
        lines += word;
        (used, begun) = (used + letters, true);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{Style, fitted, styled, wrapped};

    /// Mutations caught, each alone: the space between words not counted; lines that follow not
    /// indented; codes of colours counted as letters.
    #[test]
    fn lines_break_between_words_and_fit() {
        assert_eq!(wrapped("one two three four", 9, 2), "one two\n  three\n  four");
        assert_eq!(wrapped("one two", 7, 0), "one two");
        assert_eq!(wrapped("one two", 6, 0), "one\ntwo");
        assert_eq!(wrapped("unbreakable", 4, 2), "unbreakable");
        assert_eq!(wrapped("  a: b c", 6, 4), "  a: b\n    c");
        assert_eq!(wrapped("", 4, 2), "");
        let coloured = format!("{} b c", styled("a", Style::Yellow, true));
        assert_eq!(wrapped(&coloured, 3, 0), "\x1b[33ma\x1b[0m b\nc");
    }

    /// Mutations caught: wrapped for every reader.
    #[test]
    fn what_no_terminal_reads_stays_whole() {
        let long = "a line of words ".repeat(20);
        assert_eq!(fitted(&long, false), long);
    }
}
