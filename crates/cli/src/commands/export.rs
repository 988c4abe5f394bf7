//! `export`, `verify` and `publish`.

use std::process::ExitCode;

use taper_pipeline::{Console, ExportRequest, Loaded, PublishRequest, VerifyRequest};

use super::print;
use crate::args::{Args, ExportArgs, PublishArgs, VerifyArgs};
use crate::render;

pub(crate) fn export(args: &Args, given: &ExportArgs, console: &dyn Console) -> anyhow::Result<ExitCode> {
    let request = ExportRequest {
        model: given.model.clone(),
        targets: given.to.clone(),
        uniform_pad: given.uniform_pad,
        out: given.out.clone(),
    };
    let report = taper_pipeline::export(&request, console)?;
    print(args, &report, || render::exports(&report.exported))
}

pub(crate) fn verify(args: &Args, given: &VerifyArgs, console: &dyn Console) -> anyhow::Result<ExitCode> {
    let request =
        VerifyRequest { model: given.model.clone(), exports: given.exports.clone(), python: given.python.clone() };
    let all = taper_pipeline::verify(&request, console)?;
    let done = print(args, &all, || all.iter().map(line).collect())?;
    Ok(if all.iter().any(Loaded::missed) { ExitCode::from(1) } else { done })
}

pub(crate) fn publish(args: &Args, given: &PublishArgs, console: &dyn Console) -> anyhow::Result<ExitCode> {
    let request = PublishRequest {
        model: given.model.clone(),
        repo: given.repo.clone(),
        private: given.private,
        licence: given.license.clone(),
        message: given.message.clone(),
        dry_run: given.dry_run,
    };
    let report = taper_pipeline::publish(&request, console)?;
    print(args, &report, || {
        let Some(published) = &report.published else {
            let files: String =
                report.files.iter().map(|(name, bytes)| format!("{:>10}  {name}\n", bytes.to_string())).collect();
            return format!("{}\n{files}\nNothing was sent: --dry-run", report.card);
        };
        let (sent, there) = (published.sent.len(), published.unchanged.len());
        let removed = match published.removed.as_slice() {
            [] => String::new(),
            names => format!(", removed {}", names.join(", ")),
        };
        match &published.commit {
            Some(commit) => {
                format!("{}: {sent} files sent, {there} were there{removed}; commit {commit}", published.url)
            }
            None => format!("{}: nothing to do, all {there} files are there", published.url),
        }
    })
}

fn line(one: &Loaded) -> String {
    format!("{:<13} {}\n{:13} {}\n", one.engine, one.path.display(), "", one.verdict)
}
