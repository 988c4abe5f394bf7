//! Checks of the house itself: `cargo xtask layers`, `cargo xtask size`, `cargo xtask kernels`.
//!
//! Exit code 0 if the rule holds, 1 if it is broken (one line per break on stdout), 2 if it could not be checked.

mod kernels;
mod layers;
mod size;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use cargo_metadata::MetadataCommand;
use clap::Parser;

/// Checks of the house itself.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Check {
    /// Every crate names its layer and uses only crates of lower layers.
    Layers,
    /// No source file is longer than the limit.
    Size,
    /// Every kernel compiles, by the NVRTC that scripts/cuda_toolkit.sh unpacks or TAPER_NVRTC names; no GPU is needed.
    Kernels(kernels::Options),
}

fn main() -> ExitCode {
    match run(&Check::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(cause) => {
            // A closed stderr leaves only the exit code to say so.
            let _ = writeln!(std::io::stderr(), "error: {cause:#}");
            ExitCode::from(2)
        }
    }
}

/// Prints what breaks the rule; true if nothing does.
fn run(check: &Check) -> anyhow::Result<bool> {
    let metadata = MetadataCommand::new().no_deps().exec().context("cargo metadata")?;
    let violations: Vec<String> = match check {
        Check::Layers => layers::violations(&layers::crates(&metadata)).iter().map(ToString::to_string).collect(),
        Check::Size => size::too_long(Path::new(metadata.workspace_root.as_str()))?,
        Check::Kernels(options) => {
            let named = std::env::var_os("TAPER_NVRTC").filter(|folder| !folder.is_empty()).map(PathBuf::from);
            let toolkit = || Path::new(metadata.target_directory.as_str()).join("cuda-toolkit/lib");
            kernels::compile(options, &named.unwrap_or_else(toolkit), &mut std::io::stdout().lock())?
        }
    };
    let mut stdout = std::io::stdout().lock();
    for violation in &violations {
        writeln!(stdout, "{violation}").context("stdout")?;
    }
    Ok(violations.is_empty())
}
