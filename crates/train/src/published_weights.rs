//! Published weights by name: the catalogue in `configs/weights.csv`, and their files in the user's
//! cache.

use std::path::PathBuf;
use std::sync::LazyLock;

use crate::download::Download;
use crate::error::Error;
use crate::files::user_cache_folder;
use crate::suggest::did_you_mean;

/// Weights that somebody published.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct PublishedWeights {
    /// torchvision's or timm's name.
    pub name: &'static str,
    /// The variant of `kindling models` that they fit.
    pub model: &'static str,
    /// Top-1 accuracy on ImageNet-1k as published, percent.
    pub top1: f64,
    /// Top-5 accuracy, where it was published.
    pub top5: Option<f64>,
    /// Size of the file in megabytes.
    pub megabytes: f64,
    /// Centre crop of the published evaluation, as a share of the resized edge.
    pub crop_pct: f64,
    /// Licence of the weights.
    pub licence: &'static str,
    /// The first digits of the file's SHA-256; empty where the server names it.
    pub sha256: &'static str,
    /// Address.
    pub url: &'static str,
}

static CATALOGUE: LazyLock<Vec<PublishedWeights>> = LazyLock::new(|| {
    let rows = include_str!("../configs/weights.csv").lines().skip(1);
    rows.map(|row| PublishedWeights::parse(row).expect("a test reads configs/weights.csv"))
        .collect()
});

impl PublishedWeights {
    fn parse(row: &'static str) -> Option<Self> {
        let fields: Vec<&'static str> = row.split(',').collect();
        let [name, model, top1, top5, megabytes, crop_pct, licence, sha256, url] =
            fields.try_into().ok()?;
        Some(Self {
            name,
            model,
            top1: top1.parse().ok()?,
            top5: if top5.is_empty() { None } else { Some(top5.parse().ok()?) },
            megabytes: megabytes.parse().ok()?,
            crop_pct: crop_pct.parse().ok()?,
            licence,
            sha256,
            url,
        })
    }

    /// All of them.
    pub fn all() -> &'static [PublishedWeights] {
        &CATALOGUE
    }

    /// Those of this name; without one the most accurate of the model.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Usage`]: no such name, with the nearest one; a model without
    /// published weights.
    pub fn find(name: Option<&str>, model: &str) -> Result<&'static Self, Error> {
        let Some(name) = name else {
            let own = CATALOGUE.iter().filter(|weights| weights.model == model);
            return own.max_by(|a, b| a.top1.total_cmp(&b.top1)).ok_or_else(|| {
                Error::usage(format!(
                    "--pretrained: no weights are published for {model}; `kindling models --weights` lists \
                     those that are, --pretrained-path takes a file"
                ))
            });
        };
        // As torchvision has them: the class, or its member alone.
        let named = |weights: &&PublishedWeights| {
            weights.name == name
                || weights.model == model
                    && weights.name.split_once('.').is_some_and(|own| own.1 == name)
        };
        CATALOGUE.iter().find(named).ok_or_else(|| {
            let known: Vec<&str> = CATALOGUE.iter().map(|weights| weights.name).collect();
            Error::usage(format!(
                "--pretrained: no weights are called `{name}`{}; `kindling models --weights` lists them",
                did_you_mean(name, &known)
            ))
        })
    }

    /// Where the file is, or will be.
    pub fn path(&self) -> PathBuf {
        let file = self.url.rsplit('/').next().unwrap_or(self.name);
        // Every model of a hub has the same file name.
        let file = if file.starts_with("model.") {
            format!("{}.{file}", self.name)
        } else {
            file.to_owned()
        };
        user_cache_folder().join("weights").join(file)
    }

    /// The file, fetched if it is not there.
    ///
    /// # Errors
    /// See [`Download::fetch`].
    pub fn fetch(&self) -> Result<PathBuf, Error> {
        let path = self.path();
        let Self { name, megabytes, sha256, url, .. } = *self;
        Download { name, megabytes, sha256, url }.fetch(&path)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nn::models::variants::Variant;

    /// What the table says has to fit the variants.
    #[test]
    fn every_row_names_a_model_and_can_be_checked() {
        assert!(PublishedWeights::all().len() > 20);
        for weights in PublishedWeights::all() {
            let variant =
                Variant::parse(weights.model).unwrap_or_else(|| panic!("{}", weights.name));
            assert_eq!(variant.name, weights.model);
            // torchvision's second recipe is evaluated at 232 pixels.
            let own = variant.input().crop_pct;
            let second =
                weights.name.ends_with("_V2") && (weights.crop_pct - 224.0 / 232.0).abs() < 1e-3;
            assert!(second || (weights.crop_pct - own).abs() < 1e-3, "{}: {own}", weights.name);
            let hub = weights.url.starts_with("https://huggingface.co/");
            assert!(
                hub || weights.sha256.len() >= 8 && weights.url.contains(weights.sha256),
                "{}",
                weights.name
            );
        }
    }

    /// Mutations caught: the least accurate in place of the most.
    #[test]
    fn names_are_whole_short_or_left_out() {
        let name = |name, model| PublishedWeights::find(name, model).map(|weights| weights.name);
        assert_eq!(name(None, "mobilenet_v2").unwrap(), "MobileNet_V2_Weights.IMAGENET1K_V2");
        assert_eq!(
            name(Some("IMAGENET1K_V1"), "mobilenet_v2").unwrap(),
            "MobileNet_V2_Weights.IMAGENET1K_V1"
        );
        let whole = "mobilenetv3_large_100.ra_in1k";
        assert_eq!(name(Some(whole), "mobilenet_v3_large").unwrap(), whole);
        let error = name(Some("mobilenetv3_large_100.ra_ink"), "x").unwrap_err().to_string();
        assert!(error.contains("did you mean `mobilenetv3_large_100.ra_in1k`"), "{error}");
        assert!(
            name(None, "googlenet_5x5")
                .unwrap_err()
                .to_string()
                .contains("no weights are published")
        );
    }
}
