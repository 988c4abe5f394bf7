//! `inspect`, `methods`, `doctor`.

use std::process::ExitCode;

use taper_pipeline::Console;

use super::print;
use crate::args::Args;
use crate::render;

pub(crate) fn inspect(args: &Args, model: &str, console: &dyn Console) -> anyhow::Result<ExitCode> {
    let report = taper_pipeline::inspect(&model.parse()?, console)?;
    print(args, &report, || render::inspection(&report))
}

pub(crate) fn methods(args: &Args) -> anyhow::Result<ExitCode> {
    let methods = taper_pipeline::methods();
    print(args, &methods, || render::methods(&methods))
}

pub(crate) fn doctor(args: &Args) -> anyhow::Result<ExitCode> {
    let findings = taper_pipeline::doctor();
    print(args, &findings, || render::findings(&findings))
}
