//! `taper publish`: a run's result, or any checkpoint's folder, becomes a repository on the Hub, with a model card.

mod card;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;
use taper_arch::Architecture;
use taper_base::Bytes;
use taper_export::transformers::COPIED;
use taper_hub::{Content, ModelSource, Publication, Published, files_of};
use taper_model::Checkpoint;

use crate::export::source;
use crate::plot::kept_plot;
use crate::stages::evaluate::Evaluation;
use crate::stages::{read_json, read_key};
use crate::verify::Verified;
use crate::{Console, PipelineError, Stage};
use card::Card;

/// What to publish, to where.
#[derive(Debug, Clone)]
pub struct PublishRequest {
    /// A run's folder or a checkpoint's.
    pub model: String,
    /// `owner/name`.
    pub repo: String,
    /// Whether nobody else may see it.
    pub private: bool,
    /// Of the result; none: what the parent's card says.
    pub licence: Option<String>,
    /// The commit's message; none: what was published.
    pub message: Option<String>,
    /// Whether nothing is sent.
    pub dry_run: bool,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct PublishReport {
    /// The checkpoint's folder.
    pub source: PathBuf,
    /// Every file and its size.
    pub files: BTreeMap<String, Bytes>,
    /// The model card.
    pub card: String,
    /// What the Hub has now; none after a dry run.
    pub published: Option<Published>,
}

/// Publishes a result.
///
/// # Errors
/// If there is no such checkpoint, or what the Hub says.
pub fn publish(request: &PublishRequest, console: &dyn Console) -> Result<PublishReport, PipelineError> {
    let (folder, run) = source(&request.model, console)?;
    let checkpoint = Checkpoint::open(&folder)?;
    let mut files = files_of(&folder)?;
    files.retain(|name, _| is_of_checkpoint(name));
    let mut ggufs = Vec::new();
    if let Some(exports) = run.as_ref().map(|run| run.join(Stage::Export.name())).filter(|exports| exports.is_dir()) {
        for (name, content) in files_of(&exports)? {
            if name.ends_with(".gguf") && !name.contains('/') {
                not_older(&exports.join(&name), &folder.join("key.json"))?;
                ggufs.push((name.clone(), content.bytes()?));
                files.insert(name, content);
            }
        }
    }
    let found = Found::read(&folder, run.as_deref())?;
    let licence = match (&request.licence, &found.parent) {
        (Some(licence), _) => Some(licence.clone()),
        (None, Some(parent)) => stated_licence(parent),
        (None, None) => None,
    };
    let licence = match (licence, found.lock["model"]["source"].as_str()) {
        (None, Some(parent)) if parent.contains('/') && !request.dry_run => {
            taper_hub::licence(&parent.parse::<ModelSource>()?)? // the parent's card on the Hub
        }
        (licence, _) => licence,
    };
    if let (Some(kept), Some(whole)) = (&found.kept, &found.whole) {
        files.insert("kept.svg".to_owned(), Content::Text(kept_plot(kept, whole)?));
    }
    let card = Card {
        repo: &request.repo,
        spec: checkpoint.spec(),
        config: checkpoint.config(),
        lock: &found.lock,
        kept: found.kept.as_ref(),
        whole: found.whole.as_ref(),
        eval: found.eval.as_ref(),
        loaders: &found.loaders,
        licence: licence.as_deref(),
        ggufs: &ggufs,
        healed: folder.join("heal.json").is_file(),
    };
    let card = card.text();
    if run.is_some() || !files.contains_key("README.md") {
        files.insert("README.md".to_owned(), Content::Text(card.clone())); // else somebody has written one
    }
    let sizes = files.iter().map(|(name, content)| Ok((name.clone(), content.bytes()?)));
    let sizes: BTreeMap<String, Bytes> = sizes.collect::<Result<_, taper_hub::HubError>>()?;
    let name = run.as_deref().unwrap_or(&folder).file_name().map(|name| name.to_string_lossy().into_owned());
    let message = request.message.clone().unwrap_or_else(|| format!("{} by taper", name.unwrap_or_default()));
    let wanted = Publication { repo: request.repo.clone(), private: request.private, message, files, stale: is_ours };
    let published = (!request.dry_run).then(|| taper_hub::publish(&wanted, console)).transpose()?;
    Ok(PublishReport { source: folder, files: sizes, card, published })
}

/// An export of an earlier result must not be published beside this one.
fn not_older(export: &Path, made: &Path) -> Result<(), PipelineError> {
    let time = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified());
    match (time(export), time(made)) {
        (Ok(export_time), Ok(made)) if export_time < made => {
            let reason = "it is older than the checkpoint: export it again, or remove it".to_owned();
            Err(PipelineError::Content { path: export.to_owned(), reason })
        }
        _ => Ok(()),
    }
}

/// Whether a file belongs to a checkpoint, taper's or not: whatever else lies in its folder stays at home.
fn is_of_checkpoint(path: &str) -> bool {
    const NAMES: [&str; 5] =
        ["README.md", "architecture.json", "config.json", "preprocessor_config.json", "taper.lock"];
    is_ours(path) || NAMES.contains(&path) || COPIED.contains(&path)
}

/// Whether a file is of those that taper writes: such a one of an earlier publishing would lie beside another model.
fn is_ours(path: &str) -> bool {
    const NAMES: [&str; 7] = [
        "model.safetensors.index.json",
        "modeling_taper.py",
        "configuration_decilm.py",
        "kept_units.json",
        "heal.json",
        "loss.svg",
        "kept.svg",
    ];
    let weights = path.starts_with("model") && path.ends_with(".safetensors");
    !path.contains('/') && (weights || path.ends_with(".gguf") || NAMES.contains(&path))
        || path.starts_with("adapter/adapter_")
}

/// What a run knows of its result.
struct Found {
    lock: Value,
    kept: Option<Architecture>,
    whole: Option<Architecture>,
    eval: Option<Evaluation>,
    loaders: Vec<crate::Loaded>,
    /// The original's folder, if it is still there.
    parent: Option<PathBuf>,
}

impl Found {
    fn read(folder: &Path, run: Option<&Path>) -> Result<Self, PipelineError> {
        let lock = folder.join("taper.lock");
        let lock = if lock.is_file() { read_json(&lock)? } else { Value::Null };
        let kept = folder.join("architecture.json");
        let kept = kept.is_file().then(|| read_json(&kept)).transpose()?;
        let mut found = Self { lock, kept, whole: None, eval: None, loaders: Vec::new(), parent: None };
        let Some(run) = run else { return Ok(found) };
        let seen = run.join("load.json");
        if seen.is_file() {
            let seen: Value = read_json(&seen)?;
            found.parent = seen["seen"]["dir"].as_str().map(PathBuf::from).filter(|dir| dir.is_dir());
        }
        if let Some(Ok(parent)) = found.parent.as_deref().map(Checkpoint::open) {
            found.whole = Some(Architecture::whole(parent.spec()))
                .filter(|whole| found.kept.as_ref().is_some_and(|kept| kept.blocks.len() == whole.blocks.len()));
        }
        let key = |stage: Stage| read_key(&run.join(stage.name()));
        // results of what was there before are not this checkpoint's
        let (judged, pruned, healed) = (key(Stage::Eval)?, key(Stage::Materialise)?, key(Stage::Heal)?);
        let inputs = &judged["inputs"];
        let of_this = inputs["materialise"] == pruned["key"] && (healed.is_null() || inputs["healed"] == healed["key"]);
        if !judged.is_null() && of_this {
            found.eval = Some(read_json(&run.join(Stage::Eval.name()).join("eval.json"))?);
        }
        let verified = run.join(crate::verify::FILE);
        if verified.is_file() {
            let verified: Verified = read_json(&verified)?;
            let own = if healed.is_null() { &pruned["key"] } else { &healed["key"] };
            found.loaders = if own.as_str() == verified.key.as_deref() { verified.engines } else { Vec::new() };
        }
        Ok(found)
    }
}

/// The licence in the front matter of a folder's README: `license: mit`.
fn stated_licence(folder: &Path) -> Option<String> {
    let text = std::fs::read_to_string(folder.join("README.md")).ok()?;
    let front = text.strip_prefix("---\n")?.split("\n---").next()?;
    let value = front.lines().find_map(|line| line.strip_prefix("license:"))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned()).filter(|licence| !licence.is_empty())
}

#[cfg(test)]
mod tests;
