//! `kindling recipes`: the published ways to train that the program carries.

use clap::Args;

use crate::config::recipe::{all, find};
use crate::error::Error;
use crate::out;

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
    out!("{:<34} {:<26} {:>7} {:>7} {:>6}  source", "recipe", "model", "top-1", "top-5", "epochs");
    for recipe in all() {
        let options = recipe.options()?;
        out!(
            "{:<34} {:<26} {:>7} {:>7} {:>6}  {}",
            recipe.name,
            options.network.model.as_deref().unwrap_or("-"),
            percent(recipe.top1),
            percent(recipe.top5),
            options.training.epochs.map_or_else(|| "-".to_owned(), |e| e.to_string()),
            recipe.source
        );
        for (word, text) in [("departs", &recipe.departures), ("unconfirmed", &recipe.unconfirmed)]
        {
            if !text.trim_end_matches('.').eq_ignore_ascii_case("none") {
                out!("    {word}: {text}");
            }
        }
        if !recipe.ours.starts_with("not run") {
            let short = recipe.ours.split(',').next().unwrap_or_default();
            out!("    ours: {short}");
        }
    }
    out!(
        "accuracy in percent on ImageNet-1k as published, not measured here; train DIR --recipe NAME, any flag wins; \
         `kindling recipes NAME` shows the card"
    );
    Ok(())
}
