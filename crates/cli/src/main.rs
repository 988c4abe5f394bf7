//! The `taper` binary: parse, call the pipeline, show, pick the exit code.

mod args;
mod commands;
mod console;
mod render;

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, LogFormat};

/// 0 done, 1 ran but a gate was missed, 2 could not run. A closed pipe is 0: whoever reads has seen enough.
fn main() -> ExitCode {
    let args = Args::parse();
    start_log(&args);
    match commands::run(&args) {
        Ok(code) => code,
        Err(error) if closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed stderr leaves only the exit code to say so.
            let _ = writeln!(std::io::stderr(), "{}", render::error(&error));
            ExitCode::from(2)
        }
    }
}

fn closed_pipe(error: &anyhow::Error) -> bool {
    let is_pipe = |cause: &std::io::Error| cause.kind() == ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(is_pipe))
}

fn start_log(args: &Args) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("TAPER_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
    match args.log_format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).without_time().with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
}
