//! A recipe: one YAML file that says which model, how small, what may change and how to judge.
//!
//! Strict: unknown keys, duplicate keys, tags, merge keys and values out of range are errors, with file, line and column.
//! Names and numbers are checked here, before anything is loaded; what needs the model or the text is checked by the stages.
//! Paths of the model, of texts and of tasks start at the recipe's folder, `runs` at the working directory.

mod check;
mod error;
mod explain;
mod heal;
mod locate;
mod method;
mod parts;
mod text;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use taper_arch::{ModelSpec, SearchSpace};
use taper_export::{ExportError, Narrowed};
use taper_hub::ModelSource;

pub use check::Methods;
pub use error::{Fault, Place, RecipeError};
pub use heal::{CheckpointsPart, HealPart, HealText, LocalPart, LoraPart, NoisePart, ValidationPart};
pub use method::Method;
pub use parts::{BudgetPart, DataPart, Device, EvalPart, ExportPart, Kept, MaterialisePart, SearchPart, WeightType};

/// The version of the format that this build reads.
pub const VERSION: u64 = 1;

/// A recipe beyond this many bytes is refused unread: it is some other file.
pub const LARGEST: u64 = 1 << 20;

/// A taper recipe: from a pretrained checkpoint to a smaller one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Version of this format: 1.
    #[schemars(range(min = 1, max = 1))]
    pub version: u64,
    /// Names the run's folder: letters, digits, `-`, `_` and `.`. Left out: the recipe's file name without `.yaml`.
    #[serde(default, deserialize_with = "text::name")]
    #[schemars(regex(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]*$"), length(max = 100))]
    pub name: String,
    /// Seed of everything random. Same recipe, same seed: same result, on any number of threads.
    #[serde(default)]
    pub seed: u64,
    /// The model to compress.
    pub model: ModelSource,
    /// Text for calibration, for the search and for the test.
    pub data: DataPart,
    /// What the result may cost.
    pub budget: BudgetPart,
    /// What may be changed: heads, channels, whole attentions and MLPs.
    #[serde(default)]
    pub space: SearchSpace,
    /// How to look for the best architecture.
    #[serde(default)]
    pub search: SearchPart,
    /// How to train the pruned model; left out: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealPart>,
    /// How to judge the result.
    #[serde(default)]
    pub eval: EvalPart,
    /// How to save the result.
    #[serde(default)]
    pub materialise: MaterialisePart,
    /// Which engines must load the result; left out: only transformers does for sure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<ExportPart>,
    /// Where to compute.
    #[serde(default)]
    pub device: Device,
    /// Where run folders go; a relative path starts at the working directory.
    #[serde(default = "default_runs", deserialize_with = "text::path")]
    pub runs: PathBuf,
}

fn default_runs() -> PathBuf {
    PathBuf::from("runs")
}

impl Recipe {
    /// The recipe in `text`, checked whole; `path` is its file: named in errors, the default of `name`, and where relative
    /// paths start.
    ///
    /// # Errors
    /// [`RecipeError::Invalid`] with the place and what is wrong there.
    pub fn parse(text: &str, path: &Path, methods: &Methods) -> Result<Self, RecipeError> {
        let source = error::Source { path, text };
        locate::version(&source)?;
        let mut recipe: Self = locate::yaml(&source)?;
        if recipe.name.is_empty() {
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            text::check_name(&stem).map_err(|reason| {
                source.fault(
                    None,
                    format!("the file's name cannot name the run: {reason}; write `name:` into the recipe"),
                )
            })?;
            recipe.name = stem;
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        check::all(&recipe, methods, folder).map_err(|finding| locate::fault(&source, &finding))?;
        Ok(recipe.based_at(folder))
    }

    /// The recipe in the file `path`.
    ///
    /// # Errors
    /// As [`Recipe::parse`], and if the file cannot be read, has more than [`LARGEST`] bytes or is not UTF-8.
    pub fn read(path: &Path, methods: &Methods) -> Result<Self, RecipeError> {
        Self::parse(&read_text(path)?, path, methods)
    }

    /// Where to compute: classifiers of images run on the CPU alone, whatever GPU there is.
    pub(crate) fn place(&self) -> Device {
        if self.data.images.is_some() { Device::Cpu } else { self.device }
    }

    /// The search space over a model of `spec` that the engines of `export` leave, and what they took away.
    ///
    /// # Errors
    /// If one of them cannot hold the model at all.
    pub fn space_of(&self, spec: &ModelSpec) -> Result<(SearchSpace, Vec<Narrowed>), ExportError> {
        let (mut space, mut told) = (self.space, Vec::new());
        let padded = self.export.as_ref().is_some_and(|part| part.uniform_pad);
        for target in self.export.iter().flat_map(|part| &part.targets) {
            let mut narrow = space;
            let rules = target.narrow(&mut narrow, spec)?;
            if !padded {
                space = narrow;
                told.extend(rules);
            }
        }
        Ok((space, told))
    }

    /// Relative paths of the model and of texts start at `folder`.
    fn based_at(mut self, folder: &Path) -> Self {
        self.model = self.model.based_at(folder);
        self.data.text = self.data.text.map(|text| text.based_at(folder));
        self.data.images = self.data.images.map(|images| images.based_at(folder));
        for text in self.heal.iter_mut().flat_map(|heal| &mut heal.texts) {
            text.text = text.text.clone().based_at(folder);
        }
        self.eval.text = self.eval.text.map(|text| text.based_at(folder));
        self.eval.images = self.eval.images.map(|images| images.based_at(folder));
        self.eval.data = self.eval.data.map(|data| folder.join(data));
        self.eval.task_path.iter_mut().for_each(|path| *path = folder.join(&*path));
        self
    }
}

/// The text of the file `path`, of [`LARGEST`] bytes at most.
fn read_text(path: &Path) -> Result<String, RecipeError> {
    let failed = |source| RecipeError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(RecipeError::TooLarge { path: path.to_owned() });
    }
    String::from_utf8(bytes).map_err(|cause| {
        let good = &cause.as_bytes()[..cause.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        RecipeError::NotText { path: path.to_owned(), line, source: cause.utf8_error() }
    })
}

/// The JSON schema of recipes, for editors.
pub fn json_schema() -> schemars::Schema {
    schemars::schema_for!(Recipe)
}

#[cfg(test)]
mod tests;
