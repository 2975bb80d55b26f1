//! Where the page of `export --format web` has its runtime from: two files of npm's package
//! `onnxruntime-web`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use deploy::web::WebRuntime;
use flate2::read::GzDecoder;

use crate::download::Download;
use crate::error::Error;
use crate::files::{self, user_cache_folder};

/// The two files in the package.
const FILES: [&str; 2] = ["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"];

/// The package as npm's registry has it.
const PACKAGE: Download = Download {
    name: "onnxruntime-web 1.30.0",
    megabytes: 33.1,
    sha256: "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71",
    url: "https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz",
};

/// The bytes of the module and of its WebAssembly: of a folder, or of the package, which is fetched
/// once into the user's cache.
///
/// # Errors
/// A folder without the files; the network, with the line that fetches the package elsewhere.
pub(super) fn web_runtime(folder: Option<&Path>) -> Result<[Vec<u8>; 2], Error> {
    match folder {
        Some(folder) => in_folder(folder),
        None => {
            let path = user_cache_folder()
                .join(format!("runtime/onnxruntime-web-{}.tgz", WebRuntime::VERSION));
            PACKAGE.fetch(&path)?;
            in_package(&path)
        }
    }
}

fn in_folder(folder: &Path) -> Result<[Vec<u8>; 2], Error> {
    // The package's own folder, or its `dist`.
    let folders = [folder.to_path_buf(), folder.join("dist"), folder.join("package/dist")];
    let has = |folder: &&PathBuf| FILES.iter().all(|file| folder.join(file).is_file());
    let found = folders.iter().find(has).ok_or_else(|| {
        Error::file(format!(
            "--runtime {}: expected {} and {} of npm's onnxruntime-web {} there; `npm pack onnxruntime-web@{3}` \
             fetches them",
            folder.display(),
            FILES[0],
            FILES[1],
            WebRuntime::VERSION
        ))
    })?;
    let read = |file: &str| {
        let path = found.join(file);
        files::read(&path)
            .map_err(|error| Error::file(format!("{}: cannot read it: {error}", path.display())))
    };
    Ok([read(FILES[0])?, read(FILES[1])?])
}

fn in_package(path: &Path) -> Result<[Vec<u8>; 2], Error> {
    let fault = |why: String| Error::file(format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(|error| fault(format!("cannot read it: {error}")))?;
    let mut found = [None, None];
    let mut package = tar::Archive::new(GzDecoder::new(file));
    let damaged = |error: std::io::Error| fault(format!("damaged: {error}"));
    for entry in package.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = entry.path().map_err(damaged)?.into_owned();
        if let Some(index) =
            FILES.iter().position(|file| name == Path::new("package/dist").join(file))
        {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(damaged)?;
            found[index] = Some(bytes);
        }
    }
    match found {
        [Some(module), Some(wasm)] => Ok([module, wasm]),
        _ => Err(fault(format!("{} and {} are not in it", FILES[0], FILES[1]))),
    }
}
