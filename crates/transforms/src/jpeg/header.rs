//! The header of the JPEGs that data sets consist of.

use crate::jpeg::markers::{ColourSpace, Markers};
use crate::jpeg::tables::Codes;

/// The header of a JPEG that [`Jpeg::parse`] supports, and its entropy-coded bytes.
#[derive(Debug)]
pub struct Jpeg<'a> {
    /// Width, pixels.
    pub width: usize,
    /// Height, pixels.
    pub height: usize,
    pub(super) components: Vec<Component<'a>>,
    pub(super) restart_interval: usize,
    /// The entropy-coded bytes, and whatever follows them.
    pub(super) scan: &'a [u8],
}

/// A colour component: its sampling factors and its tables.
#[derive(Clone, Debug)]
pub(super) struct Component<'a> {
    /// Blocks of an MCU, across.
    pub(super) h: usize,
    /// Blocks of an MCU, down.
    pub(super) v: usize,
    pub(super) quantisation: [u16; 64],
    /// Numbers of the Huffman tables: DC 0 to 3, AC 4 to 7.
    pub(super) dc: usize,
    pub(super) ac: usize,
    /// The Huffman tables, DC and AC.
    pub(super) codes: [Codes<'a>; 2],
}

impl<'a> Jpeg<'a> {
    /// Reads the markers up to the one scan. `None` for a file that is broken or truncated, or of a
    /// kind that [`super::decode_any`] reads.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut markers = Markers::of(bytes)?;
        let header = markers.next_scan().ok()??;
        let frame = markers.frame.as_ref()?;
        // One sequential scan with all components, in their order.
        let in_order = header.components.iter().map(|c| c.number).eq(0..frame.components.len());
        let kind = matches!(markers.colour_space(), ColourSpace::Gray | ColourSpace::Ycc);
        if frame.progressive || !in_order || !kind {
            return None;
        }
        // Luma of one to four blocks, chroma of one.
        let (luma, chroma) = frame.components.split_first()?;
        if luma.h > 2 || luma.v > 2 || chroma.iter().any(|c| (c.h, c.v) != (1, 1)) {
            return None;
        }
        let mut components = Vec::with_capacity(frame.components.len());
        for (component, scan) in frame.components.iter().zip(&header.components) {
            components.push(Component {
                h: component.h,
                v: component.v,
                quantisation: markers.tables.quantisation[component.quantisation]?,
                dc: scan.dc,
                ac: scan.ac,
                codes: [markers.tables.codes[scan.dc]?, markers.tables.codes[scan.ac]?],
            });
        }
        let scan = bytes.get(markers.offset..)?;
        is_whole(scan).then_some(Self {
            width: frame.width,
            height: frame.height,
            components,
            restart_interval: markers.tables.restart_interval,
            scan,
        })
    }
}

/// Whether the bytes after the header of the scan hold EOI. It usually ends the file; otherwise
/// every marker is examined.
fn is_whole(scan: &[u8]) -> bool {
    scan.ends_with(&[0xFF, 0xD9]) || scan.windows(2).any(|pair| pair == [0xFF, 0xD9])
}
