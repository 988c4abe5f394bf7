//! One file a group of commands: call the pipeline, print a document or a page.

mod about;
mod bench;
mod export;
mod heal;
mod measure;
mod recipe;
mod tasks;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

pub(crate) use recipe::MissedGates;

use crate::args::{Args, Command};
use crate::console::console;

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    use taper_pipeline::Stage;
    let console = console(args.progress);
    if !matches!(args.command, Command::Bench(_)) {
        taper_base::heap::keep_freed(); // bench tells each batch's memory apart
    }
    match &args.command {
        Command::Run(given) => recipe::run(args, given, Stage::Export, &*console),
        Command::Search(given) => recipe::run(args, given, Stage::Search, &*console),
        Command::Prune(given) => recipe::run(args, given, Stage::Materialise, &*console),
        Command::Export(given) => export::export(args, given, &*console),
        Command::Verify(given) => export::verify(args, given, &*console),
        Command::Publish(given) => export::publish(args, given, &*console),
        Command::Heal(given) => heal::heal(args, given, &*console),
        Command::Check { schema: true, .. } => recipe::schema(),
        Command::Check { recipe: given, .. } => recipe::check(args, given.as_deref()),
        Command::Eval(given) => measure::eval(args, given, &*console),
        Command::Tasks(given) => tasks::tasks(args, given),
        Command::Score(given) => measure::score(args, given, &*console),
        Command::Logits(given) => measure::logits(args, given, &*console),
        Command::Bench(given) => bench::bench(args, given, &*console),
        Command::Inspect { model } => about::inspect(args, model, &*console),
        Command::Methods => about::methods(args),
        Command::Doctor => about::doctor(args),
    }
}

/// `value` as the one document on stdout, or `page` for people.
fn print<T: Serialize>(args: &Args, value: &T, page: impl FnOnce() -> String) -> anyhow::Result<ExitCode> {
    let text = if args.json { serde_json::to_string_pretty(value).context("result as JSON")? } else { page() };
    write(&text)
}

/// stdout could not be written to.
#[derive(Debug)]
pub(crate) struct Stdout(pub(crate) std::io::Error);

impl std::fmt::Display for Stdout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stdout cannot be written to")
    }
}

impl std::error::Error for Stdout {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// `text` and a line end on stdout.
fn write(text: &str) -> anyhow::Result<ExitCode> {
    writeln!(std::io::stdout(), "{}", text.trim_end()).map_err(Stdout)?;
    Ok(ExitCode::SUCCESS)
}
