//! `taper export`: a checkpoint in the layouts of engines.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;
use serde_json::json;
use taper_base::Bytes;
use taper_export::gguf::{self, Mix};
use taper_hub::ModelSource;
use taper_model::Checkpoint;

use crate::error::io;
use crate::stages::write_json;
use crate::{Console, PipelineError};

/// An engine's layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A file for llama.cpp, of a type.
    Gguf(Mix),
}

impl Target {
    /// Its text form: `gguf:q4_k_m`.
    pub fn name(self) -> String {
        match self {
            Self::Gguf(mix) => format!("gguf:{}", mix.name()),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("gguf", mix)) => mix.parse().map(Self::Gguf),
            None if text == "gguf" => "f16".parse().map(Self::Gguf),
            _ => {
                let known: Vec<String> = Mix::names().map(|mix| format!("gguf:{mix}")).collect();
                Err(format!("unknown target `{text}`; known: {}", known.join(", ")))
            }
        }
    }
}

/// What to export, to where.
#[derive(Debug, Clone)]
pub struct ExportRequest {
    /// A run's folder, a checkpoint's, or a Hub id.
    pub model: String,
    /// Layouts.
    pub targets: Vec<Target>,
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
    /// llama.cpp's architecture.
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
    for target in &request.targets {
        match target {
            Target::Gguf(_) => gguf::Arch::of(checkpoint.spec())
                .map_err(|rule| PipelineError::Export(taper_export::ExportError::Rule { target: "llama.cpp", rule }))?,
        };
    }
    let name = name(&source, run.as_deref());
    let out = request.out.clone().unwrap_or_else(|| match &run {
        Some(run) => run.join("export"),
        None => PathBuf::from(format!("{name}-export")),
    });
    std::fs::create_dir_all(&out).map_err(io(&out))?;
    taper_base::files::sweep(&out).map_err(io(&out))?;
    let mut exported = Vec::new();
    for target in &request.targets {
        let Target::Gguf(mix) = *target;
        let path = out.join(format!("{name}-{}.gguf", mix.name()));
        let arch = gguf::write(&checkpoint, mix, &path, console)?;
        let bytes = Bytes(std::fs::metadata(&path).map_err(io(&path))?.len());
        exported.push(Exported { target: target.name(), path, architecture: arch.name(), bytes });
    }
    let files = exported.iter().map(|one| {
        let file = one.path.file_name().map(|name| name.to_string_lossy().into_owned());
        json!({"target": one.target, "file": file, "architecture": one.architecture})
    });
    let manifest = json!({"taper": env!("CARGO_PKG_VERSION"), "name": name, "files": files.collect::<Vec<_>>()});
    write_json(&out.join("export.json"), &manifest)?;
    Ok(ExportReport { source, exported })
}

/// The checkpoint's folder: that of a run's last result, or the model's own; and the run's, if it is one.
pub(crate) fn source(model: &str, console: &dyn Console) -> Result<(PathBuf, Option<PathBuf>), PipelineError> {
    let run = Path::new(model);
    for stage in ["heal", "materialise"] {
        let folder = run.join(stage);
        if folder.join("config.json").is_file() {
            return Ok((folder, Some(run.to_owned())));
        }
    }
    let source: ModelSource = model.parse()?;
    Ok((taper_hub::fetch_model(&source, console)?.dir, None))
}

/// What files are called after: the run, or the model.
fn name(source: &Path, run: Option<&Path>) -> String {
    let name = run.unwrap_or(source).file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "model".to_owned())
}
