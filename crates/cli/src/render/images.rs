//! What is printed of classifiers of images.

use std::fmt::Write;

use taper_pipeline::{Classification, ClassifyReport, Evaluation, ImageSpec, Inspection};

use super::{lines, spread, table};

/// Classes named, worst first.
const WORST: usize = 5;

/// The final table.
pub(super) fn evaluation(eval: &Evaluation) -> String {
    let mut table = table(&["", "parameters", "size", "FLOPs", "loss", "top-1", "top-5", "calibration error"]);
    for row in &eval.rows {
        let mut cells = vec![
            row.name.clone(),
            row.costs.parameters.to_string(),
            row.costs.bytes.to_string(),
            row.costs.flops.to_string(),
        ];
        cells.push(format!("{:.4}{}", row.measured.loss, spread(row)));
        cells.extend(row.classified.as_ref().map_or_else(Default::default, shares));
        table.add_row(cells);
    }
    let images = eval.rows.first().map_or(0, |row| row.measured.tokens);
    format!("{}\n{images} images, {}. FLOPs: one image.", lines(&table), eval.text)
}

fn shares(found: &Classification) -> [String; 3] {
    let error = found.top1_error.map(|error| format!(" ±{:.2}", 100.0 * error)).unwrap_or_default();
    [
        format!("{:.2}%{error}", 100.0 * found.top1),
        format!("{:.2}%", 100.0 * found.top5),
        format!("{:.4}", found.calibration_error),
    ]
}

/// `taper eval --images`.
pub(crate) fn classified(report: &ClassifyReport) -> String {
    let found = &report.found;
    let [top1, top5, calibration] = shares(found);
    let error = found.loss_error.map(|error| format!(" ±{error:.4}")).unwrap_or_default();
    let mut text = format!(
        "top-1 {top1}, top-5 {top5}, loss {:.6}{error} nats, calibration error {calibration}\n{} images of {}, {:.0} a second",
        found.loss, found.images, report.images_of, report.images_per_second
    );
    let mut classes: Vec<(usize, [u32; 2])> = found.classes.iter().copied().enumerate().collect();
    classes.retain(|(_, [images, _])| *images > 0);
    let right = |[images, found]: [u32; 2]| f64::from(found) / f64::from(images);
    classes.sort_by(|a, b| right(a.1).total_cmp(&right(b.1)));
    let worst = classes.iter().take(WORST).map(|(class, counts)| format!("{class} {:.1}%", 100.0 * right(*counts)));
    let _ = write!(text, "\nclasses, worst first: {}", worst.collect::<Vec<_>>().join(", "));
    if let Some(against) = &report.against {
        let [low, high] = against.interval;
        let _ = write!(
            text,
            "\nagainst {}: top-1 {:.2}%, difference {:+.2} points ({:+.2} to {:+.2}); {} answers became right, {} wrong",
            against.model,
            100.0 * against.found.top1,
            100.0 * against.difference,
            100.0 * low,
            100.0 * high,
            against.gained,
            against.lost
        );
    }
    text
}

/// The first lines of `taper inspect`.
pub(super) fn inspected(found: &Inspection, image: &ImageSpec) -> String {
    let ([height, width], costs) = (image.size, &found.costs);
    format!(
        ", width {}, {height} x {width} pixels in patches of {}, {} classes\n{} parameters ({} in blocks), {}\n\
         an image of {} tokens: {}\n\n",
        found.d_model,
        image.patch,
        found.vocab,
        costs.parameters,
        costs.non_embedding,
        costs.bytes,
        image.tokens(),
        costs.flops
    )
}
