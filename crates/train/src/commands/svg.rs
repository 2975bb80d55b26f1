//! A drawing as SVG: the frame that every drawing has, and what goes into it line by line.

/// A drawing under construction.
pub(super) struct Svg {
    text: String,
}

impl Svg {
    /// A white drawing of a size in pixels.
    pub(super) fn new(width: usize, height: usize, font_size: usize) -> Self {
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"{font_size}\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
        );
        Self { text }
    }

    /// Adds an element.
    pub(super) fn add(&mut self, element: &str) {
        self.text.push_str(element);
        self.text.push('\n');
    }

    /// Adds a curve through points in pixels.
    pub(super) fn curve(&mut self, points: impl Iterator<Item = [f64; 2]>, colour: &str) {
        let points: Vec<String> = points.map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
        self.add(&format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        ));
    }

    /// The finished drawing.
    pub(super) fn finish(self) -> String {
        self.text + "</svg>\n"
    }
}
