//! `export` and `verify`.

use std::process::ExitCode;

use taper_pipeline::{Console, ExportRequest, Loaded, Verdict, VerifyRequest};

use super::print;
use crate::args::{Args, ExportArgs, VerifyArgs};
use crate::render;

pub(crate) fn export(args: &Args, given: &ExportArgs, console: &dyn Console) -> anyhow::Result<ExitCode> {
    let request = ExportRequest { model: given.model.clone(), targets: given.to.clone(), out: given.out.clone() };
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

fn line(one: &Loaded) -> String {
    let verdict = match &one.verdict {
        Verdict::Ran { version, difference, divergence, agree: [agree, all], most, same } => {
            let mark = match (most, same) {
                (None, _) => "rounded", // weights of fewer bits: told, not judged
                (Some(_), true) => "same",
                (Some(_), false) => "DIFFERS",
            };
            let most = most.map(|most| format!(" (at most {most:.0e})")).unwrap_or_default();
            format!(
                "{mark:<8} logits {difference:.1e}{most}, divergence {divergence:.1e}, {agree} of {all} greedy tokens; {version}"
            )
        }
        Verdict::Absent { cause, help } => format!("absent   {cause}; {help}"),
        Verdict::Failed { cause } => format!("FAILED   {cause}"),
    };
    format!("{:<13} {}\n{:13} {verdict}\n", one.engine, one.path.display(), "")
}
