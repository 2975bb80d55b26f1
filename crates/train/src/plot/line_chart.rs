//! Curves over a common axis.

use crate::plot::scale::Scale;
use crate::plot::svg::{Svg, shortened};

/// Width and height of a chart in pixels.
const SIZE: [f64; 2] = [520.0, 300.0];
const LEFT: f64 = 68.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 52.0;
const BOTTOM: f64 = 44.0;

/// Height of a row of the legend.
const ROW: f64 = 17.0;

/// Letters of a name in the legend.
const LETTERS: usize = 28;

/// A curve with its name.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points; those that are not finite are gaps.
    pub points: Vec<[f64; 2]>,
    /// Drawn as single points, pale: what a curve smooths.
    pub dots: bool,
}

/// A chart.
#[derive(Clone, Debug, Default)]
pub struct LineChart {
    /// What it shows.
    pub title: String,
    /// Name of the horizontal axis, with its unit.
    pub x: String,
    /// Name of the vertical axis, with its unit.
    pub y: String,
    /// Whether the horizontal axis is logarithmic.
    pub log_x: bool,
    /// Whether the vertical axis begins at 0.
    pub from_zero: bool,
    /// The curves.
    pub series: Vec<Series>,
    /// Values on the horizontal axis that are marked, with their words.
    pub marks: Vec<(f64, String)>,
    /// The range of the horizontal axis, where the points do not decide.
    pub x_range: Option<[f64; 2]>,
    /// The range of the vertical axis, where the points do not decide.
    pub y_range: Option<[f64; 2]>,
}

impl LineChart {
    /// The chart as SVG.
    pub fn svg(&self) -> String {
        let legend = self.legend();
        let more = ROW * legend.last().map_or(0, |(_, row)| *row) as f64;
        let ([width, height], top) = ([SIZE[0], SIZE[1] + more], TOP + more);
        let (right, bottom) = (width - RIGHT, height - BOTTOM);
        let all = || self.series.iter().flat_map(|series| &series.points);
        let mut x = Scale::of(all().map(|p| p[0]), [LEFT, right], self.log_x, false);
        if let Some(values) = self.x_range {
            x.values = values;
        }
        let heights: Vec<f64> = match self.y_range {
            Some(range) => range.to_vec(),
            None => all().map(|point| point[1]).collect(),
        };
        let y = Scale::of(heights.into_iter(), [bottom, top], false, self.from_zero);
        let mut svg = Svg::new(width, height, &self.title);
        svg.add(&format!(
            "<text x=\"{LEFT}\" y=\"18\" font-size=\"14\" font-weight=\"600\">{}</text>",
            crate::plot::svg::escape(&self.title)
        ));
        self.draw_legend(&mut svg, &legend);
        for (value, word) in y.ticks() {
            let at = y.at(value);
            svg.line([LEFT, at], [right, at], "grid");
            svg.word([LEFT - 6.0, at + 4.0], "end", "muted", &word);
        }
        for (value, word) in whole_numbers(&x) {
            let at = x.at(value);
            svg.line([at, bottom], [at, bottom + 4.0], "grid");
            svg.word([at, bottom + 17.0], "middle", "muted", &word);
        }
        svg.word([f64::midpoint(LEFT, right), height - 8.0], "middle", "muted", &self.x);
        svg.add(&format!(
            "<text transform=\"translate(13 {:.1}) rotate(-90)\" text-anchor=\"middle\" \
             class=\"muted\">{}</text>",
            f64::midpoint(top, bottom),
            crate::plot::svg::escape(&self.y)
        ));
        for (number, series) in self.series.iter().enumerate() {
            let inside = |point: &[f64; 2]| {
                point.iter().all(|value| value.is_finite()) && (!self.log_x || point[0] > 0.0)
            };
            // What lies outside of the range runs along its edge.
            let pixels =
                |point: &[f64; 2]| [x.at(point[0]), y.at(point[1].clamp(y.values[0], y.values[1]))];
            if series.dots {
                for [x, y] in series.points.iter().filter(|point| inside(point)).map(pixels) {
                    svg.add(&format!(
                        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.8\" fill=\"var(--c{})\" \
                         fill-opacity=\".35\"/>",
                        number % crate::plot::svg::SERIES
                    ));
                }
                continue;
            }
            for part in series.points.split(|point| !inside(point)).filter(|part| !part.is_empty())
            {
                let part: Vec<[f64; 2]> = part.iter().map(pixels).collect();
                svg.curve(&part, number);
            }
        }
        for (row, (value, words)) in self.marks.iter().enumerate() {
            let at = x.at(*value);
            svg.add(&format!(
                "<path d=\"M{at:.1} {top:.1}V{bottom:.1}\" stroke=\"var(--muted)\" stroke-dasharray=\"4 3\"/>"
            ));
            let anchor = if at > f64::midpoint(LEFT, right) { "end" } else { "start" };
            let shift = if anchor == "end" { -5.0 } else { 5.0 };
            svg.word([at + shift, top + 11.0 + 15.0 * row as f64], anchor, "muted mark", words);
        }
        svg.finish()
    }

    /// Where the names of the curves stand: left edge and row of each.
    fn legend(&self) -> Vec<(f64, usize)> {
        let (mut left, mut row) = (LEFT, 0);
        let positions = self.series.iter().map(|series| {
            let width = 37.0 + 7.0 * shortened(&series.name, LETTERS).chars().count() as f64;
            if left > LEFT && left + width > SIZE[0] {
                (left, row) = (LEFT, row + 1);
            }
            let position = (left, row);
            left += width;
            position
        });
        positions.collect()
    }

    /// The names of the curves, each behind a stroke of its colour.
    fn draw_legend(&self, svg: &mut Svg, positions: &[(f64, usize)]) {
        if self.series.len() < 2 {
            return;
        }
        for (number, (series, &(left, row))) in self.series.iter().zip(positions).enumerate() {
            let top = 34.0 + ROW * row as f64;
            svg.curve(&[[left, top], [left + 16.0, top]], number);
            svg.word([left + 21.0, top + 4.0], "start", "", &shortened(&series.name, LETTERS));
        }
    }
}

/// The ticks of a horizontal axis: of epochs and steps only whole numbers mean something.
fn whole_numbers(x: &Scale) -> Vec<(f64, String)> {
    let ticks = x.ticks();
    let wide = x.values[1] - x.values[0] >= 4.0;
    let whole = |tick: &(f64, String)| x.log || !wide || tick.0.fract().abs() < 1e-9;
    ticks.into_iter().filter(whole).collect()
}
