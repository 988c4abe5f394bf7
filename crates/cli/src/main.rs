//! The `taper` binary: parse, call the pipeline, show, pick the exit code.

mod args;
mod commands;
mod console;
mod render;

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use crate::args::{Args, LogFormat};

/// 0 done, 1 ran but a gate was missed, 2 could not run. A closed pipe is 0: whoever reads has seen enough.
fn main() -> ExitCode {
    let args = Args::parse();
    match start_log(&args).and_then(|()| commands::run(&args)) {
        Ok(code) => code,
        Err(error) if closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed stderr leaves only the exit code to say so.
            let _ = writeln!(std::io::stderr(), "{}", render::error(&error));
            ExitCode::from(if missed_gate(&error) { 1 } else { 2 })
        }
    }
}

/// Only of stdout: a connection that broke is a failure.
fn closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(|commands::Stdout(cause)| cause.kind() == ErrorKind::BrokenPipe)
}

/// The run was sound and its result is not good enough.
fn missed_gate(error: &anyhow::Error) -> bool {
    error.is::<commands::MissedGates>()
        || matches!(error.downcast_ref(), Some(taper_pipeline::PipelineError::NothingScored { .. }))
}

fn start_log(args: &Args) -> anyhow::Result<()> {
    use tracing_subscriber::EnvFilter;
    let wanted = std::env::var_os("TAPER_LOG").filter(|wanted| !wanted.is_empty());
    let wanted = wanted.map_or("warn".to_owned(), |wanted| wanted.to_string_lossy().into_owned());
    let at = || format!("TAPER_LOG is `{wanted}`, wanted a level such as `info`, or `target=level,…`");
    let filter = EnvFilter::try_new(&wanted).with_context(at)?;
    // `log_internal_errors` would panic where stderr is closed.
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).log_internal_errors(false).with_env_filter(filter);
    match args.log_format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).without_time().with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
