//! Recipes: published ways to train a network. Each is a card in `configs/`, compiled into the
//! program.
//!
//! A card is a TOML file of options. Its head is a comment with a title, the command, and the
//! fields `Source:`, `Published:`, `Ours:`, `Departures:` and `Unconfirmed:`. Precedence: default <
//! recipe < file (`--config`) < flag.

use serde::Serialize;

use crate::config::options::Options;
use crate::error::Error;
use crate::suggest::did_you_mean;

macro_rules! cards {
    ($($name:literal => $file:literal),+ $(,)?) => {
        &[$(($name, $file, include_str!(concat!("../../configs/", $file)))),+]
    };
}

/// Name, file in `configs/`, text.
const CARDS: &[(&str, &str, &str)] = cards![
    "mobilenet_v1/paper" => "mobilenet_v1.paper.toml",
    "mobilenet_v1/tf-slim" => "mobilenet_v1.tf_slim.toml",
    "mobilenet_v1/timm-ra4" => "mobilenet_v1.timm_ra4.toml",
    "mobilenet_v2/paper" => "mobilenet_v2.paper.toml",
    "mobilenet_v2/tf-slim" => "mobilenet_v2.tf_slim.toml",
    "mobilenet_v2/torchvision" => "mobilenet_v2.torchvision.toml",
    "mobilenet_v2/torchvision-v2" => "mobilenet_v2.torchvision_v2.toml",
    "mobilenet_v2/timm-ra" => "mobilenet_v2.timm_ra.toml",
    "mobilenet_v2/timm-ra-140" => "mobilenet_v2.timm_ra_140.toml",
    "mobilenet_v2/timm-lamb-050" => "mobilenet_v2.timm_lamb_050.toml",
    "mobilenet_v3_large/paper" => "mobilenet_v3_large.paper.toml",
    "mobilenet_v3_large/torchvision" => "mobilenet_v3_large.torchvision.toml",
    "mobilenet_v3_large/torchvision-v2" => "mobilenet_v3_large.torchvision_v2.toml",
    "mobilenet_v3_large/timm-ra" => "mobilenet_v3_large.timm_ra.toml",
    "mobilenet_v3_large/timm-ra4" => "mobilenet_v3_large.timm_ra4.toml",
    "mobilenet_v3_small/paper" => "mobilenet_v3_small.paper.toml",
    "mobilenet_v3_small/torchvision" => "mobilenet_v3_small.torchvision.toml",
    "mobilenet_v3_small/timm-lamb" => "mobilenet_v3_small.timm_lamb.toml",
    "mobilenet_v3_small/timm-lamb-075" => "mobilenet_v3_small.timm_lamb_075.toml",
    "mobilenet_v3_small/timm-lamb-050" => "mobilenet_v3_small.timm_lamb_050.toml",
    "googlenet/paper" => "googlenet.paper.toml",
    "inception_v3/paper" => "inception_v3.paper.toml",
    "xception/paper" => "xception.paper.toml",
    "finetune" => "finetune.toml",
    "mobilenet_v1/fashion-mnist" => "fashion_mnist.mobilenet_v1.toml",
    "mobilenet_v3_small/fashion-mnist" => "fashion_mnist.mobilenet_v3_small.toml",
    "mobilenet_v3_small/smoke" => "smoke.toml",
];

/// The head of a card, and its options.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// Name: `model/author`, or one word where the recipe is for any model.
    pub name: &'static str,
    /// File in `configs/`.
    pub file: &'static str,
    /// First line of the card.
    pub title: String,
    /// Source of the values.
    pub source: String,
    /// Accuracy that the authors publish, in words.
    pub published: String,
    /// Top-1 accuracy in `published`, percent.
    pub top1: Option<f64>,
    /// Top-5 accuracy in `published`, percent.
    pub top5: Option<f64>,
    /// Accuracy that this program reached, or `not run`.
    pub ours: String,
    /// Departures from what the authors did, and the reasons.
    pub departures: String,
    /// Values quoted from memory.
    pub unconfirmed: String,
    /// Text of the whole card.
    #[serde(skip)]
    pub(crate) text: &'static str,
}

/// Every recipe, in the order of the networks.
pub fn all() -> Vec<Recipe> {
    CARDS.iter().map(|(name, file, text)| Recipe::parse(name, file, text)).collect()
}

/// A recipe by name.
///
/// # Errors
/// [`crate::error::ErrorKind::Usage`] with the nearest name.
pub fn find(name: &str) -> Result<Recipe, Error> {
    all().into_iter().find(|recipe| recipe.name == name).ok_or_else(|| {
        let known: Vec<&str> = CARDS.iter().map(|(name, ..)| *name).collect();
        Error::usage(format!(
            "unknown recipe `{name}`{}; `kindling recipes` lists them",
            did_you_mean(name, &known)
        ))
    })
}

/// Options over those of the recipe that they name, if they name one.
///
/// # Errors
/// An unknown recipe.
pub fn under(options: Options) -> Result<Options, Error> {
    match &options.training.recipe {
        Some(name) => {
            let recipe = find(name).map_err(|e| Error::usage(format!("--recipe: {e}")))?;
            Ok(options.over(&recipe.options()?))
        }
        None => Ok(options),
    }
}

impl Recipe {
    fn parse(name: &'static str, file: &'static str, text: &'static str) -> Self {
        let head: Vec<&str> =
            text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim).collect();
        let field = |word: &str| {
            let from = head.iter().position(|line| line.starts_with(word));
            let lines = from.map_or(&[][..], |from| &head[from..]);
            let more = lines.iter().skip(1).take_while(|line| !is_field(line));
            let first = lines.first().map(|line| line[word.len()..].trim());
            let words: Vec<&str> = first.into_iter().chain(more.copied()).collect();
            words.join(" ").trim().to_owned()
        };
        let published = field("Published:");
        let percent = |what: &str| {
            let before = published.split(&format!(" % {what}")).next()?;
            (before.len() < published.len()).then(|| before.rsplit(' ').next()?.parse().ok())?
        };
        Self {
            name,
            file,
            title: head.first().copied().unwrap_or_default().to_owned(),
            source: field("Source:"),
            top1: percent("top-1"),
            top5: percent("top-5"),
            published: published.clone(),
            ours: field("Ours:"),
            departures: field("Departures:"),
            unconfirmed: field("Unconfirmed:"),
            text,
        }
    }

    /// The options of the card.
    ///
    /// # Errors
    /// Those of a file that `--config` reads; a test keeps the cards free of them.
    pub fn options(&self) -> Result<Options, Error> {
        Options::parse(self.text, &format!("configs/{}", self.file))
    }
}

/// Whether a line of the head begins a field: a capital word and a colon.
fn is_field(line: &str) -> bool {
    let Some((word, _)) = line.split_once(':') else { return false };
    ["Source", "Published", "Ours", "Departures", "Unconfirmed"].contains(&word)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::{all, find, under};
    use crate::config::options::Options;

    /// Mutations caught: a misspelt key, a card without `Ours:`.
    #[test]
    fn every_card_is_a_valid_plan_and_says_where_it_comes_from() {
        let mut wrong = Vec::new();
        for recipe in all() {
            match recipe.options().and_then(|options| options.plan()) {
                Ok(plan) => {
                    let family = recipe.name.split('/').next().unwrap();
                    // A card of one word is for any network.
                    let any = !recipe.name.contains('/');
                    if !any && plan.variant().architecture.name() != family {
                        wrong.push(format!("{}: trains {}", recipe.name, plan.network.model));
                    }
                }
                Err(failure) => wrong.push(failure.to_string()),
            }
            let fields = [
                &recipe.title,
                &recipe.source,
                &recipe.published,
                &recipe.ours,
                &recipe.departures,
                &recipe.unconfirmed,
            ];
            if fields.iter().any(|field| field.is_empty()) {
                wrong.push(format!("{}: an empty field: {recipe:?}", recipe.name));
            }
            let command = format!("--recipe {}", recipe.name);
            if !recipe.text.lines().nth(1).unwrap().contains(&command) {
                wrong.push(format!("{}: the second line is not its command", recipe.name));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let files: BTreeSet<String> = std::fs::read_dir(configs)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|x| x == "toml"))
            .filter(|path| !path.ends_with("auto.toml"))
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(files, all().iter().map(|r| r.file.to_owned()).collect());
    }

    #[test]
    fn the_published_accuracy_is_read_off_the_words() {
        let recipe = find("mobilenet_v2/torchvision").unwrap();
        assert_eq!((recipe.top1, recipe.top5), (Some(71.878), Some(90.286)));
        assert_eq!(find("mobilenet_v3_small/smoke").unwrap().top1, None);
        let error = find("mobilenet_v2/torchvison").unwrap_err().to_string();
        assert!(error.contains("did you mean `mobilenet_v2/torchvision`"), "{error}");
    }

    /// Mutations caught: the recipe over the options.
    #[test]
    fn default_then_recipe_then_file_then_flag() {
        let file =
            Options::parse("recipe = \"mobilenet_v2/torchvision\"\nlr = 0.2\nseed = 7\n", "f");
        let flags = Options::parse("lr = 0.3\n", "flags").unwrap();
        let plan = under(flags.over(&file.unwrap())).unwrap().plan().unwrap();
        // epochs and decay_rate: recipe; seed: file; lr: flag; workers and log_interval: default.
        assert_eq!(
            (plan.training.epochs, plan.schedule.decay_rate, plan.training.seed),
            (300, 0.98, 7)
        );
        assert_eq!((plan.network.model.as_str(), plan.optimizer.lr), ("mobilenet_v2", 0.3));
        assert_eq!(plan.logging.log_interval, 50);
        let again: Options = toml::from_str(&toml::to_string(&plan).unwrap()).unwrap();
        assert_eq!(under(again).unwrap().plan().unwrap(), plan, "args.toml gives the same plan");
    }
}
