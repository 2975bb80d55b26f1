//! `kindling recipes`: the published ways to train that the program carries.

use clap::Args;

use crate::config::recipe::{all, find};
use crate::error::Error;
use crate::out;
use crate::terminal::{width, wrapped};

/// Arguments of `kindling recipes`.
#[derive(Args)]
pub struct RecipesArgs {
    /// Recipe to print whole [default: list all]
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print JSON [default: text]
    #[arg(long)]
    json: bool,
}

/// Runs `kindling recipes`.
///
/// # Errors
/// An unknown name.
pub fn recipes(args: &RecipesArgs) -> Result<(), Error> {
    if let Some(name) = &args.name {
        let recipe = find(name)?;
        match args.json {
            true => out!("{}", serde_json::to_string_pretty(&recipe).expect("plain data")),
            false => out!("{}", recipe.text.trim_end()),
        }
        return Ok(());
    }
    if args.json {
        out!("{}", serde_json::to_string_pretty(&all()).expect("plain data"));
        return Ok(());
    }
    let percent = |p: Option<f64>| p.map_or_else(|| "-".to_owned(), |p| format!("{p:.3}"));
    out!("{:<40} {:>7} {:>7} {:>7}", "recipe", "top-1", "top-5", "epochs");
    for recipe in all() {
        let options = recipe.options()?;
        out!(
            "{:<40} {:>7} {:>7} {:>7}",
            recipe.name,
            percent(recipe.top1),
            percent(recipe.top5),
            options.training.epochs.map_or_else(|| "-".to_owned(), |e| e.to_string())
        );
        let says = |text: &str| !text.trim_end_matches('.').eq_ignore_ascii_case("none");
        let texts = [
            ("source", recipe.source.as_str()),
            ("departs", recipe.departures.as_str()),
            ("unconfirmed", recipe.unconfirmed.as_str()),
            ("ours", recipe.ours.as_str()),
        ];
        for (word, text) in texts.into_iter().filter(|(_, text)| says(text)) {
            out!("{}", wrapped(&format!("    {word}: {text}"), width(), 6));
        }
    }
    out!(
        "{}",
        wrapped(
            "accuracy in percent on ImageNet-1k as published, not measured here; train DIR --recipe NAME, any flag \
             wins; `kindling recipes NAME` shows the card",
            width(),
            0
        )
    );
    Ok(())
}
