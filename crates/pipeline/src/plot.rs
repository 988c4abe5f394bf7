//! Plots as SVG: a training's losses, what was kept of a model.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use taper_arch::{Architecture, BlockGenes};

use crate::PipelineError;
use crate::error::io;

const COLOURS: [RGBColor; 2] = [RGBColor(0x99, 0xaa, 0xbb), RGBColor(0x1f, 0x5f, 0xbf)];
const LINE: RGBColor = RGBColor(0xc0, 0x40, 0x30);

/// Losses by steps.
pub(crate) struct Curve<'a> {
    pub(crate) name: &'static str,
    pub(crate) points: &'a [(u64, f64)],
}

/// Writes `curves` against steps to the file `path`; `line` is the loss to reach, the original's.
pub(crate) fn loss_plot(path: &Path, curves: &[Curve<'_>], line: Option<f64>) -> Result<(), PipelineError> {
    let mut text = String::new();
    draw(&mut text, curves, line)
        .map_err(|cause| PipelineError::Content { path: path.to_owned(), reason: cause.to_string() })?;
    taper_base::files::write(path, text.as_bytes()).map_err(io(path))
}

/// The share of query heads and MLP channels that each block of `whole` keeps, two bars a block.
pub(crate) fn kept_plot(kept: &Architecture, whole: &Architecture) -> Result<String, PipelineError> {
    let mut text = String::new();
    bars(&mut text, kept, whole)
        .map_err(|cause| PipelineError::Content { path: "kept.svg".into(), reason: cause.to_string() })?;
    Ok(text)
}

fn bars(text: &mut String, kept: &Architecture, whole: &Architecture) -> Result<(), Box<dyn Error>> {
    let blocks = whole.blocks.len();
    let area = SVGBackend::with_string(text, (800, 300)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..blocks as f64, 0.0..1.15)?;
    chart.configure_mesh().x_desc("block").y_desc("share kept").light_line_style(WHITE).disable_x_mesh().draw()?;
    let heads = |genes: &BlockGenes| genes.attention.as_ref().map_or(0, |a| a.heads_per_group * a.groups);
    let channels = |genes: &BlockGenes| genes.mlp.as_ref().map_or(0, |m| m.channels);
    let sizes: [&dyn Fn(&BlockGenes) -> usize; 2] = [&heads, &channels];
    for (((name, left), size), colour) in
        [("query heads", 0.1), ("MLP channels", 0.5)].into_iter().zip(sizes).zip(COLOURS)
    {
        let bar = |(index, (kept, whole)): (usize, (&BlockGenes, &BlockGenes))| {
            let share = size(kept) as f64 / size(whole).max(1) as f64;
            let from = index as f64 + left;
            Rectangle::new([(from, 0.0), (from + 0.4, share)], colour.filled())
        };
        let drawn = chart.draw_series(kept.blocks.iter().zip(&whole.blocks).enumerate().map(bar))?;
        drawn.label(name).legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 16, y + 4)], colour.filled()));
    }
    chart.configure_series_labels().border_style(BLACK.mix(0.3)).background_style(WHITE).draw()?;
    area.present()?;
    Ok(())
}

fn draw(text: &mut String, curves: &[Curve<'_>], line: Option<f64>) -> Result<(), Box<dyn Error>> {
    let steps = curves.iter().flat_map(|curve| curve.points).map(|(step, _)| *step).max().unwrap_or(0).max(1);
    let losses = || curves.iter().flat_map(|curve| curve.points).map(|(_, loss)| *loss).chain(line);
    let (low, high) = losses().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    let room = (0.05 * (high - low)).max(1e-3);
    let area = SVGBackend::with_string(text, (800, 450)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0..steps, low - room..high + room)?;
    chart.configure_mesh().x_desc("step").y_desc("loss, nats").light_line_style(WHITE).draw()?;
    for (curve, colour) in curves.iter().zip(COLOURS) {
        let drawn = LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2));
        chart.draw_series(drawn)?.label(curve.name).legend(move |(x, y)| key((x, y), colour));
    }
    if let Some(loss) = line {
        let drawn = LineSeries::new([(0, loss), (steps, loss)], LINE.stroke_width(1));
        chart.draw_series(drawn)?.label("original").legend(|(x, y)| key((x, y), LINE));
    }
    chart.configure_series_labels().border_style(BLACK.mix(0.3)).background_style(WHITE).draw()?;
    area.present()?;
    Ok(())
}

/// A short line in a legend.
fn key((x, y): (i32, i32), colour: RGBColor) -> PathElement<(i32, i32)> {
    PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(2))
}
