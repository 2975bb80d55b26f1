//! Defaults that follow the task: the table of rules in `configs/auto.toml`.
//!
//! Precedence: default < rules < recipe < file < flag. With a recipe no rule applies, so that a
//! published recipe stays as published.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::config::augmentation::AugmentationOptions;
use crate::config::model::{DEFAULT_MODEL, variant};
use crate::config::options::Options;
use crate::config::plan::Plan;
use crate::config::range::flag;
use crate::error::Error;
use crate::optimizers::optimizer_kind::OptimizerKind;

/// The table, as the repository has it.
const TABLE: &str = include_str!("../../configs/auto.toml");

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let table: Table = toml::from_str(TABLE).expect("a test reads configs/auto.toml");
    table.rule
});

/// What the rules look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Images to train on.
    pub images: usize,
    /// Median of the images' shorter edges, pixels.
    pub short_edge: usize,
    /// Whether the run starts from trained weights.
    pub pretrained: bool,
    /// Whether it does and their classifier is for other classes, so that it starts anew.
    pub new_head: bool,
    /// Whether the model was named.
    pub model_given: bool,
}

impl Task {
    /// From what the run starts, in words.
    fn start(self) -> &'static str {
        match (self.pretrained, self.new_head) {
            (false, _) => "from scratch",
            (true, false) => "from trained weights",
            (true, true) => "from trained weights with a new classifier",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    rule: Vec<Rule>,
}

/// One rule: if every condition holds, its options are the defaults, over those of the rules above.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    when: Condition,
    set: Options,
}

/// What has to hold for a rule; what is not given holds.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    images_from: Option<usize>,
    images_below: Option<usize>,
    edge_from: Option<usize>,
    edge_below: Option<usize>,
    steps_below: Option<u64>,
    pretrained: Option<bool>,
    new_head: Option<bool>,
    model_given: Option<bool>,
}

impl Condition {
    /// Whether it holds; `steps` are those of the run, known once epochs and batch size are.
    fn holds(self, task: Task, steps: Option<u64>) -> bool {
        let from = |least: Option<usize>, value| least.is_none_or(|least| value >= least);
        let below = |end: Option<usize>, value| end.is_none_or(|end| value < end);
        from(self.images_from, task.images)
            && below(self.images_below, task.images)
            && from(self.edge_from, task.short_edge)
            && below(self.edge_below, task.short_edge)
            && self.pretrained.is_none_or(|wanted| wanted == task.pretrained)
            && self.new_head.is_none_or(|wanted| wanted == task.new_head)
            && self.model_given.is_none_or(|wanted| wanted == task.model_given)
            && self.steps_below.is_none_or(|end| steps.is_some_and(|steps| steps < end))
    }
}

/// `options` over the defaults that follow the task, and what they are, in words.
///
/// # Errors
/// Options that contradict each other.
pub fn under(options: &Options, task: Task) -> Result<(Options, Option<String>), Error> {
    if options.training.recipe.is_some() {
        return Ok((options.clone(), None));
    }
    let plan = options.over(&fitted(rules(options, task, None), options)?).plan()?;
    let chosen = fitted(rules(options, task, Some(steps(&plan, task))), options)?;
    let given = options.given();
    let own = chosen.given().into_iter().filter(|(key, _)| !given.contains_key(key));
    let flags: Vec<String> = own.map(|(key, value)| as_flag(&key, &value)).collect();
    let said = (!flags.is_empty()).then(|| {
        format!(
            "defaults for {} training images of about {} pixels, {}: {} (rules in configs/auto.toml; a flag or \
             --recipe overrides them)",
            task.images,
            task.short_edge,
            task.start(),
            flags.join(" ")
        )
    });
    Ok((options.over(&chosen), said))
}

/// Optimizer steps of a run.
fn steps(plan: &Plan, task: Task) -> u64 {
    let images = plan.training.batch_size * plan.training.grad_accum_steps;
    plan.total_epochs() * (task.images / images.max(1)).max(1) as u64
}

/// The options of every rule that holds, a later one over an earlier one.
fn rules(options: &Options, task: Task, steps: Option<u64>) -> Options {
    let holding = RULES.iter().filter(|rule| rule.when.holds(task, steps));
    let mut chosen = holding.fold(Options::default(), |above, rule| rule.set.over(&above));
    // The table's rate and decay are those of its optimizer.
    let own = chosen.optimizer.opt.unwrap_or(OptimizerKind::Adamw);
    if options.optimizer.opt.is_some_and(|opt| opt != own) {
        (chosen.optimizer.lr, chosen.optimizer.weight_decay) = (None, None);
    }
    // A base rate is a rate; and the table's low rate is for trained weights, not for a new layer
    // on them.
    if options.optimizer.lr_base.is_some() || options.network.linear_probe == Some(true) {
        chosen.optimizer.lr = None;
    }
    // What was frozen on purpose stays frozen, what is to be unfrozen has its own epoch, and a run
    // that ends before it would train the classifier alone.
    let network = &options.network;
    let first = chosen.network.unfreeze_epoch.unwrap_or(0);
    if network.linear_probe == Some(true)
        || network.freeze.is_some()
        || network.unfreeze_epoch.is_some()
        || options.training.epochs.is_some_and(|epochs| epochs <= first)
    {
        (chosen.network.unfreeze_epoch, chosen.network.unfreeze_over) = (None, None);
    }
    // What these add to is what --no-aug omits.
    if options.augmentation.no_aug == Some(true) {
        chosen.augmentation = AugmentationOptions::default();
    }
    chosen
}

/// The chosen options with an image size that the model takes: at least its smallest and the one
/// that the training begins with, at most the one that it was made for.
fn fitted(mut chosen: Options, options: &Options) -> Result<Options, Error> {
    let model = options.network.model.as_deref().or(chosen.network.model.as_deref());
    let model = model.unwrap_or(DEFAULT_MODEL);
    let architecture = variant(model)?.architecture;
    let native = architecture.native_size();
    let least = match options.network.aux {
        // The auxiliary head has windows that need the map of a whole image.
        Some(true) => native,
        _ => architecture.min_size(),
    };
    let least = least.max(options.augmentation.img_size_start.unwrap_or(0));
    if let Some(size) = &mut chosen.data.img_size {
        *size = (*size).min(native).max(least);
    }
    Ok(chosen)
}

/// An option as it is typed.
fn as_flag(key: &str, value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Array(values) => {
            let words: Vec<String> = values.iter().map(ToString::to_string).collect();
            format!("{} {}", flag(key), words.join(" "))
        }
        serde_json::Value::Bool(true) => flag(key),
        serde_json::Value::String(word) => format!("{} {word}", flag(key)),
        other => format!("{} {other}", flag(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::{RULES, Task, under};
    use crate::config::options::Options;

    const PHOTOS: Task = Task {
        images: 1650,
        short_edge: 100,
        pretrained: false,
        new_head: false,
        model_given: false,
    };

    fn plan(text: &str, task: Task) -> (crate::config::plan::Plan, Option<String>) {
        let options = Options::parse(text, "test").unwrap();
        let (options, said) = under(&options, task).unwrap();
        (options.plan().unwrap(), said)
    }

    /// A misspelt condition or option makes the table unreadable.
    #[test]
    fn every_rule_is_a_valid_configuration() {
        assert!(RULES.len() > 5);
        for rule in RULES.iter() {
            rule.set.plan().unwrap();
            assert!(!rule.set.given().is_empty());
        }
    }

    /// Rules by their conditions, at the ends of their ranges too.
    #[test]
    fn rules_follow_images_size_and_steps() {
        let (small, said) = plan("", PHOTOS);
        assert_eq!((small.data.img_size, small.training.batch_size), (96, 32));
        assert_eq!(small.network.bn_momentum, 0.1);
        assert!(small.network.bn_cumulative);
        let said = said.unwrap();
        assert!(said.contains("1650 training images of about 100 pixels, from scratch"), "{said}");
        assert!(said.contains("--img-size 96") && said.contains("--bn-cumulative "), "{said}");

        let few = plan("", Task { images: 999, ..PHOTOS }).0;
        assert_eq!(few.training.batch_size, 16);
        assert_eq!(plan("", Task { images: 1000, ..PHOTOS }).0.training.batch_size, 32);
        // A million images at 90 epochs have steps enough for the model's own momentum.
        let many = plan("epochs = 90", Task { images: 1_000_000, short_edge: 400, ..PHOTOS }).0;
        assert_eq!((many.network.bn_momentum, many.data.img_size), (0.01, 224));
        let xception = plan("model = \"xception\"", Task { short_edge: 20, ..PHOTOS }).0;
        assert!(xception.data.img_size >= 33);
        // What was typed must not make the chosen size wrong.
        let aux = plan("model = \"inception_v3\"\naux = true", PHOTOS).0;
        assert_eq!(aux.data.img_size, 299);
        assert_eq!(plan("img_size_start = 128", PHOTOS).0.data.img_size, 128);
    }

    /// Mutations caught, each alone: weights unfrozen that were frozen on purpose; a trunk that is
    /// frozen to the end of a run of one epoch; the rate of the table's optimizer for another one.
    #[test]
    fn a_new_classifier_and_many_small_images_have_rules_of_their_own() {
        let fine = Task { pretrained: true, ..PHOTOS };
        let new = Task { new_head: true, ..fine };
        assert_eq!(plan("", fine).0.optimizer.layer_decay, None);
        let (tuned, said) = plan("", new);
        assert!(tuned.optimizer.layer_decay.is_some() && tuned.network.unfreeze_epoch > 0);
        let said = said.unwrap();
        assert!(said.contains("from trained weights with a new classifier: "), "{said}");
        assert_eq!(plan("freeze = [\"trunk\"]", new).0.network.unfreeze_epoch, 0);
        assert_eq!(plan("linear_probe = true", new).0.network.unfreeze_epoch, 0);
        assert_eq!(plan("unfreeze_epoch = 4", new).0.network.unfreeze_epoch, 4);
        assert_eq!(plan("epochs = 1", new).0.network.unfreeze_epoch, 0);
        assert_eq!(plan("epochs = 2", new).0.network.unfreeze_epoch, 1);

        let tiny = Task { images: 60_000, short_edge: 28, ..PHOTOS };
        let many = plan("", tiny).0;
        assert_eq!((many.network.model.as_str(), many.data.img_size), ("mobilenet_v1", 56));
        assert_eq!((many.optimizer.lr, many.training.epochs), (0.05, 11));
        assert_eq!(plan("opt = \"adamw\"", tiny).0.optimizer.lr, 0.002);
        let large = Task { model_given: true, ..tiny };
        let named = plan("model = \"mobilenet_v3_small\"", large).0;
        assert_eq!(named.network.model, "mobilenet_v3_small");
        assert_eq!((named.optimizer.lr, named.training.epochs), (0.002, 6));
        let fewer = plan("", Task { images: 49_999, ..tiny }).0;
        assert_eq!(fewer.network.model, "mobilenet_v3_large");
    }

    /// Mutations caught, each alone: a rule over a flag; rules beside a recipe.
    #[test]
    fn what_is_given_wins_and_a_recipe_knows_no_rule() {
        assert_eq!(plan("img_size = 64", PHOTOS).0.data.img_size, 64);
        let (sgd, _) = plan("opt = \"sgd\"", PHOTOS);
        assert_eq!(sgd.optimizer.lr, 0.05);
        let fine = Task { pretrained: true, ..PHOTOS };
        assert!(plan("", fine).0.optimizer.lr < plan("", PHOTOS).0.optimizer.lr);
        assert!(!plan("", fine).0.network.bn_cumulative);
        let recipe = "recipe = \"mobilenet_v3_small/torchvision\"";
        assert_eq!(
            plan(recipe, PHOTOS),
            (Options::parse(recipe, "t").unwrap().plan().unwrap(), None)
        );
        assert!(plan("no_aug = true", PHOTOS).0.augmentation.no_aug);
    }
}
