//! Options of the data set: where the images are, how they become tensors, what is kept of them.

use std::path::PathBuf;

use crate::config::theme::{finite, theme};
use crate::datasets::cache::CacheKind;
use crate::error::Error;
use nn::config::Architecture;
use transforms::decode::Decoding;
use transforms::preprocess::Preprocess;
use transforms::resize::Interpolation;

/// The data set that the repository carries.
pub const DEFAULT_DATA: &str = "datasets/fashion-mnist-mini";

theme! {
    /// The data set and the rule by which images become tensors.
    "Data": DataOptions -> DataPlan (given, architecture: Architecture);

    /// Folder with `<class>/*`, or with `train/<class>/*` and `val/<class>/*`
    #[arg(value_name = "DIR", conflicts_with = "data_dir_flag", help_heading = None)]
    #[brief]
    #[resumable]
    data_dir: PathBuf = DEFAULT_DATA.into(), shown "datasets/fashion-mnist-mini";

    /// Share of the training images to evaluate on in place of a val split
    #[arg(long, value_parser = finite)]
    val_fraction: f64 => Option<f64>, shown "none with a val split, otherwise 0.2", in 0.001..=0.9;

    /// With --val-fraction: keep near-duplicates on one side
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    group_duplicates: bool = true, older false;

    /// Height and width of the network's input
    #[arg(long, visible_aliases = ["imgsz", "image-size"], value_name = "PIXELS")]
    #[brief]
    img_size: usize = architecture.native_size(), shown "by the data, at most the model's",
        in 16..=4096;

    /// Centre crop of the evaluation as a share of the resized short edge
    #[arg(long, value_parser = finite)]
    crop_pct: f64 = 0.875, shown "by the data; 0.875 with --recipe", in 0.1..=1.0;

    /// Resampling filter of the evaluation
    #[arg(long, value_enum)]
    interpolation: Interpolation = Interpolation::Bilinear;

    /// Mean of each channel after division by 255
    #[arg(long, num_args = 3, value_names = ["R", "G", "B"])]
    mean: Vec<f32> => [f32; 3] = [0.485, 0.456, 0.406], shown "0.485 0.456 0.406";

    /// Standard deviation of each channel after division by 255, above 0
    #[arg(long, num_args = 3, value_names = ["R", "G", "B"])]
    std: Vec<f32> => [f32; 3] = [0.229, 0.224, 0.225], shown "0.229 0.224 0.225";

    /// Turn images by their EXIF orientation, as viewers do
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    exif: bool = true, older false;

    /// Cache of decoded training images across epochs; `disk` serves later runs too
    #[arg(long, value_enum)]
    #[resumable]
    cache: CacheKind => Option<CacheKind>, shown "none, or ram with --cache-gb";

    /// Size limit of the cache in gigabytes; 0 is the default
    #[arg(long, value_parser = finite)]
    #[resumable]
    cache_gb: f64 = 0.0, shown "half of the free memory; no limit on a disk", in 0.0..=65_536.0;

    /// Folder of --cache disk
    #[arg(long, value_name = "DIR")]
    #[resumable]
    cache_dir: PathBuf => Option<PathBuf>, shown "kindling in the user's cache folder";

    /// Decoding of large training JPEGs: exact, or scaled to 1/2, 1/4 or 1/8 before the resize
    #[arg(long, value_enum)]
    decode: Decoding = if cache.map_or(cache_gb > 0.0, |kind| kind != CacheKind::None) {
        // A cache holds whole images.
        Decoding::Exact
    } else {
        Decoding::Scaled
    }, shown "scaled, exact with a cache", older Decoding::Exact;

    /// Shuffle window in images for tar files of `data shard`; 0 reads each image individually
    #[arg(long, value_name = "IMAGES")]
    shard_window: usize = 0;

    /// With --shard-window: parts of the shards of which every batch has as many images, so that a
    /// rank reads its own alone; a multiple of the ranks
    #[arg(long, visible_alias = "num-canonical-nodes", value_name = "N")]
    canonical_nodes: usize = 1, in 1..=1024;

    /// Draw every class equally often, with replacement
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    balanced_sampling: bool = false;

    /// End the run at the first unreadable image instead of skipping it
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    #[resumable]
    strict_data: bool = false;

    /// List of images to omit
    #[arg(long, value_name = "FILE")]
    quarantine: PathBuf => Option<PathBuf>, shown "DIR/quarantine.txt, if it exists";

    /// Use the images on the quarantine list too
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    ignore_quarantine: bool = false;
}

impl DataPlan {
    /// Refuses options that exclude each other, and batches of `batch_size` images of which each
    /// comes `repeats` times that canonical nodes cannot share.
    pub(in crate::config) fn check(&self, batch_size: usize, repeats: usize) -> Result<(), Error> {
        let nodes = self.canonical_nodes;
        if nodes > 1 {
            let why = if self.shard_window == 0 {
                "shards are read in --shard-window; give one, or omit the flag".to_owned()
            } else if repeats > 1 {
                "--aug-repeats does not go with it; omit one".to_owned()
            } else if !batch_size.is_multiple_of(2 * nodes) {
                format!(
                    "every batch has an even number of images of each; give a --batch-size that is \
                     a multiple of {}",
                    2 * nodes
                )
            } else {
                String::new()
            };
            if !why.is_empty() {
                return Err(Error::usage(format!("--canonical-nodes {nodes}: {why}")));
            }
        }
        if self.shard_window > 0 && self.balanced_sampling {
            return Err(Error::usage(format!(
                "--shard-window {}: --balanced-sampling draws from all files at once; omit one",
                self.shard_window
            )));
        }
        match (&self.quarantine, self.ignore_quarantine) {
            (Some(list), true) => Err(Error::usage(format!(
                "--quarantine {}: given together with --ignore-quarantine; omit one",
                list.display()
            ))),
            _ => self.preprocess().validate().map_err(Error::usage),
        }
    }

    /// The rule by which images become tensors in evaluation.
    pub fn preprocess(&self) -> Preprocess {
        Preprocess {
            resize: (self.img_size as f64 / self.crop_pct).floor() as usize,
            crop: [self.img_size, self.img_size],
            interpolation: self.interpolation,
            mean: self.mean,
            std: self.std,
            exif: self.exif,
        }
    }
}

/// The three numbers of `--mean` or `--std`, or `default` where the flag is not given.
///
/// # Errors
/// [`crate::error::ErrorKind::Usage`]: another count, which a repeated flag gives.
pub(crate) fn per_channel(
    flag: &str,
    given: Option<&Vec<f32>>,
    default: [f32; 3],
) -> Result<[f32; 3], Error> {
    let Some(values) = given else { return Ok(default) };
    let count = values.len();
    <[f32; 3]>::try_from(values.as_slice())
        .map_err(|_| Error::usage(format!("{flag}: expected 3 numbers, got {count}")))
}

#[cfg(test)]
mod tests {
    use crate::config::options::Options;
    use crate::config::plan::Plan;
    use transforms::decode::Decoding;

    fn plan(text: &str) -> Plan {
        Options::parse(text, "test").unwrap().plan().unwrap()
    }

    /// Mutations caught: a default of `scaled` for plans without the key.
    #[test]
    fn an_old_plan_decodes_exactly_and_a_new_one_smaller() {
        let plan = plan("");
        assert_eq!((plan.data.decode, plan.augment().decode), (Decoding::Scaled, Decoding::Scaled));
        let text = toml::to_string(&plan).unwrap();
        let old: Plan = toml::from_str(&text.replace("decode = \"scaled\"\n", "")).unwrap();
        assert_eq!((old.data.decode, old.augment().decode), (Decoding::Exact, Decoding::Exact));
    }

    /// Mutations caught: `older false` omitted.
    #[test]
    fn an_old_plan_leaves_images_as_stored_and_a_new_one_turns_them() {
        let turns = |plan: &Plan| {
            assert_eq!(plan.data.exif, plan.preprocess().exif);
            plan.data.exif
        };
        assert!(turns(&plan("")) && !turns(&plan("exif = false")));
        let text = toml::to_string(&plan("")).unwrap();
        assert!(text.contains("exif = true\n"), "{text}");
        let old: Plan = toml::from_str(&text.replace("exif = true\n", "")).unwrap();
        assert!(!turns(&old));
        // The flag wins over a file.
        let file = Options::parse("exif = true", "test").unwrap();
        let flag = Options { no_exif_flag: true, ..Options::default() };
        assert!(!turns(&flag.over(&file).plan().unwrap()));
    }

    /// Mutations caught: scaled beside a cache.
    #[test]
    fn images_for_a_cache_are_decoded_exactly_unless_another_way_is_asked_for() {
        let decode = |text: &str| plan(text).data.decode;
        assert_eq!(decode("cache = \"ram\""), Decoding::Exact);
        assert_eq!(decode("cache_gb = 2.0"), Decoding::Exact);
        assert_eq!(decode("cache = \"none\"\ncache_gb = 2.0"), Decoding::Scaled);
        assert_eq!(decode("cache = \"ram\"\ndecode = \"scaled\""), Decoding::Scaled);
    }
}
