//! Plots of a row as SVG: goodput over time, commands' latency, sent rate against the cap.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::figures::{Curve, Latencies, Row, SentRate};

const SIZE: (u32, u32) = (900, 480);
const FONT: &str = "sans-serif";
/// Okabe and Ito's colours, which people who see fewer tell apart.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
/// Of a curve in a plot; more are not to be seen.
const MAX_POINTS: usize = 1500;

/// File names and their contents.
///
/// # Errors
/// The drawing fails.
pub(super) fn of(row: &Row) -> Result<Vec<(String, String)>> {
    let mut plots = Vec::new();
    if !row.goodput.is_empty() {
        plots.push((format!("{}-goodput.svg", row.key), goodput(row)?));
    }
    if row.latencies.iter().any(|latencies| !latencies.sorted_ms.is_empty()) {
        plots.push((format!("{}-commands.svg", row.key), commands(row)?));
    }
    for rate in &row.rates {
        plots.push((format!("{}-rate-{}.svg", row.key, rate.cap_bps), sent(row, rate)?));
    }
    Ok(plots)
}

fn goodput(row: &Row) -> Result<String> {
    let (unit, factor) = unit(row.goodput.iter().map(|(_, curve)| highest(curve)).fold(0.0, f64::max));
    let lines = row.goodput.iter().map(|(name, curve)| (name.clone(), scaled(curve, factor)));
    draw(
        &format!("{}: goodput", row.key),
        "time since the file was offered, s",
        &format!("goodput, {unit}"),
        0.0,
        &lines.collect::<Vec<_>>(),
    )
}

fn commands(row: &Row) -> Result<String> {
    let lines = row.latencies.iter().map(|latencies| (latencies.name.clone(), cdf(latencies)));
    // Less than the link's own delay is not there to be seen.
    let left = row.latencies.iter().filter_map(|of| of.sorted_ms.first().copied()).fold(f64::INFINITY, f64::min);
    draw(
        &format!("{}: commands", row.key),
        "one way, ms",
        "share of commands that took no longer",
        if left.is_finite() { left * 0.97 } else { 0.0 },
        &lines.collect::<Vec<_>>(),
    )
}

fn sent(row: &Row, rate: &SentRate) -> Result<String> {
    let (unit, factor) = unit(rate.cap_bps as f64);
    let ends = (rate.curve.0.first().map_or(0.0, |p| p.0), rate.curve.0.last().map_or(1.0, |p| p.0));
    let level = |bps: f64| vec![(ends.0, bps * factor), (ends.1, bps * factor)];
    let with_burst = rate.cap_bps as f64 + rate.burst_bytes as f64 * 8.0 / 0.1;
    let lines = vec![
        ("sent in the last 100 ms".to_owned(), scaled(&rate.curve, factor)),
        ("cap".to_owned(), level(rate.cap_bps as f64)),
        ("cap and one burst".to_owned(), level(with_burst)),
    ];
    draw(&format!("{}: rate at layer 2", row.key), "time, s", &format!("rate, {unit}"), 0.0, &lines)
}

type Points = Vec<(f64, f64)>;

fn draw(title: &str, x: &str, y: &str, left: f64, lines: &[(String, Points)]) -> Result<String> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).filter(|v| v.is_finite()).fold(0.0, f64::max).max(1e-9);
    // Room for the legend above the curves.
    let (right, top) = (most(|point| point.0), most(|point| point.1) * 1.3);
    let right = right + (right - left) * 0.02;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let failed = |error: &dyn std::fmt::Display| anyhow!("drawing {title}: {error}");
        root.fill(&WHITE).map_err(|error| failed(&error))?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, (FONT, 24))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(left..right, 0.0..top)
            .map_err(|error| failed(&error))?;
        let mesh = &mut chart.configure_mesh();
        mesh.x_desc(x).y_desc(y).axis_desc_style((FONT, 18)).label_style((FONT, 16)).light_line_style(TRANSPARENT);
        mesh.draw().map_err(|error| failed(&error))?;
        for (number, (name, points)) in lines.iter().enumerate() {
            let style = COLOURS[number % COLOURS.len()].stroke_width(2);
            let series = LineSeries::new(points.iter().copied().filter(|point| point.1.is_finite()), style);
            let drawn = chart.draw_series(series).map_err(|error| failed(&error))?;
            drawn.label(name.as_str()).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        let labels = &mut chart.configure_series_labels();
        labels.position(SeriesLabelPosition::UpperRight).background_style(WHITE.mix(0.85)).border_style(BLACK.mix(0.4));
        labels.label_font((FONT, 16)).draw().map_err(|error| failed(&error))?;
        root.present().map_err(|error| failed(&error))?;
    }
    Ok(svg)
}

/// Steps of the cumulative distribution.
fn cdf(latencies: &Latencies) -> Points {
    let count = latencies.sorted_ms.len().max(1) as f64;
    let steps = latencies.sorted_ms.iter().enumerate();
    steps.flat_map(|(n, &ms)| [(ms, n as f64 / count), (ms, (n + 1) as f64 / count)]).collect()
}

fn scaled(curve: &Curve, factor: f64) -> Points {
    let step = curve.0.len().div_ceil(MAX_POINTS).max(1);
    curve.0.iter().step_by(step).map(|&(at, value)| (at, value * factor)).collect()
}

fn highest(curve: &Curve) -> f64 {
    curve.0.iter().map(|point| point.1).fold(0.0, f64::max)
}

fn unit(bps: f64) -> (&'static str, f64) {
    if bps < 2e6 { ("kbit/s", 1e-3) } else { ("Mbit/s", 1e-6) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_axes_units_and_a_legend() {
        let mut row = Row::new("1", "x");
        row.goodput.push(("florelay".to_owned(), Curve(vec![(0.0, 0.0), (1.0, 90_000.0), (2.0, 95_000.0)])));
        row.latencies.push(Latencies { name: "idle".to_owned(), sorted_ms: vec![1.0, 2.0] });
        let plots = of(&row).unwrap();
        assert_eq!(plots.iter().map(|plot| plot.0.as_str()).collect::<Vec<_>>(), ["1-goodput.svg", "1-commands.svg"]);
        for word in ["kbit/s", "florelay", "time since", "polyline"] {
            assert!(plots[0].1.contains(word), "{word}");
        }
        assert!(plots[1].1.contains("one way, ms") && plots[1].1.contains("idle"));
    }

    #[test]
    fn nothing_measured_is_drawn_as_nothing() {
        let mut row = Row::new("1", "x");
        row.goodput.push(("none".to_owned(), Curve::default()));
        assert_eq!(of(&row).unwrap().len(), 1);
    }
}
