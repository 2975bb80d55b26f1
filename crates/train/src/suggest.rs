//! The "did you mean" of messages about unknown words.

/// Similarity (Jaro-Winkler, 0 to 1) above which a known word is worth suggesting.
const SIMILAR: f64 = 0.7;

/// The known word that is nearest to `word`, if any is similar at all.
pub fn nearest<'a, S: AsRef<str>>(word: &str, known: &'a [S]) -> Option<&'a str> {
    let score = |known: &&str| strsim::jaro_winkler(word, known);
    let best = known.iter().map(AsRef::as_ref).max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(&best) > SIMILAR).then_some(best)
}

/// ` (did you mean `word`?)`, to be put behind the unknown word; empty if no known word is similar.
pub fn did_you_mean<S: AsRef<str>>(word: &str, known: &[S]) -> String {
    nearest(word, known).map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"))
}

#[cfg(test)]
mod tests {
    use super::{did_you_mean, nearest};

    /// Mutations caught: any word suggested that is a little alike.
    #[test]
    fn the_nearest_word_is_suggested_and_none_that_is_far() {
        let known = ["adam", "adamw", "sgd"];
        assert_eq!(nearest("adamww", &known), Some("adamw"));
        assert_eq!(did_you_mean("adamww", &known), " (did you mean `adamw`?)");
        assert_eq!(did_you_mean("quux", &known), "");
        // One letter in common, .6 alike.
        assert_eq!(did_you_mean("sum", &known), "");
    }
}
