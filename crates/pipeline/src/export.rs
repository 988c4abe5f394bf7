//! `taper export`: a checkpoint in the layouts of engines.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;
use taper_arch::ModelSpec;
use taper_base::Bytes;
use taper_base::files::PendingDir;
use taper_export::{Target, gguf, onnx, pad, transformers, vllm};
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
    let name = name(&source, run.as_deref());
    let out = request.out.clone().unwrap_or_else(|| match &run {
        Some(run) => run.join("export"),
        None => PathBuf::from(format!("{name}-export")),
    });
    let form = Form::of(&checkpoint, name, request.uniform_pad);
    request.targets.iter().try_for_each(|target| target.check(&form.spec, checkpoint.config()))?;
    std::fs::create_dir_all(&out).map_err(io(&out))?;
    taper_base::files::sweep(&out).map_err(io(&out))?;
    let exported = form.write(&checkpoint, &request.targets, &out, console)?;
    Ok(ExportReport { source, exported })
}

/// In which form a checkpoint is exported, and under which name.
pub(crate) struct Form {
    spec: ModelSpec,
    name: String,
    padded: bool,
}

impl Form {
    /// As it is, or with blocks that differ filled up.
    pub(crate) fn of(checkpoint: &Checkpoint, name: String, padded: bool) -> Self {
        if padded {
            Self { spec: pad::padded(checkpoint.spec()), name: name + "-padded", padded }
        } else {
            Self { spec: checkpoint.spec().clone(), name, padded }
        }
    }

    /// Writes all layouts into the folder `out`.
    pub(crate) fn write(
        &self,
        checkpoint: &Checkpoint,
        targets: &[Target],
        out: &Path,
        console: &dyn Console,
    ) -> Result<Vec<Exported>, PipelineError> {
        let place = self.padded.then(|| tempfile::Builder::new().prefix(".padded").tempdir_in(out));
        let place = place.transpose().map_err(io(out))?; // as large as the result
        let padded = place.as_ref().map(|place| {
            pad::write(checkpoint, place.path())?;
            Ok::<_, PipelineError>(Checkpoint::open(place.path())?)
        });
        let padded = padded.transpose()?;
        let checkpoint = padded.as_ref().unwrap_or(checkpoint);
        let make = |target: &Target| {
            let path = self.path(*target, out);
            match target {
                Target::Gguf(mix) => gguf::write(checkpoint, *mix, &path, console).map(drop)?,
                Target::Onnx => {
                    let pending = PendingDir::new(&path).map_err(io(&path))?;
                    onnx::write(checkpoint, pending.path())?;
                    pending.commit().map_err(io(&path))?;
                }
                Target::Transformers => folder(checkpoint, None, &path)?,
                Target::Vllm => folder(checkpoint, target.deci(&self.spec, checkpoint.config())?, &path)?,
            }
            self.exported(*target, checkpoint.config(), out)
        };
        targets.iter().map(make).collect()
    }

    /// Where a layout lies in `out`.
    fn path(&self, target: Target, out: &Path) -> PathBuf {
        let name = &self.name;
        out.join(match target {
            Target::Gguf(mix) => format!("{name}-{}.gguf", mix.name()),
            Target::Onnx | Target::Transformers | Target::Vllm => format!("{name}-{}", target.name()),
        })
    }

    /// What lies in `out` of a checkpoint whose `config.json` was `config`.
    pub(crate) fn exported(&self, target: Target, config: &Value, out: &Path) -> Result<Exported, PipelineError> {
        let path = self.path(target, out);
        let architecture = target.loader(&self.spec, config)?;
        Ok(Exported { target: target.name(), bytes: size(&path)?, path, architecture })
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
