//! Line charts as SVG, two in a row, without a library: axes, ticks, points, a legend.

use std::fmt::Write as _;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 376.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 16.0;
/// Title, and two rows of legend: no line runs through it.
const TOP: f64 = 70.0;
const BOTTOM: f64 = 44.0;
const TICKS: usize = 5;

/// One line of a chart.
pub struct Line {
    /// For the legend.
    pub name: String,
    /// An SVG colour.
    pub colour: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub dashed: bool,
}

/// One pair of axes; x is calls.
pub struct Chart {
    /// Above it.
    pub title: String,
    /// Beside it.
    pub y_label: String,
    /// The y axis reaches at least so far.
    pub y_least: f64,
    /// What must not be exceeded, drawn across.
    pub limit: Option<f64>,
    /// What is drawn.
    pub lines: Vec<Line>,
}

/// A letter's width, about, and what stands beside a name in the legend.
const LETTER: f64 = 6.4;
const SAMPLE: f64 = 44.0;

/// All charts, and a caption below.
pub fn draw(charts: &[Chart], caption: &str) -> String {
    let (width, height) = (2.0 * WIDTH, charts.len().div_ceil(2) as f64 * HEIGHT + 28.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (index, chart) in charts.iter().enumerate() {
        let (x, y) = ((index % 2) as f64 * WIDTH, (index / 2) as f64 * HEIGHT);
        let _ = writeln!(out, "<g transform=\"translate({x} {y})\">");
        one(&mut out, chart);
        out.push_str("</g>\n");
    }
    let _ =
        writeln!(out, "<text x=\"{LEFT}\" y=\"{}\" fill=\"#555\">{}</text>\n</svg>", height - 10.0, escaped(caption));
    out
}

fn one(out: &mut String, chart: &Chart) {
    let points = || chart.lines.iter().flat_map(|line| &line.points);
    let x_max = rounded_up(points().map(|point| point.0).fold(1.0, f64::max));
    // One wild value must not flatten all the others.
    let y_max = rounded_up(points().map(|point| point.1).fold(chart.y_least, f64::max).min(20.0 * chart.y_least));
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let x_of = |x: f64| LEFT + (right - LEFT) * x / x_max;
    let y_of = |y: f64| bottom - (bottom - TOP) * (y / y_max).min(1.0);
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"20\" font-weight=\"bold\">{}</text>", escaped(&chart.title));
    for tick in 0..=TICKS {
        let share = tick as f64 / TICKS as f64;
        let (x, y) = (x_of(x_max * share), y_of(y_max * share));
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            LEFT - 6.0,
            y + 4.0,
            short(y_max * share),
            bottom + 17.0,
            short(x_max * share),
        );
    }
    let _ = writeln!(
        out,
        "<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"#333\"/>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">calls</text>\
         <text transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        (LEFT + right) / 2.0,
        bottom + 35.0,
        (TOP + bottom) / 2.0,
        escaped(&chart.y_label),
    );
    if let Some(limit) = chart.limit {
        let y = y_of(limit);
        let _ = writeln!(out, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#888\" stroke-dasharray=\"2 3\"/>");
    }
    let (mut legend_x, mut legend_y) = (LEFT, 40.0);
    for line in chart.lines.iter().filter(|line| !line.points.is_empty()) {
        let path: Vec<String> = line.points.iter().map(|(x, y)| format!("{:.1} {:.1}", x_of(*x), y_of(*y))).collect();
        let dashes = if line.dashed { " stroke-dasharray=\"5 4\"" } else { "" };
        let colour = &line.colour;
        let _ = writeln!(
            out,
            "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>",
            path.join("L")
        );
        for (x, y) in &line.points {
            let _ = writeln!(out, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", x_of(*x), y_of(*y));
        }
        let wide = SAMPLE + LETTER * line.name.len() as f64;
        if legend_x + wide > WIDTH {
            (legend_x, legend_y) = (LEFT, legend_y + 17.0);
        }
        let _ = writeln!(
            out,
            "<path d=\"M{legend_x:.1} {}h22\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>\
             <text x=\"{:.1}\" y=\"{legend_y}\">{}</text>",
            legend_y - 4.0,
            legend_x + 27.0,
            escaped(&line.name),
        );
        legend_x += wide;
    }
}

/// The next number that makes five round ticks.
fn rounded_up(value: f64) -> f64 {
    let scale = 10f64.powf(value.max(1e-9).log10().floor());
    let steps = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    steps.into_iter().map(|step| step * scale).find(|rounded| *rounded >= value).unwrap_or(10.0 * scale)
}

fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
