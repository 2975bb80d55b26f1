//! `worst.png`: the worst mistakes in one picture, with their classes in any script that the system
//! has letters for.

use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use crate::plot::svg::{escape, shortened};

/// A mistake with its picture.
pub(super) struct Mistake {
    /// `data:` address.
    pub(super) picture: String,
    pub(super) file: String,
    pub(super) truth: String,
    pub(super) guess: String,
    /// Probability of the guess, 0 to 1.
    pub(super) probability: f32,
}

const COLUMNS: usize = 6;
const TILE: [usize; 2] = [168, 204];

/// The sheet as PNG; none without a mistake. Where the system has no font the pictures stand alone.
pub(super) fn png(mistakes: &[Mistake]) -> Option<Vec<u8>> {
    let mut fonts = fontdb::Database::new();
    fonts.load_system_fonts();
    // Without letters there are no captions, and no room for them.
    let tile = [TILE[0], if fonts.is_empty() { TILE[1] - 48 } else { TILE[1] }];
    let columns = COLUMNS.min(mistakes.len());
    let rows = mistakes.len().div_ceil(COLUMNS);
    let (width, height) = (columns * tile[0] + 12, rows * tile[1] + 12);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" xmlns:xlink=\"http://www.w3.org/1999/xlink\" \
         width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"
    );
    for (number, mistake) in mistakes.iter().enumerate() {
        let left = 12 + number % COLUMNS * tile[0];
        let top = 12 + number / COLUMNS * tile[1];
        svg += &format!(
            "<image x=\"{left}\" y=\"{top}\" width=\"156\" height=\"144\" xlink:href=\"{}\"/>\
             <text x=\"{left}\" y=\"{}\" fill=\"#1f2328\">{}</text>\
             <text x=\"{left}\" y=\"{}\" fill=\"#c2410c\">taken for {}</text>\
             <text x=\"{left}\" y=\"{}\" fill=\"#59636e\">{:.0} % sure</text>",
            mistake.picture,
            top + 158,
            escape(&shortened(&mistake.truth, 24)),
            top + 172,
            escape(&shortened(&mistake.guess, 16)),
            top + 186,
            100.0 * mistake.probability
        );
    }
    svg += "</svg>";
    let options = Options { fontdb: Arc::new(fonts), ..Options::default() };
    let tree = Tree::from_str(&svg, &options).ok()?;
    let mut pixels = Pixmap::new(width as u32, height as u32)?;
    resvg::render(&tree, Transform::identity(), &mut pixels.as_mut());
    (!mistakes.is_empty()).then(|| pixels.encode_png().ok()).flatten()
}
