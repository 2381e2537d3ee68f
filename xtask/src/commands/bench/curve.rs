//! Draws measured points as a picture.

use std::fmt::Write;

/// Series of points over two axes.
#[derive(Debug)]
pub struct Curve {
    title: String,
    x: &'static str,
    y: &'static str,
    series: Vec<(String, Vec<Point>)>,
}

/// A measured point. A viewer shows its note under the pointer.
#[derive(Clone, Debug)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    pub note: String,
}

const COLOURS: [&str; 6] = ["#2f6fb5", "#3f935f", "#836bb8", "#c24d3c", "#777777", "#d97b1f"];
/// The size of the area with the points.
const WIDTH: f64 = 560.;
const HEIGHT: f64 = 300.;
const LEFT: f64 = 64.;
const TOP: f64 = 44.;
const MARGIN: f64 = 18.;
/// The height of a line of the legend.
const LINE: f64 = 18.;

impl Curve {
    pub fn new(title: String, x: &'static str, y: &'static str) -> Self {
        Self { title, x, y, series: Vec::new() }
    }

    /// Adds points, which a line joins in the order of their `x`.
    pub fn add(&mut self, legend: String, mut points: Vec<Point>) {
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        self.series.push((legend, points));
    }

    pub fn to_svg(&self) -> String {
        let points = || self.series.iter().flat_map(|(_, points)| points);
        let right = step_above(points().map(|point| point.x).fold(0., f64::max));
        // The axis ends at tenths.
        let low = (points().map(|point| point.y).fold(1., f64::min) * 10.).floor() / 10.;
        let high = (points().map(|point| point.y).fold(1., f64::max) * 10.).ceil() / 10.;
        let x = |value: f64| LEFT + value / right * WIDTH;
        let y = |value: f64| TOP + (high - value) / (high - low).max(0.1) * HEIGHT;
        let (total, bottom) = (LEFT + WIDTH + MARGIN, TOP + HEIGHT);
        let legend = bottom + 56.;
        let tall = legend + LINE * self.series.len() as f64 + MARGIN;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{total}\" height=\"{tall}\" viewBox=\"0 0 {total} {tall}\" \
             font-family=\"Helvetica, Arial, DejaVu Sans, sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"24\" font-size=\"14\">{}</text>\n",
            escaped(&self.title)
        );
        let mut draw = |line: std::fmt::Arguments<'_>| {
            // Writing to a string does not fail.
            let _ = writeln!(svg, "{line}");
        };
        for number in 0..=5 {
            let value = right * f64::from(number) / 5.;
            draw(format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value:.0}</text>",
                x(value),
                bottom + 16.
            ));
        }
        let ticks = ((high - low) * 10.).round() as u32;
        for tick in 0..=ticks {
            let value = low + f64::from(tick) / 10.;
            draw(format_args!(
                "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#dddddd\"/>",
                LEFT + WIDTH,
                y(value),
                y(value)
            ));
            draw(format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.1}</text>",
                LEFT - 8.,
                y(value) + 4.
            ));
        }
        draw(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            LEFT + WIDTH / 2.,
            bottom + 36.,
            escaped(self.x)
        ));
        let middle = TOP + HEIGHT / 2.;
        draw(format_args!(
            "<text x=\"18\" y=\"{middle:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 18 {middle:.1})\">{}</text>",
            escaped(self.y)
        ));
        for (number, (text, points)) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let line: Vec<_> = points.iter().map(|point| format!("{:.1},{:.1}", x(point.x), y(point.y))).collect();
            draw(format_args!("<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>", line.join(" ")));
            for point in points {
                draw(format_args!(
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"><title>{}</title></circle>",
                    x(point.x),
                    y(point.y),
                    escaped(&point.note)
                ));
            }
            let place = legend + LINE * number as f64;
            draw(format_args!("<circle cx=\"{LEFT}\" cy=\"{place:.1}\" r=\"4\" fill=\"{colour}\"/>"));
            draw(format_args!("<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", LEFT + 12., place + 4., escaped(text)));
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// The next number above with one significant digit, or one and a half.
fn step_above(value: f64) -> f64 {
    let unit = 10_f64.powf(value.max(1.).log10().floor()) / 2.;
    (value / unit).ceil() * unit
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_and_series_is_drawn() {
        let mut curve = Curve::new("a & b".into(), "MB", "time");
        let point = |x, y| Point { x, y, note: format!("{x}") };
        curve.add("first".into(), vec![point(300., 1.), point(100., 1.5)]);
        curve.add("second".into(), vec![point(200., 1.2)]);
        let svg = curve.to_svg();
        assert_eq!(svg.matches("<title>").count(), 3);
        assert!(svg.contains("a &amp; b") && svg.contains(">first<") && svg.contains(">second<"), "{svg}");
        // From left to right.
        assert!(svg.contains("points=\"250.7,44.0 624.0,344.0\""), "{svg}");
    }

    #[test]
    fn an_axis_ends_at_a_round_number() {
        assert_eq!([282., 361., 9.3, 1.].map(step_above), [300., 400., 9.5, 1.]);
    }
}
