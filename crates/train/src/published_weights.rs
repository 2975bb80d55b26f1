//! Published weights by name: the catalogue in `configs/weights.csv`, and their files in the user's cache.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest as _, Sha256};
use ureq::http::header::{CONTENT_LENGTH, LOCATION, RANGE};

use crate::err;
use crate::error::{Error, ErrorKind};
use crate::files::{create_folders, user_cache_folder};
use crate::suggest::did_you_mean;

/// Replaces scheme and host of every address: a mirror, or a server of a closed network.
const MIRROR: &str = "KINDLING_WEIGHTS_URL";

/// Redirects that are followed.
const REDIRECTS: usize = 5;

/// Attempts, each of which goes on where the one before was cut.
const ATTEMPTS: usize = 4;

/// Seconds without an answer.
const TIMEOUT: Duration = Duration::from_secs(30);

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
    /// [`ErrorKind::Usage`]: no such name, with the nearest one; a model without published weights.
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
    /// [`ErrorKind::File`]: the network or the disk, with the line that fetches the file elsewhere;
    /// [`ErrorKind::Checkpoint`]: what came is another file.
    pub fn fetch(&self) -> Result<PathBuf, Error> {
        let path = self.path();
        if path.exists() {
            return self.checked(path);
        }
        create_folders(path.parent().unwrap_or(Path::new(".")))?;
        err!("fetching {} ({:.0} MB) from {}", self.name, self.megabytes, self.url);
        let part = path.with_extension("part");
        let failed = |why: String| {
            Error::file(format!(
                "{}: {why}; fetch it elsewhere with `curl -L -o {} {}` and put it at {}",
                self.url,
                path.file_name().unwrap_or_default().to_string_lossy(),
                self.url,
                path.display()
            ))
        };
        let options =
            || OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&part);
        let mut file = options().map_err(|e| failed(format!("{}: {e}", part.display())))?;
        // Another process may be fetching the same file: the later one waits and finds it.
        file.lock().map_err(|e| failed(format!("{}: {e}", part.display())))?;
        if path.exists() {
            return Ok(path);
        }
        let mut attempt = 0;
        let wanted = loop {
            attempt += 1;
            match self.download(&mut file) {
                Ok(wanted) => break wanted,
                Err(Fault::Cut(why)) if attempt < ATTEMPTS => {
                    err!("note: {why}; going on where it was cut");
                    std::thread::sleep(Duration::from_millis(200 << attempt));
                }
                Err(Fault::Cut(why) | Fault::Refused(why)) => return Err(failed(why)),
            }
        };
        let found = digest(&mut file).map_err(|e| failed(format!("{}: {e}", part.display())))?;
        if wanted.is_empty() || !found.starts_with(&wanted) {
            // Emptied and not removed: another process may be waiting for this very file.
            let _ = file.set_len(0);
            return Err(Error {
                kind: ErrorKind::Checkpoint,
                message: format!(
                    "{}: its SHA-256 is {found} where {} was expected: the file is damaged, or another one; \
                     nothing was kept",
                    self.url,
                    if wanted.is_empty() { "one that the server names" } else { &wanted }
                ),
            });
        }
        file.sync_all()
            .and_then(|()| std::fs::rename(&part, &path))
            .map_err(|e| failed(e.to_string()))?;
        err!("kept as {}", path.display());
        Ok(path)
    }

    /// A file that is there, if it is the one: somebody may have put it there by hand.
    fn checked(&self, path: PathBuf) -> Result<PathBuf, Error> {
        let found = File::open(&path).and_then(|mut file| digest(&mut file));
        let found =
            found.map_err(|e| Error::file(format!("{}: cannot read: {e}", path.display())))?;
        match found.starts_with(self.sha256) {
            true => Ok(path),
            false => Err(Error::checkpoint(format!(
                "{}: its SHA-256 is {found} where {} was expected: remove the file to have it fetched again",
                path.display(),
                self.sha256
            ))),
        }
    }

    /// Fetches what is missing at the end of `file`; returns the first digits of the SHA-256.
    fn download(&self, file: &mut File) -> Result<String, Fault> {
        let agent = ureq::Agent::new_with_config(
            ureq::Agent::config_builder()
                .max_redirects(0)
                .http_status_as_error(false)
                .timeout_connect(Some(TIMEOUT))
                .timeout_recv_response(Some(TIMEOUT))
                .build(),
        );
        let mut url = mirrored(self.url, std::env::var(MIRROR).ok().as_deref());
        let mut wanted = self.sha256.to_owned();
        for _ in 0..=REDIRECTS {
            let have = file.seek(SeekFrom::End(0)).map_err(|e| Fault::Refused(e.to_string()))?;
            let mut request = agent.get(&url);
            if have > 0 {
                request = request.header(RANGE, format!("bytes={have}-"));
            }
            let answer = request.call().map_err(|error| match error {
                ureq::Error::Io(_) | ureq::Error::Timeout(_) => Fault::Cut(error.to_string()),
                error => Fault::Refused(error.to_string()),
            })?;
            let header = |name: &str| answer.headers().get(name)?.to_str().ok().map(str::to_owned);
            // Hugging Face names the hash of a large file where it redirects to it.
            if let (true, Some(tag)) = (wanted.is_empty(), header("x-linked-etag")) {
                tag.trim_matches('"').clone_into(&mut wanted);
            }
            match answer.status().as_u16() {
                200 | 206 => {
                    let goes_on = answer.status().as_u16() == 206;
                    if !goes_on {
                        file.set_len(0).map_err(|e| Fault::Refused(e.to_string()))?;
                        file.seek(SeekFrom::Start(0)).map_err(|e| Fault::Refused(e.to_string()))?;
                    }
                    let length = header(CONTENT_LENGTH.as_str()).and_then(|text| text.parse().ok());
                    let done = if goes_on { have } else { 0 };
                    self.copy(answer.into_body().into_reader(), file, done, length)?;
                    return Ok(wanted);
                }
                301 | 302 | 303 | 307 | 308 => {
                    let to = header(LOCATION.as_str())
                        .ok_or_else(|| Fault::Refused("a redirect to nowhere".into()))?;
                    url = absolute(&url, &to);
                }
                // All of it was there already, or too much.
                416 => {
                    file.set_len(0).map_err(|e| Fault::Refused(e.to_string()))?;
                    return Err(Fault::Cut("the server has no such part".into()));
                }
                404 => return Err(Fault::Refused("the server has no such file (404)".into())),
                500..=599 => {
                    return Err(Fault::Cut(format!("the server answers {}", answer.status())));
                }
                other => return Err(Fault::Refused(format!("the server answers {other}"))),
            }
        }
        Err(Fault::Refused("too many redirects".into()))
    }

    fn copy(
        &self,
        mut body: impl std::io::Read,
        file: &mut File,
        done: u64,
        length: Option<u64>,
    ) -> Result<(), Fault> {
        let style =
            "{prefix} {bar:24.cyan/dim} {bytes}/{total_bytes} · {bytes_per_sec} · {eta} left";
        let bar = ProgressBar::new(done + length.unwrap_or((self.megabytes * 1e6) as u64));
        bar.set_style(
            ProgressStyle::with_template(style).expect("a valid template").progress_chars("━━─"),
        );
        bar.set_prefix("fetching");
        bar.set_position(done);
        let (mut block, mut got) = (vec![0; 1 << 16], 0);
        loop {
            let count = body.read(&mut block).map_err(|e| Fault::Cut(e.to_string()))?;
            if count == 0 {
                break;
            }
            file.write_all(&block[..count]).map_err(|e| Fault::Refused(e.to_string()))?;
            got += count as u64;
            bar.set_position(done + got);
        }
        bar.finish_and_clear();
        match length {
            Some(length) if got < length => {
                Err(Fault::Cut(format!("cut after {got} of {length} bytes")))
            }
            _ => Ok(()),
        }
    }
}

/// Why a download ended.
enum Fault {
    /// Another attempt may go on.
    Cut(String),
    /// It would end in the same way.
    Refused(String),
}

/// The SHA-256 of a file.
fn digest(file: &mut File) -> std::io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 16];
    loop {
        match file.read(&mut block)? {
            0 => break,
            count => hash.update(&block[..count]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// An address with the scheme and host of a mirror, which may have a path of its own.
fn mirrored(url: &str, mirror: Option<&str>) -> String {
    let Some(mirror) = mirror.filter(|mirror| !mirror.is_empty()) else { return url.to_owned() };
    let path = url
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once('/'))
        .map_or("", |(_, path)| path);
    format!("{}/{path}", mirror.trim_end_matches('/'))
}

/// The target of a redirect from `url`.
fn absolute(url: &str, to: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return to.to_owned() };
    let host = rest.split('/').next().unwrap_or(rest);
    match to {
        to if to.contains("://") => to.to_owned(),
        to if to.starts_with("//") => format!("{scheme}:{to}"),
        to if to.starts_with('/') => format!("{scheme}://{host}{to}"),
        to => format!("{scheme}://{host}/{to}"),
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

    #[test]
    fn mirrors_and_redirects_keep_the_path() {
        let url = "https://download.pytorch.org/models/a.pth";
        assert_eq!(
            mirrored(url, Some("http://mirror:8000/w/")),
            "http://mirror:8000/w/models/a.pth"
        );
        assert_eq!(mirrored(url, None), url);
        assert_eq!(absolute(url, "/b"), "https://download.pytorch.org/b");
        assert_eq!(absolute(url, "//c/b"), "https://c/b");
        assert_eq!(absolute(url, "http://d/e"), "http://d/e");
    }
}
