//! Pages about time.

use taper_base::Bytes;
use taper_pipeline::{BenchReport, LatencyReport, Spread};

use super::{lines, table};

pub(crate) fn bench(report: &BenchReport) -> String {
    let mut table = table(&["batch", "first token", "per token", "tokens/s", "KV cache", "peak memory"]);
    for batch in &report.batches {
        let latency = &batch.latency;
        table.add_row(vec![
            latency.generation.batch.to_string(),
            spread(latency.first_token),
            latency.token.map_or("-".to_owned(), spread),
            format!("{:.1}", latency.tokens_per_second),
            Bytes(latency.cache_bytes).to_string(),
            batch.peak_bytes.map_or("unknown".to_owned(), |bytes| Bytes(bytes).to_string()),
        ]);
    }
    let generation = report.batches.first().map(|batch| batch.latency.generation).unwrap_or_default();
    format!(
        "{}: {} tokens after a prompt of {}, {} of {}\n\n{}\nMedians of {} with the lowest and the highest. tokens/s: all sequences, from the prompt on.",
        report.model,
        generation.generate,
        generation.prompt,
        threads(report.threads),
        report.processor,
        lines(&table),
        report.repetitions,
    )
}

/// What the table of times said, and what the clock says.
pub(crate) fn predicted(report: &LatencyReport) -> String {
    let mut table = table(&["", "predicted", "measured", "first token", "per token", "tokens/s"]);
    for row in &report.rows {
        let measured = &row.measured;
        table.add_row(vec![
            row.name.clone(),
            row.predicted.map_or("-".to_owned(), |nanos| nanos.to_string()),
            spread(measured.total),
            spread(measured.first_token),
            measured.token.map_or("-".to_owned(), spread),
            format!("{:.1}", measured.tokens_per_second),
        ]);
    }
    let generation = report.rows.first().map(|row| row.measured.generation).unwrap_or_default();
    format!(
        "\n\n{}\nLatency of {} tokens after a prompt of {}, batch {}, {} of {}; medians of {} with the lowest and the highest.",
        lines(&table),
        generation.generate,
        generation.prompt,
        generation.batch,
        threads(report.threads),
        report.processor,
        report.repetitions,
    )
}

fn threads(threads: usize) -> String {
    format!("{threads} thread{}", if threads == 1 { "" } else { "s" })
}

/// `12.3 ms (12.1-14.0)`.
fn spread(spread: Spread) -> String {
    let (scale, unit) = if spread.median < 1.0 { (1e3, "ms") } else { (1.0, "s") };
    let digits = if spread.median * scale < 10.0 { 2 } else { 1 };
    let [median, low, high] = [spread.median, spread.low, spread.high].map(|seconds| seconds * scale);
    format!("{median:.digits$} {unit} ({low:.digits$}-{high:.digits$})")
}
