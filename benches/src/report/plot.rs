//! Line charts as SVG, and PNG made of them by `rsvg-convert`.

use std::fmt::Write;
use std::path::Path;

use crate::command::{find, run};
use crate::error::{BenchError, Result};

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 400.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;
/// Okabe and Ito's colours, which the colour-blind can tell apart, and darker ones after them.
const COLOURS: [&str; 12] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f3b08", "#542788",
    "#35978f", "#b2182b", "#878787",
];
/// Gaps between what is printed on an axis: 1, 2 or 5 times a power of ten.
const STEPS: [f64; 3] = [1.0, 2.0, 5.0];

/// How an axis is divided.
#[derive(Clone, PartialEq, Debug)]
pub enum Axis {
    /// From zero, evenly.
    Linear,
    /// By powers of ten; up to two of them, with marks at 1, 2 and 5.
    Logarithmic,
    /// Names at 0, 1, 2 …
    Names(Vec<String>),
}

/// A line with its name.
#[derive(Clone, PartialEq, Debug)]
pub struct Series {
    /// What the legend says.
    pub name: String,
    /// Points.
    pub points: Vec<(f64, f64)>,
    /// Drawn broken: what is not ours.
    pub dashed: bool,
}

/// A chart.
#[derive(Clone, PartialEq, Debug)]
pub struct Chart {
    /// Over it.
    pub title: String,
    /// Under it.
    pub x: (String, Axis),
    /// Beside it.
    pub y: (String, Axis),
    /// The lines.
    pub series: Vec<Series>,
}

/// An axis with its range.
struct Scale<'a> {
    axis: &'a Axis,
    least: f64,
    most: f64,
}

impl<'a> Scale<'a> {
    fn new(axis: &'a Axis, values: impl Iterator<Item = f64> + Clone) -> Self {
        let most = values.clone().fold(f64::MIN, f64::max);
        let least = values.filter(|value| *value > 0.0).fold(f64::MAX, f64::min);
        match axis {
            Axis::Linear => Scale { axis, least: 0.0, most: if most > 0.0 { most * 1.05 } else { 1.0 } },
            Axis::Logarithmic if least <= most => {
                let (low, high) = if most <= 100.0 * least {
                    (step_below(least).log10(), step_above(most).log10())
                } else {
                    (least.log10().floor(), most.log10().ceil())
                };
                Scale { axis, least: low, most: if high > low { high } else { low + 1.0 } }
            }
            Axis::Logarithmic => Scale { axis, least: 0.0, most: 1.0 },
            Axis::Names(names) => {
                Scale { axis, least: -0.2, most: names.len().saturating_sub(1) as f64 + 0.2 }
            }
        }
    }

    /// 0 at the beginning of the axis, 1 at its end.
    fn part(&self, value: f64) -> f64 {
        let value =
            if *self.axis == Axis::Logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value };
        (value - self.least) / (self.most - self.least)
    }

    /// Where something is printed, and what.
    fn marks(&self) -> Vec<(f64, String)> {
        match self.axis {
            Axis::Names(names) => {
                names.iter().enumerate().map(|(at, name)| (self.part(at as f64), name.clone())).collect()
            }
            Axis::Logarithmic => {
                let steps: &[f64] = if self.most - self.least < 2.5 { &STEPS } else { &[1.0] };
                let powers = self.least.floor() as i32..=self.most.ceil() as i32;
                let values = powers.flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)));
                values
                    .map(|value| (self.part(value), short(value)))
                    .filter(|(part, _)| (-1e-6..=1.0 + 1e-6).contains(part))
                    .collect()
            }
            Axis::Linear => {
                let rough = self.most / 8.0;
                let power = 10_f64.powf(rough.log10().floor());
                let step =
                    STEPS.iter().map(|step| step * power).find(|step| *step >= rough).unwrap_or(10.0 * power);
                (0..)
                    .map(|number| f64::from(number) * step)
                    .take_while(|value| *value <= self.most)
                    .map(|value| (self.part(value), short(value)))
                    .collect()
            }
        }
    }
}

/// The greatest of [`STEPS`] times a power of ten that is not above `value`.
fn step_below(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let fits = |step: &f64| step * power <= value * (1.0 + 1e-9);
    STEPS.iter().copied().filter(fits).fold(1.0, f64::max) * power
}

/// The least that is not below it.
fn step_above(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    STEPS.iter().map(|step| step * power).find(|step| *step >= value * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

/// A number as people write it on an axis.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        value if value >= 1e6 => (value / 1e6, "M"),
        value if value >= 1e4 => (value / 1e3, "k"),
        value => (value, ""),
    };
    let text = format!("{value:.2}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl Chart {
    /// The chart as SVG.
    pub fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        let horizontal = Scale::new(&self.x.1, points().map(|point| point.0));
        let vertical = Scale::new(&self.y.1, points().map(|point| point.1));
        let (inner_width, inner_height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let x = |value: f64| LEFT + value * inner_width;
        let y = |value: f64| HEIGHT - BOTTOM - value * inner_height;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
        );
        let _ = writeln!(
            out,
            "<text x=\"{LEFT}\" y=\"28\" font-size=\"16\" font-weight=\"bold\">{}</text>",
            escaped(&self.title)
        );
        for (part, text) in vertical.marks() {
            let at = y(part);
            let _ = writeln!(
                out,
                "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"#dddddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                at + 4.0,
                escaped(&text)
            );
        }
        for (part, text) in horizontal.marks() {
            let at = x(part);
            let _ = writeln!(
                out,
                "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#eeeeee\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 20.0,
                escaped(&text)
            );
        }
        let middle = TOP + inner_height / 2.0;
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
             <text x=\"18\" y=\"{middle:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 18 {middle:.1})\">{}</text>",
            LEFT + inner_width / 2.0,
            HEIGHT - 16.0,
            escaped(&self.x.0),
            escaped(&self.y.0)
        );
        for (number, (series, colour)) in self.series.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let dash = if series.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
            let places: Vec<(f64, f64)> = series
                .points
                .iter()
                .map(|point| (x(horizontal.part(point.0)), y(vertical.part(point.1).max(0.0))))
                .collect();
            let line: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
                line.join(" ")
            );
            for (x, y) in places {
                let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
            }
            let (left, at) = (WIDTH - RIGHT + 16.0, TOP + 10.0 + 22.0 * number as f64);
            let _ = writeln!(
                out,
                "<line x1=\"{left}\" y1=\"{at}\" x2=\"{}\" y2=\"{at}\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>\
                 <text x=\"{}\" y=\"{}\" font-size=\"11\">{}</text>",
                left + 24.0,
                left + 30.0,
                at + 4.0,
                escaped(&series.name)
            );
        }
        out.push_str("</svg>\n");
        out
    }

    /// Writes `NAME.svg` and, where `rsvg-convert` is installed, `NAME.png`; returns whether it was.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, directory: &Path, name: &str) -> Result<bool> {
        let svg = directory.join(format!("{name}.svg"));
        std::fs::write(&svg, self.svg()).map_err(|source| BenchError::file(&svg, source))?;
        if find("rsvg-convert").is_none() {
            return Ok(false);
        }
        let png = directory.join(format!("{name}.png"));
        run(&["rsvg-convert", "--zoom", "2", "--output", &png.to_string_lossy(), &svg.to_string_lossy()])?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_its_lines_where_they_belong() {
        let chart = Chart {
            title: "a < b & c".to_owned(),
            x: ("offered".to_owned(), Axis::Linear),
            y: ("arrived".to_owned(), Axis::Linear),
            series: vec![Series {
                name: "one".to_owned(),
                points: vec![(0.0, 0.0), (2.0, 1.0)],
                dashed: true,
            }],
        };
        let svg = chart.svg();
        assert!(svg.contains("a &lt; b &amp; c") && svg.contains("stroke-dasharray"), "{svg}");
        // 2.0 of 2.1 of 530 points across; 1.0 of 1.05 of 410 up.
        assert!(svg.contains("points=\"70.0,460.0 574.8,69.5\""), "{svg}");
    }

    #[test]
    fn marks_are_round_numbers() {
        let marks = |axis: &Axis, values: &[f64]| {
            Scale::new(axis, values.iter().copied())
                .marks()
                .into_iter()
                .map(|mark| mark.1)
                .collect::<Vec<_>>()
        };
        assert_eq!(marks(&Axis::Linear, &[1.9]), ["0", "0.5", "1", "1.5"]);
        assert_eq!(marks(&Axis::Logarithmic, &[1.0, 90_000.0]), ["1", "10", "100", "1000", "10k", "100k"]);
        assert_eq!(marks(&Axis::Logarithmic, &[]), ["1", "2", "5", "10"]);
        assert_eq!(marks(&Axis::Logarithmic, &[0.4, 14.2]), ["0.2", "0.5", "1", "2", "5", "10", "20"]);
        assert_eq!(marks(&Axis::Linear, &[]), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
    }
}
