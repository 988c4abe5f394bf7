//! `taper export`: a checkpoint in the layouts of engines.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;
use taper_base::Bytes;
use taper_base::files::PendingDir;
use taper_export::{Target, gguf, pad, transformers, vllm};
use taper_hub::ModelSource;
use taper_model::Checkpoint;

use crate::error::io;
use crate::stages::{read_key, write_json};
use crate::{Console, PipelineError, Stage};

/// What to export, to where.
#[derive(Debug, Clone)]
pub struct ExportRequest {
    /// A run's folder, a checkpoint's, or a Hub id.
    pub model: String,
    /// Layouts.
    pub targets: Vec<Target>,
    /// Whether blocks that differ are filled up with zeros until they are alike.
    pub uniform_pad: bool,
    /// Folder for the results; none: `export` in a run's folder, else the model's name and `-export`.
    pub out: Option<PathBuf>,
}

/// One layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// `gguf:q4_k_m`.
    pub target: String,
    /// File or folder.
    pub path: PathBuf,
    /// What the engine takes it for, and how it is told if that is not by itself.
    pub architecture: &'static str,
    /// Size.
    pub bytes: Bytes,
}

/// What `taper export` made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    /// The checkpoint's folder.
    pub source: PathBuf,
    /// One entry a target.
    pub exported: Vec<Exported>,
}

/// Writes a checkpoint for other engines.
///
/// # Errors
/// Before anything is written if an engine cannot hold the model; else what a file says.
pub fn export(request: &ExportRequest, console: &dyn Console) -> Result<ExportReport, PipelineError> {
    let (source, run) = source(&request.model, console)?;
    let checkpoint = Checkpoint::open(&source)?;
    let spec = if request.uniform_pad { pad::padded(checkpoint.spec()) } else { checkpoint.spec().clone() };
    request.targets.iter().try_for_each(|target| target.check(&spec, checkpoint.config()))?;
    let mut name = name(&source, run.as_deref());
    let out = request.out.clone().unwrap_or_else(|| match &run {
        Some(run) => run.join("export"),
        None => PathBuf::from(format!("{name}-export")),
    });
    std::fs::create_dir_all(&out).map_err(io(&out))?;
    taper_base::files::sweep(&out).map_err(io(&out))?;
    let padded = request.uniform_pad.then(|| tempfile::Builder::new().prefix(".padded").tempdir_in(&out));
    let padded = padded.transpose().map_err(io(&out))?; // as large as the result
    let checkpoint = match &padded {
        Some(padded) => {
            name.push_str("-padded");
            pad::write(&checkpoint, padded.path())?;
            Checkpoint::open(padded.path())?
        }
        None => checkpoint,
    };
    let make = |target: &Target| write(*target, &checkpoint, (&out, &name), console);
    let exported: Vec<Exported> = request.targets.iter().map(make).collect::<Result<_, _>>()?;
    Ok(ExportReport { source, exported })
}

/// Writes one layout of `checkpoint` into the folder `out`.
pub(crate) fn write(
    target: Target,
    checkpoint: &Checkpoint,
    (out, name): (&Path, &str),
    console: &dyn Console,
) -> Result<Exported, PipelineError> {
    let path = path(target, (out, name));
    match target {
        Target::Gguf(mix) => gguf::write(checkpoint, mix, &path, console).map(drop)?,
        Target::Transformers => folder(checkpoint, None, &path)?,
        Target::Vllm => folder(checkpoint, target.deci(checkpoint.spec(), checkpoint.config())?, &path)?,
    }
    Exported::of(target, checkpoint, (out, name))
}

/// Where a layout lies in `out`.
fn path(target: Target, (out, name): (&Path, &str)) -> PathBuf {
    out.join(match target {
        Target::Gguf(mix) => format!("{name}-{}.gguf", mix.name()),
        Target::Transformers | Target::Vllm => format!("{name}-{}", target.name()),
    })
}

impl Exported {
    /// What lies in `out` of `checkpoint`.
    pub(crate) fn of(
        target: Target,
        checkpoint: &Checkpoint,
        (out, name): (&Path, &str),
    ) -> Result<Self, PipelineError> {
        let (spec, path) = (checkpoint.spec(), path(target, (out, name)));
        let architecture = target.loader(spec, checkpoint.config())?;
        Ok(Self { target: target.name(), bytes: size(&path)?, path, architecture })
    }
}

/// A folder that appears whole or not at all, in the place of an older one.
/// `deci`: the configuration of vLLM's class, instead of that of transformers.
fn folder(checkpoint: &Checkpoint, deci: Option<Value>, path: &Path) -> Result<(), PipelineError> {
    let pending = PendingDir::new(path).map_err(io(path))?;
    let dir = pending.path();
    transformers::write(dir, checkpoint.spec(), checkpoint.dir(), checkpoint.config())?;
    if let Some(config) = deci {
        write_json(&dir.join("config.json"), &config)?;
        let (name, content) = vllm::CLASS;
        taper_base::files::write(&dir.join(name), content.as_bytes()).map_err(io(dir))?;
        let shim = dir.join("modeling_taper.py");
        if shim.is_file() {
            std::fs::remove_file(&shim).map_err(io(&shim))?;
        }
    }
    for entry in std::fs::read_dir(checkpoint.dir()).map_err(io(checkpoint.dir()))? {
        let from = entry.map_err(io(checkpoint.dir()))?.path();
        let name = from.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with("model") && (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")) {
            std::fs::copy(&from, dir.join(&name)).map_err(io(&from))?;
        }
    }
    pending.commit().map_err(io(path))
}

/// Of a file, or of all files of a folder.
fn size(path: &Path) -> Result<Bytes, PipelineError> {
    let of = |path: &Path| std::fs::metadata(path).map(|found| found.len()).map_err(io(path));
    if path.is_file() {
        return of(path).map(Bytes);
    }
    let mut sum = 0;
    for entry in std::fs::read_dir(path).map_err(io(path))? {
        sum += of(&entry.map_err(io(path))?.path())?;
    }
    Ok(Bytes(sum))
}

/// The checkpoint's folder: that of a run's last result, or the model's own; and the run's, if it is one.
pub(crate) fn source(model: &str, console: &dyn Console) -> Result<(PathBuf, Option<PathBuf>), PipelineError> {
    let run = Path::new(model);
    let [healed, pruned] = [Stage::Heal, Stage::Materialise].map(|stage| run.join(stage.name()));
    if pruned.join("config.json").is_file() {
        let folder = if is_of(&healed, &pruned)? { healed } else { pruned };
        return Ok((folder, Some(run.to_owned())));
    }
    let source: ModelSource = model.parse()?;
    Ok((crate::local::model(&source, console)?.dir, None))
}

/// Whether `healed` was trained from `pruned` as it is now, and not from what an earlier recipe made.
fn is_of(healed: &Path, pruned: &Path) -> Result<bool, PipelineError> {
    let (healed, pruned) = (read_key(healed)?, read_key(pruned)?);
    Ok(!healed.is_null() && !pruned.is_null() && healed["inputs"]["materialise"] == pruned["key"])
}

/// What files are called after: the run, or the model.
fn name(source: &Path, run: Option<&Path>) -> String {
    let name = run.unwrap_or(source).file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "model".to_owned())
}
