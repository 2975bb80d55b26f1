//! Decodes files and prints one line for each: path, width, height and CRC-32 of the pixels, or the
//! error. `tests/fixtures/compare_formats.py` compares the lines with Pillow's.
//!
//! ```sh
//! cargo run --example decode_files -- FILES
//! ```

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
