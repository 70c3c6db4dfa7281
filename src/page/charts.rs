//! Numbers to pictures: SVG text that goes into the page.

use std::error::Error;
use std::ops::Range;

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::numbers::Bar;

/// Size of a picture, in pixels.
const SIZE: (u32, u32) = (560, 200);

/// A colour that can be read on white and on black.
const INK: RGBColor = RGBColor(128, 128, 128);
const FILL: RGBColor = RGBColor(66, 133, 190);

/// A number at an axis, with no more decimals than it needs.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "plotters passes a reference"
)]
fn label(value: &f64) -> String {
    let short = format!("{value:.3}");
    let short = short.trim_end_matches('0').trim_end_matches('.');
    match short {
        "-0" => "0".to_owned(),
        short => short.to_owned(),
    }
}

/// The area inside the axes.
type Plot<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Axes from 0 to a little above `top`, and in them what `fill` draws; `None` where nothing can be drawn.
fn framed(
    across: Range<f64>,
    top: f64,
    fill: impl FnOnce(&mut Plot<'_, '_>) -> Result<(), Box<dyn Error>>,
) -> Option<String> {
    let draw = || -> Result<String, Box<dyn Error>> {
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            let mut chart = ChartBuilder::on(&root)
                .margin(6)
                .x_label_area_size(24)
                .y_label_area_size(56)
                .build_cartesian_2d(across, 0.0..top * 1.05)?;
            chart
                .configure_mesh()
                .disable_mesh()
                .axis_style(INK)
                .label_style(("sans-serif", 12).into_font().color(&INK))
                .x_labels(8)
                .y_labels(5)
                .x_label_formatter(&label)
                .y_label_formatter(&label)
                .draw()?;
            fill(&mut chart)?;
            root.present()?;
        }
        Ok(svg)
    };
    draw().ok()
}

/// Bars beside one another; `None` where there is nothing to draw.
pub(super) fn bars(bars: &[Bar]) -> Option<String> {
    let (first, last) = (bars.first()?, bars.last()?);
    let top = bars.iter().map(|bar| bar.count).fold(0.0, f64::max);
    framed(first.from..last.to, top, |chart| {
        let rectangles = bars.iter().map(|bar| {
            let gap = (bar.to - bar.from) * 0.06;
            let corners = [(bar.from + gap, 0.0), (bar.to - gap, bar.count)];
            Rectangle::new(corners, FILL.filled())
        });
        chart.draw_series(rectangles)?;
        Ok(())
    })
}

/// A line from point to point; `None` where there are fewer than two.
pub(super) fn line(points: &[(f64, f64)]) -> Option<String> {
    let (&(first, _), &(last, top)) = (points.first()?, points.last()?);
    if last <= first {
        return None;
    }
    framed(first..last, top.max(1.0), |chart| {
        let line = LineSeries::new(points.iter().copied(), FILL.stroke_width(2));
        chart.draw_series(line)?;
        Ok(())
    })
}
