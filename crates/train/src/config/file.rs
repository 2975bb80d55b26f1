//! Options from a TOML file, and the messages about a file that is wrong.

use std::path::Path;

use crate::config::options::Options;
use crate::error::Error;
use crate::suggest::nearest;
use crate::text_list::read_text;

impl Options {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// An unreadable file; the errors of [`Options::parse`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let text = read_text(path)
            .map_err(|why| Error::usage(format!("{name}: the configuration: {why}")))?;
        Self::parse(&text, &name)
    }

    /// Parses TOML; `name` is the file's name in messages.
    ///
    /// # Errors
    /// Wrong TOML, a value of the wrong type, an unknown key or an unknown word, each with its line
    /// and key. An unknown key or word comes with the nearest known one.
    pub fn parse(text: &str, name: &str) -> Result<Self, Error> {
        let table = text.parse::<toml::Table>().unwrap_or_default();
        let broken = |v: &toml::Value| v.as_float().is_some_and(|f| !f.is_finite());
        if let Some((key, _)) = table.iter().find(|(_, v)| broken(v)) {
            return Err(Error::usage(format!("{name}: {key}: not a finite number")));
        }
        toml::from_str(text).map_err(|error| {
            let before = error.span().map_or("", |s| text.get(..s.start).unwrap_or(text));
            let number = 1 + before.matches('\n').count();
            // The span of a wrong value begins at the value: its key stands before it.
            let key = before
                .rsplit('\n')
                .next()
                .and_then(|line| line.split_once('='))
                .map_or_else(String::new, |(key, _)| format!("{}: ", key.trim()));
            let message = error.message();
            let hint = unknown(message, "field ")
                .map(|(word, known)| ("key", word, known))
                .or_else(|| unknown(message, "variant ").map(|(w, known)| ("word", w, known)))
                .and_then(|(what, word, known)| {
                    let near = nearest(&word, &known)?;
                    Some(format!("unknown {what} `{word}`; did you mean `{near}`?"))
                });
            let message = hint.unwrap_or_else(|| message.replace('\n', " "));
            Error::usage(format!("{name}: line {number}: {key}{message}"))
        })
    }
}

/// The word and the known words in serde's "unknown field `x`, expected one of `a`, `b`".
fn unknown(message: &str, what: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix("unknown ")?.strip_prefix(what)?;
    let mut quoted = rest.split('`').skip(1).step_by(2);
    Some((quoted.next()?.to_owned(), quoted.map(str::to_owned).collect()))
}
