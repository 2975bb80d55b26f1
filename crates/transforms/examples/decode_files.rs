//! Decodes files and prints one line for each: path, width, height and CRC-32 of the pixels, or the
//! error. Pillow's are `zlib.crc32(Image.open(path).convert("RGB").tobytes())`.
//!
//! ```sh
//! cargo run --example decode_files -- FILES
//! ```
#![expect(clippy::print_stdout, reason = "its output is the point")]

use transforms::decode::decode;

fn main() -> anyhow::Result<()> {
    let turn = std::env::var_os("EXIF").is_some();
    for path in std::env::args().skip(1) {
        match decode(&std::fs::read(&path)?, turn) {
            Ok(image) => {
                let (width, height) = image.dimensions();
                let crc32 = crc32fast::hash(image.as_raw());
                println!("{path}\t{width}\t{height}\t{crc32:08x}");
            }
            Err(error) => println!("{path}\terror\t{error}"),
        }
    }
    Ok(())
}
