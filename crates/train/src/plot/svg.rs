//! The frame of a drawing: size, style, title for readers that see no picture.

use std::fmt::Write as _;

/// Colours and type of all drawings, for a page that holds them as for a drawing alone.
pub const STYLE: &str = ":root,svg{--ink:#1f2328;--muted:#59636e;--grid:#d8dee4;--paper:#fff;\
    --c0:#0b62c4;--c1:#c2410c;--c2:#18794e;--c3:#8250df;--c4:#9a6700;--c5:#bf3989}\
    @media (prefers-color-scheme:dark){:root,svg{--ink:#e6edf3;--muted:#9198a1;--grid:#30363d;\
    --paper:#0d1117;--c0:#58a6ff;--c1:#f0883e;--c2:#3fb950;--c3:#bc8cff;--c4:#d29922;--c5:#f778ba}}\
    svg text{font-family:system-ui,-apple-system,'Segoe UI',sans-serif;fill:var(--ink)}\
    svg .muted{fill:var(--muted)}svg .mark{paint-order:stroke;stroke:var(--paper);stroke-width:4px}svg .grid{stroke:var(--grid);fill:none}";

/// Colours of a series of curves.
pub const SERIES: usize = 6;

/// A drawing under construction.
pub struct Svg {
    text: String,
}

impl Svg {
    /// A drawing of a size in pixels; `title` says what it shows.
    pub fn new(width: f64, height: f64, title: &str) -> Self {
        let title = escape(title);
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" aria-label=\"{title}\" \
             font-size=\"12\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"var(--paper)\"/>\n"
        );
        Self { text }
    }

    /// Adds an element.
    pub fn add(&mut self, element: &str) {
        self.text.push_str(element);
        self.text.push('\n');
    }

    /// Adds a word. `anchor` is `start`, `middle` or `end`.
    pub fn word(&mut self, [x, y]: [f64; 2], anchor: &str, class: &str, word: &str) {
        let word = escape(word);
        let _ = writeln!(
            self.text,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{word}</text>"
        );
    }

    /// Adds a line between two points.
    pub fn line(&mut self, [x, y]: [f64; 2], [to_x, to_y]: [f64; 2], class: &str) {
        self.add(&format!("<path d=\"M{x:.1} {y:.1}L{to_x:.1} {to_y:.1}\" class=\"{class}\"/>"));
    }

    /// Adds a curve through points in pixels, in the colour `number` of the series.
    pub fn curve(&mut self, points: &[[f64; 2]], number: usize) {
        let colour = format!("var(--c{})", number % SERIES);
        if let [[x, y]] = points {
            self.add(&format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"));
            return;
        }
        let points: Vec<String> = points.iter().map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
        self.add(&format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" \
             stroke-linejoin=\"round\"/>",
            points.join(" ")
        ));
    }

    /// The finished drawing.
    pub fn finish(self) -> String {
        self.text + "</svg>\n"
    }
}

/// A text as XML and HTML hold it. Control characters, which XML forbids, become `\u{fffd}`.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(' '),
            letter if letter.is_control() => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// A text of at most `most` letters; what is cut off is an ellipsis.
pub fn shortened(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        true => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{escape, shortened};

    /// Mutations caught: an angle bracket left as it is.
    #[test]
    fn no_text_can_leave_its_element() {
        assert_eq!(escape("a<b>&\"'\u{1}\n"), "a&lt;b&gt;&amp;&quot;&#39;\u{fffd} ");
        assert_eq!(shortened("grüße aus", 6), "grüße…");
        assert_eq!(shortened("kurz", 6), "kurz");
    }
}
