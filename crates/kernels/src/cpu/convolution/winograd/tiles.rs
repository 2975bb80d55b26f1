//! The tiles of a Winograd convolution: which size is the fastest, where each tile lies.

use crate::cpu::geometry::StandardConv;

/// Values of a strip's transformed input tiles: a share of the second-level cache.
const STRIP: usize = 128 * 1024;
/// Fewest tiles of a strip, where there are as many, and most: the weights are read once for each
/// strip.
const STRIP_TILES: (usize, usize) = (24, 96);

/// Channels and filters from which the transforms are worth their time.
const CHANNELS: usize = 16;
/// Tiles of two that share the weights, of all images, from which reading 16 values for 9 is worth
/// it: with fewer the product waits for the weights.
const SHARING: usize = 32;
/// Tiles of four of an image from which reading 36 values for 9 is worth it.
const LARGE: usize = 36;

/// Outputs of a tile along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TileSize {
    /// `F(2x2, 3x3)`.
    Two,
    /// `F(4x4, 3x3)`.
    Four,
}

impl TileSize {
    fn outputs(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }
}

/// Whether Winograd's algorithm applies: 3x3 at stride 1 without dilation.
fn supports(conv: &StandardConv) -> bool {
    conv.g.kernel == [3, 3] && conv.g.stride == 1 && conv.g.dilation == 1
}

/// The tile size with which Winograd's algorithm is faster than the product over patches, `None`
/// where neither is; measured with the layers of GoogLeNet and Inception v3, forward and for both
/// gradients.
pub fn fastest_tile(conv: &StandardConv) -> Option<TileSize> {
    if !supports(conv) || conv.g.channels < CHANNELS || conv.filters < CHANNELS {
        return None;
    }
    let tiles = |side: usize| conv.g.output.map(|extent| extent.div_ceil(side)).iter().product();
    let (two, four): (usize, usize) = (tiles(2), tiles(4));
    match (conv.g.batch * two >= SHARING, four >= LARGE) {
        (false, _) => None,
        (true, false) => Some(TileSize::Two),
        (true, true) => Some(TileSize::Four),
    }
}

/// The tiles of all images, numbered image by image and row by row.
pub(super) struct Tiles {
    pub(super) conv: StandardConv,
    side: usize,
    /// Down and across an image; the last ones may reach past the map.
    grid: [usize; 2],
}

impl Tiles {
    pub(super) fn new(conv: &StandardConv, size: TileSize) -> Self {
        assert!(supports(conv), "{:?}", conv.g);
        let side = size.outputs();
        Self { conv: *conv, side, grid: conv.g.output.map(|extent| extent.div_ceil(side)) }
    }

    pub(super) fn count(&self) -> usize {
        self.conv.g.batch * self.grid[0] * self.grid[1]
    }

    /// A tile's image and its first output.
    #[inline(always)]
    pub(super) fn locate(&self, tile: usize) -> (usize, [usize; 2]) {
        let (row, column) = (tile / self.grid[1], tile % self.grid[1]);
        (row / self.grid[0], [row % self.grid[0] * self.side, column * self.side])
    }

    /// Strips of nearly equal size for tiles of so many values at every position.
    pub(super) fn strips(&self, values: usize) -> usize {
        let positions = (self.side + 2).pow(2);
        let most = (STRIP / (positions * values)).clamp(STRIP_TILES.0, STRIP_TILES.1);
        self.count().div_ceil(most)
    }
}
