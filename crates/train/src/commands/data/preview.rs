//! `kindling data preview`: a contact sheet of what the network is shown, made by the very loader
//! of training.

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use image::{ImageFormat, Rgb, RgbImage};

use crate::commands::plan_args;
use crate::config::options::Options;
use crate::datasets::loader::Mode;
use crate::error::Error;
use crate::files::{refuse_other_extension, write_atomically};
use crate::out;
use crate::report::{label, tile};
use crate::run::open_data;

/// Arguments of `kindling data preview`. `--output` is the PNG file here.
#[derive(Args)]
pub struct PreviewArgs {
    #[command(flatten)]
    options: Options,
    /// TOML file of options, like `args.toml` of a run [default: none]
    #[arg(short, long, value_name = "FILE", help_heading = "Training")]
    config: Option<PathBuf>,
    /// Images on the sheet, from as many epochs as that takes [range: 1 to 1024]
    #[arg(long, default_value_t = 24, value_name = "N", help_heading = "Output")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    count: u16,
    /// First epoch to show, from 0
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Output")]
    epoch: u64,
}

/// Runs the subcommand.
///
/// # Errors
/// The errors of `train` before its first step; a file that cannot be written.
pub fn preview(args: &PreviewArgs) -> Result<u8, Error> {
    let file = args.options.logging.output.clone().unwrap_or_else(|| "preview.png".into());
    refuse_other_extension(&file, "png")?;
    let plan = plan_args::plan(&args.options, args.config.as_deref())?;
    let (train, _) = open_data::open(&plan)?;
    let classes = train.classes.clone();
    let loader = open_data::loader(
        &plan,
        &Arc::new(train),
        Mode::Train(plan.augment()),
        plan.training.batch_size,
    );
    let rule = plan.preprocess();

    let count = usize::from(args.count);
    let mut tiles: Vec<(RgbImage, String)> = Vec::with_capacity(count);
    for epoch in args.epoch.. {
        let before = tiles.len();
        for batch in loader.epoch(epoch, 0) {
            let batch = batch?;
            tiles.extend(
                (0..batch.labels.len())
                    .map(|number| (tile(&rule, &batch, number), label(&classes, &batch, number))),
            );
            if tiles.len() >= count {
                break;
            }
        }
        if tiles.len() >= count || tiles.len() == before {
            break;
        }
    }
    tiles.truncate(count);
    if tiles.is_empty() {
        return Err(Error::data(format!(
            "{}: no image could be read; `kindling train` says which",
            plan.data.data_dir.display()
        )));
    }
    let sheet = contact_sheet(&tiles);
    let mut bytes = Cursor::new(Vec::new());
    sheet.write_to(&mut bytes, ImageFormat::Png).expect("PNG is written to memory");
    write_atomically(&file, &bytes.into_inner())?;
    plan.notes().iter().for_each(|note| out!("note: {note}"));
    out!(
        "{}: {} images of {}x{} from epoch {} of {}",
        file.display(),
        tiles.len(),
        tiles[0].0.width(),
        tiles[0].0.height(),
        args.epoch,
        plan.data.data_dir.display()
    );
    Ok(0)
}

/// Pixels between two images.
const GAP: u32 = 4;

/// Images in rows, each with its text below.
fn contact_sheet(tiles: &[(RgbImage, String)]) -> RgbImage {
    let width = tiles.iter().map(|(tile, _)| tile.width()).max().unwrap_or(1);
    let height = tiles.iter().map(|(tile, _)| tile.height()).max().unwrap_or(1);
    let zoom = if width < 96 { 1 } else { 2 };
    let text_height = 5 * zoom + 3;
    // About square.
    let columns = (tiles.len() as f64 * f64::from(height + text_height) / f64::from(width))
        .sqrt()
        .ceil()
        .clamp(1.0, tiles.len() as f64) as u32;
    let rows = (tiles.len() as u32).div_ceil(columns);
    let (across, down) = (width + GAP, height + text_height + GAP);
    let mut sheet = RgbImage::from_pixel(columns * across + GAP, rows * down + GAP, Rgb([255; 3]));
    for (number, (tile, text)) in (0_u32..).zip(tiles) {
        let (left, top) = (GAP + number % columns * across, GAP + number / columns * down);
        image::imageops::replace(&mut sheet, tile, left.into(), top.into());
        write(&mut sheet, text, [left, top + height + 2], width, zoom);
    }
    sheet
}

/// Writes as much of a text as fits into `width` pixels.
fn write(sheet: &mut RgbImage, text: &str, [left, top]: [u32; 2], width: u32, zoom: u32) {
    let letters = text.chars().flat_map(char::to_uppercase);
    for (column, letter) in (0..).zip(letters).take((width / (4 * zoom)) as usize) {
        // What has no glyph is a box.
        let glyph = GLYPHS.iter().find(|(known, _)| *known == letter).map_or(0x7FFF, |g| g.1);
        for (y, x) in (0..5 * zoom).flat_map(|y| (0..3 * zoom).map(move |x| (y, x))) {
            if glyph >> (14 - (y / zoom * 3 + x / zoom)) & 1 == 1 {
                sheet.put_pixel(left + column * 4 * zoom + x, top + y, Rgb([0; 3]));
            }
        }
    }
}

/// Letters of 3 x 5 pixels, row by row from the top, the highest of 15 bits first.
#[rustfmt::skip]
const GLYPHS: [(char, u16); 43] = [
    ('A', 0b010_101_111_101_101), ('B', 0b110_101_110_101_110), ('C', 0b011_100_100_100_011),
    ('D', 0b110_101_101_101_110), ('E', 0b111_100_110_100_111), ('F', 0b111_100_110_100_100),
    ('G', 0b011_100_101_101_011), ('H', 0b101_101_111_101_101), ('I', 0b111_010_010_010_111),
    ('J', 0b001_001_001_101_010), ('K', 0b101_101_110_101_101), ('L', 0b100_100_100_100_111),
    ('M', 0b101_111_111_101_101), ('N', 0b110_101_101_101_101), ('O', 0b010_101_101_101_010),
    ('P', 0b110_101_110_100_100), ('Q', 0b010_101_101_111_011), ('R', 0b110_101_110_101_101),
    ('S', 0b011_100_010_001_110), ('T', 0b111_010_010_010_010), ('U', 0b101_101_101_101_111),
    ('V', 0b101_101_101_101_010), ('W', 0b101_101_111_111_101), ('X', 0b101_101_010_101_101),
    ('Y', 0b101_101_010_010_010), ('Z', 0b111_001_010_100_111), ('0', 0b111_101_101_101_111),
    ('1', 0b010_110_010_010_111), ('2', 0b110_001_010_100_111), ('3', 0b110_001_010_001_110),
    ('4', 0b101_101_111_001_001), ('5', 0b111_100_110_001_110), ('6', 0b011_100_111_101_111),
    ('7', 0b111_001_010_010_010), ('8', 0b111_101_111_101_111), ('9', 0b111_101_111_001_110),
    ('-', 0b000_000_111_000_000), ('.', 0b000_000_000_000_010), ('_', 0b000_000_000_000_111),
    ('+', 0b000_010_111_010_000), ('%', 0b101_001_010_100_101), ('/', 0b001_001_010_100_100),
    (' ', 0),
];
