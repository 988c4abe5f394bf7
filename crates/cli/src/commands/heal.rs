//! `heal`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use taper_pipeline::recipe::HealPart;
use taper_pipeline::{Console, HealData, HealRequest, ImageSource, Start};

use super::print;
use crate::args::{Args, HealArgs};
use crate::render;

pub(crate) fn heal(args: &Args, given: &HealArgs, console: &dyn Console) -> anyhow::Result<ExitCode> {
    let settings = HealPart::from_settings(given.settings.as_deref(), &overrides(given)?)?;
    if given.data.is_empty() && given.images.is_empty() && settings.texts.is_empty() {
        bail!("nothing to train on: wanted --data PATH, --images PATH, or `texts` in the settings");
    }
    let source = |path: &PathBuf| {
        let mut source = taper_pipeline::TextSource::new(path);
        source.field.clone_from(&given.field);
        if let Some(separator) = &given.separator {
            source.separator = Some(separator.clone()).filter(|separator| !separator.is_empty());
        }
        source
    };
    let data = match given.images.as_slice() {
        [] => HealData::Texts(given.data.iter().map(source).collect(), given.validation.as_ref().map(source)),
        paths => {
            let images = ImageSource { paths: paths.to_vec(), ..ImageSource::new("") };
            HealData::Images(images, given.validation.as_ref().map(ImageSource::new))
        }
    };
    let start = match (given.resume, given.fresh) {
        (true, _) => Start::Resume,
        (_, true) => Start::Fresh,
        _ => Start::Continue,
    };
    let request = HealRequest {
        student: given.model.parse()?,
        teacher: given.teacher.as_ref().map(|teacher| teacher.parse()).transpose()?,
        data,
        out: given.out.clone().unwrap_or_else(|| default_out(&given.model)),
        settings,
        seed: given.seed,
        origin: given.origin.clone(),
        start,
        threads: given.threads.map_or(0, usize::from),
        device: given.device.into(),
    };
    let outcome = taper_pipeline::heal(&request, console)?;
    print(args, &outcome, || render::healed(&outcome.report, &outcome.checkpoint))
}

/// `runs/demo/materialise` and `owner/name@main` alike: the last name, and what became of it.
fn default_out(model: &str) -> PathBuf {
    let name = model.split('@').next().unwrap_or(model);
    let name = Path::new(name).file_name().map(|name| name.to_string_lossy().into_owned());
    PathBuf::from(format!("{}-healed", name.unwrap_or_else(|| "model".to_owned())))
}

/// Keys of the `heal` section that the command line gives.
fn overrides(given: &HealArgs) -> anyhow::Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for set in &given.set {
        let (key, value) = set.split_once('=').with_context(|| format!("--set {set}: wanted KEY=VALUE"))?;
        all.push((key.trim().to_owned(), value.to_owned()));
    }
    let numbers = [
        ("steps", given.steps.map(|steps| steps.to_string())),
        ("rate", given.rate.map(|rate| format!("{rate:e}"))),
        ("sequences", given.sequences.map(|sequences| sequences.to_string())),
        ("length", given.length.map(|length| length.to_string())),
    ];
    all.extend(numbers.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    Ok(all)
}
