//! The loss curve as an SVG, with the stages of the curriculum marked.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;
use serde::{Deserialize, Serialize};

/// One step on the curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// The step.
    pub step: u64,
    /// Which stage it belonged to.
    pub stage_index: usize,
    /// Mean loss since the point before, in nats.
    pub loss: f64,
    /// Share of right answers since the point before.
    pub right_share: f64,
}

const SIZE: (u32, u32) = (900, 420);
const FONT: (&str, u32) = ("sans-serif", 14);

/// Draws loss (logarithmic, left) and the share of right answers (right) over the steps.
///
/// # Errors
/// If the file cannot be written.
pub fn draw_curve(
    points: &[CurvePoint],
    stage_names: &[&str],
    path: &Path,
) -> Result<(), Box<dyn Error>> {
    let end = points.last().map_or(1, |point| point.step.max(1));
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Training of the shop desk", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .right_y_label_area_size(56)
        .build_cartesian_2d(0..end, (0.001..10.0).log_scale())?
        .set_secondary_coord(0..end, 0.0..1.08);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("step")
        .y_desc("loss (nats per answer token)")
        .label_style(FONT)
        .draw()?;
    chart
        .configure_secondary_axes()
        .y_desc("right answers (share)")
        .label_style(FONT)
        .draw()?;

    let loss = points.iter().map(|p| (p.step, p.loss.max(0.001)));
    chart
        .draw_series(LineSeries::new(loss, BLUE.stroke_width(2)))?
        .label("loss")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], BLUE.stroke_width(2)));
    let right = points.iter().map(|p| (p.step, p.right_share));
    chart
        .draw_secondary_series(LineSeries::new(right, RED.mix(0.6)))?
        .label("right answers")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], RED));
    for (index, name) in stage_names.iter().enumerate() {
        let Some(start) = points.iter().find(|p| p.stage_index == index) else {
            continue;
        };
        let line = [(start.step, 0.0), (start.step, 1.08)];
        chart.draw_secondary_series(LineSeries::new(line, BLACK.mix(0.4)))?;
        let place = EmptyElement::at((start.step, 1.06));
        let text = Text::new(format!(" {}. {name}", index + 1), (2, 0), FONT);
        chart.draw_secondary_series([place + text])?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font(FONT)
        .draw()?;
    Ok(root.present()?)
}
