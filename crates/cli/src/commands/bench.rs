//! `bench`.

use std::process::ExitCode;

use taper_pipeline::{BenchRequest, Console};

use super::print;
use crate::args::{Args, BenchArgs};
use crate::render::latency;

pub(crate) fn bench(args: &Args, given: &BenchArgs, console: &dyn Console) -> anyhow::Result<ExitCode> {
    let request = BenchRequest {
        model: given.model.parse()?,
        prompt: given.prompt as usize,
        generate: given.generate as usize,
        batches: given.batch.iter().map(|batch| usize::from(*batch)).collect(),
        repetitions: given.repetitions.into(),
        threads: given.threads.map(usize::from),
    };
    let report = taper_pipeline::bench(&request, console)?;
    print(args, &report, || latency::bench(&report))
}
