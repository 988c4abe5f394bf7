//! Pages for people.

pub(crate) mod images;
pub(crate) mod latency;
pub(crate) mod tasks;

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use comfy_table::{CellAlignment, Table, presets};
use taper_pipeline::{
    EvalReport, Evaluation, Exported, Finding, HealReport, Inspection, Method, PipelineError, RecipeError, Row,
    RunReport, Saved, ScoreReport,
};

/// The recipe in whose run an error came up: its context.
#[derive(Debug)]
pub(crate) struct InRecipe(pub(crate) PathBuf);

impl fmt::Display for InRecipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.display())
    }
}

/// The chain of causes, each once, indented, and the next step where one is known.
pub(crate) fn error(error: &anyhow::Error) -> String {
    let mut shown = error.to_string();
    let mut text = format!("error: {shown}");
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if cause != shown {
            let _ = write!(text, "\n  cause: {}", cause.replace('\n', "\n         "));
            shown = cause;
        }
    }
    if let Some(help) = help(error) {
        let _ = write!(text, "\n  help: {help}");
    }
    text
}

fn help(error: &anyhow::Error) -> Option<&'static str> {
    if let Some(RecipeError::Read { source, .. }) = error.downcast_ref() {
        let absent = source.kind() == std::io::ErrorKind::NotFound;
        return absent.then_some(
            "to start with, copy recipes/demo.yaml of taper's repository; `taper check --schema` describes every key",
        );
    }
    let in_recipe = error.downcast_ref::<InRecipe>().is_some();
    error.downcast_ref::<PipelineError>()?.help(in_recipe)
}

/// A table with its first column left and the others right.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_cell_alignment(if index == 0 { CellAlignment::Left } else { CellAlignment::Right });
        column.set_padding((0, 2));
    }
    table
}

fn lines(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

pub(crate) fn report(report: &RunReport) -> String {
    let mut text = String::new();
    if let Some(found) = &report.search {
        let _ = writeln!(text, "best of {} trials, {} {:.4}:", found.trials, found.proxy, found.score);
        let _ = writeln!(text, "  {}\n", found.architecture);
        if let Some(saved) = &found.fidelity {
            let _ = writeln!(text, "{}\n", racing(saved));
        }
    }
    if let Some(found) = &report.heal {
        let _ = writeln!(text, "healed: {}\n", found.line());
    }
    if let Some(eval) = &report.eval {
        let _ = writeln!(text, "{}\n", evaluation(eval));
        if let Some(found) = &eval.tasks {
            let _ = writeln!(text, "{}\n", tasks::of_a_run(found));
        }
    }
    if !report.exports.is_empty() {
        let _ = writeln!(text, "{}", exports(&report.exports));
    }
    if !report.gates.is_empty() {
        let _ = writeln!(text, "{}\n", tasks::gates(&report.gates));
    }
    if report.worked.is_empty() {
        let _ = writeln!(text, "Nothing to do: every stage is as the recipe wants it.");
    }
    match &report.checkpoint {
        Some(folder) => _ = writeln!(text, "checkpoint: {}", folder.display()),
        None => _ = writeln!(text, "results: {}", report.folder.display()),
    }
    text
}

/// What was written for other engines, a line each.
pub(crate) fn exports(all: &[Exported]) -> String {
    let line = |one: &Exported| {
        let (target, bytes) = (&one.target, one.bytes.to_string());
        format!("{target:<14} {bytes:>10}  {}  ({})\n", one.path.display(), one.architecture)
    };
    all.iter().map(line).collect()
}

/// A healed checkpoint: its losses on the way, and where it is.
pub(crate) fn healed(report: &HealReport, checkpoint: &Path) -> String {
    let mut table = table(&["step", "validation loss"]);
    let every = report.validation.len().div_ceil(12).max(1);
    let last = report.validation.len().saturating_sub(1);
    for (index, (step, loss)) in report.validation.iter().enumerate() {
        if index % every == 0 || index == last {
            table.add_row(vec![step.to_string(), format!("{loss:.4}")]);
        }
    }
    format!("{}\n{}\n\ncheckpoint: {}", lines(&table), report.line(), checkpoint.display())
}

/// What racing saved, and whether it cost the winner.
fn racing(saved: &Saved) -> String {
    let dropped: u64 = saved.dropped.iter().sum();
    let mut text = format!(
        "racing: {dropped} candidates dropped; {} of {} tokens scored, {:.2} times fewer",
        saved.tokens, saved.tokens_in_full, saved.times_fewer
    );
    match &saved.verified {
        Some(full) if full.same => text.push_str("\n  the full search finds the same"),
        Some(full) => _ = write!(text, "\n  the full search finds {:.4}: {}", full.score, full.architecture),
        None => {}
    }
    text
}

fn evaluation(eval: &Evaluation) -> String {
    if eval.rows.iter().any(|row| row.classified.is_some()) {
        return images::evaluation(eval);
    }
    let mut table = table(&["", "parameters", "size", "FLOPs", "KV cache", "loss", "perplexity"]);
    for row in &eval.rows {
        let costs = &row.costs;
        table.add_row(vec![
            row.name.clone(),
            costs.parameters.to_string(),
            costs.bytes.to_string(),
            costs.flops.to_string(),
            costs.kv_bytes.to_string(),
            format!("{:.4}{}", row.measured.loss, spread(row)),
            format!("{:.2}", row.measured.perplexity),
        ]);
    }
    let scored = eval.rows.first().map_or(0, |row| row.measured.tokens);
    let latency = eval.latency.as_ref().map(latency::predicted).unwrap_or_default();
    format!(
        "{}\n{scored} tokens, {}. FLOPs and KV cache: one sequence of 2048 tokens.{latency}",
        lines(&table),
        eval.text
    )
}

/// Standard error of one model, or standard deviation among several.
fn spread(row: &Row) -> String {
    if row.losses.len() > 1 {
        let n = row.losses.len() as f64;
        let variance = row.losses.iter().map(|loss| (loss - row.measured.loss).powi(2)).sum::<f64>() / (n - 1.0);
        return format!(" (sd {:.3} of {})", variance.sqrt(), row.losses.len());
    }
    row.measured.standard_error.map(|error| format!(" ±{error:.4}")).unwrap_or_default()
}

pub(crate) fn perplexity(report: &EvalReport) -> String {
    let found = &report.measured;
    let error = found.standard_error.map(|error| format!(" ±{error:.4}")).unwrap_or_default();
    format!(
        "loss {:.6}{error} nats per token, perplexity {:.4}\n{} tokens in {} windows of {} (stride {}{}), {}",
        found.loss,
        found.perplexity,
        found.tokens,
        found.windows,
        report.settings.window,
        report.settings.stride,
        if report.settings.by_document { ", by document" } else { "" },
        report.text
    )
}

pub(crate) fn scores(report: &ScoreReport) -> String {
    let mut table = table(&["candidate", "parameters", "loss", "Φ", "Σρ"]);
    for (number, candidate) in report.candidates.iter().enumerate() {
        table.add_row(vec![
            number.to_string(),
            candidate.parameters.to_string(),
            format!("{:.5}", candidate.loss),
            format!("{:.5}", candidate.phi),
            format!("{:.5}", candidate.phi_unweighted),
        ]);
    }
    let mut text = format!("whole model: loss {:.5}\n{}\n", report.base_loss, lines(&table));
    for (number, candidate) in report.candidates.iter().enumerate() {
        for (half, rho) in [("attention", &candidate.rho.attention), ("mlp", &candidate.rho.mlp)] {
            let shown: Vec<_> = rho.iter().map(|rho| rho.map_or("-".to_owned(), |rho| format!("{rho:.4}"))).collect();
            let _ = writeln!(text, "candidate {number}, ρ of {half:<9} by block: {}", shown.join(" "));
        }
    }
    text
}

pub(crate) fn inspection(found: &Inspection) -> String {
    let costs = &found.costs;
    let mut text = format!("{} ({}), {} blocks", found.model, found.family, found.blocks.len());
    if let Some(image) = &found.image {
        text.push_str(&images::inspected(found, image));
    } else {
        let _ = write!(
            text,
            ", width {}, {} rows of vocabulary, {} head\n{} parameters ({} without embedding), {}\n\
         at 2048 tokens: {}, KV cache {}\n\n",
            found.d_model,
            found.vocab,
            if found.tied_head { "tied" } else { "own" },
            costs.parameters,
            costs.non_embedding,
            costs.bytes,
            costs.flops,
            costs.kv_bytes
        );
    }
    let mut table = table(&["block", "query heads", "KV heads", "window", "channels", "parameters"]);
    let show = |size: Option<usize>| size.map_or("-".to_owned(), |size| size.to_string());
    for (number, block) in found.blocks.iter().enumerate() {
        table.add_row(vec![
            number.to_string(),
            show(block.heads),
            show(block.kv_heads),
            show(block.window),
            show(block.channels),
            block.parameters.to_string(),
        ]);
    }
    text.push_str(&lines(&table));
    text
}

pub(crate) fn methods(methods: &[Method]) -> String {
    let mut text = String::new();
    let mut family = "";
    for method in methods {
        if method.family != family {
            family = method.family;
            let _ = writeln!(text, "{}{family}", if text.is_empty() { "" } else { "\n" });
        }
        let source = if method.source.is_empty() { String::new() } else { format!(" [{}]", method.source) };
        let _ = writeln!(text, "  {:<18} {}{source}", method.name, method.summary);
    }
    text.push_str("\nIn a recipe: `search: { proxy: { gradient-trace: { sketch_rank: 64 } } }`, or a name alone for its defaults.");
    text
}

pub(crate) fn findings(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("{:<10} {}\n", finding.what, finding.found)).collect()
}
