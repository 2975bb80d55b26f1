//! An image that operations change in place, with a second buffer for operations that cannot.

/// An RGB image, `[height, width, 3]` bytes.
#[derive(Clone, Debug)]
pub struct Canvas {
    height: usize,
    width: usize,
    pixels: Vec<u8>,
    /// The second buffer, empty until it is needed; its content has no meaning between two
    /// operations.
    spare: Vec<u8>,
}

impl Canvas {
    /// Wraps `[height, width, 3]` bytes, flat.
    ///
    /// # Panics
    /// When there are not `3 * height * width` bytes.
    #[must_use]
    pub fn new(pixels: Vec<u8>, height: usize, width: usize) -> Self {
        assert_eq!(pixels.len(), 3 * height * width, "bytes for {height} x {width} RGB pixels");
        Self { height, width, pixels, spare: Vec::new() }
    }

    /// Height, pixels.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// Width, pixels.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// `[height, width, 3]` bytes, flat.
    #[must_use]
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// `[height, width, 3]` bytes, flat, to be changed.
    pub fn pixels_mut(&mut self) -> &mut [u8] {
        &mut self.pixels
    }

    /// Gives the bytes back.
    #[must_use]
    pub fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }

    /// Calls `draw` with the image and a buffer of the same length, which then becomes the image.
    /// The buffer has arbitrary content: `draw` must write all of it.
    pub fn redraw(&mut self, draw: impl FnOnce(&[u8], &mut [u8])) {
        self.spare.resize(self.pixels.len(), 0);
        draw(&self.pixels, &mut self.spare);
        std::mem::swap(&mut self.pixels, &mut self.spare);
    }

    /// Mirrors the image top to bottom.
    pub fn flip_vertically(&mut self) {
        let stride = 3 * self.width;
        let mut rows = self.pixels.chunks_exact_mut(stride);
        while let (Some(upper), Some(lower)) = (rows.next(), rows.next_back()) {
            upper.swap_with_slice(lower);
        }
    }

    /// Replaces every byte by `tables[channel][byte]`.
    pub fn look_up(&mut self, tables: &[[u8; 256]; 3]) {
        for pixel in self.pixels.as_chunks_mut::<3>().0 {
            for (byte, table) in pixel.iter_mut().zip(tables) {
                *byte = table[usize::from(*byte)];
            }
        }
    }

    /// Replaces every byte by `table[byte]`.
    pub fn look_up_all(&mut self, table: &[u8; 256]) {
        for byte in &mut self.pixels {
            *byte = table[usize::from(*byte)];
        }
    }

    /// How often each value occurs in each channel.
    #[must_use]
    pub fn histograms(&self) -> [[u32; 256]; 3] {
        let mut counts = [[0; 256]; 3];
        for pixel in self.pixels.as_chunks::<3>().0 {
            for (&byte, counts) in pixel.iter().zip(&mut counts) {
                counts[usize::from(byte)] += 1;
            }
        }
        counts
    }
}
