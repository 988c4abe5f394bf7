//! What the stages of one run share. Weights, tokens and documents are read when a stage first needs them, so a run that
//! has nothing to do reads none.

use std::cell::OnceCell;
use std::path::PathBuf;

use taper_arch::{Architecture, BudgetRange, ModelSpec};
use taper_base::Fingerprint;
use taper_data::{Documents, Pack, Split, TextSource, TextTokenizer, Tokens, pack};
use taper_hub::LocalModel;
use taper_model::{Calibration, Checkpoint, Model};

use crate::run_dir::RunDir;
use crate::{Console, PipelineError, Recipe};

/// Version of what the stages compute; part of every key. Raise it when a change alters results.
pub(crate) const REVISION: u32 = 1;

pub(crate) struct Context<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) run: &'a RunDir,
    pub(crate) console: &'a dyn Console,
    pub(crate) local: LocalModel,
    pub(crate) checkpoint: Checkpoint,
    /// Of configuration, weights and tokenizer.
    pub(crate) fingerprint: Fingerprint,
    pub(crate) documents: Documents,
    pub(crate) range: BudgetRange,
    model: OnceCell<Model>,
    tokenizer: OnceCell<TextTokenizer>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(
        (recipe, run, console): (&'a Recipe, &'a RunDir, &'a dyn Console),
        local: LocalModel,
        checkpoint: Checkpoint,
        fingerprint: Fingerprint,
    ) -> Result<Self, PipelineError> {
        let range = range(recipe, checkpoint.spec())?;
        let documents = documents(&recipe.data.text, console)?;
        let (model, tokenizer) = (OnceCell::new(), OnceCell::new());
        Ok(Self { recipe, run, console, local, checkpoint, fingerprint, documents, range, model, tokenizer })
    }

    /// The whole model, units as stored.
    pub(crate) fn model(&self) -> Result<&Model, PipelineError> {
        get_or_try(&self.model, || Ok(Model::load(&self.checkpoint)?))
    }

    /// The whole model, units sorted by calibration: every candidate is a set of views on it.
    pub(crate) fn sorted(&self, calibration: &Calibration) -> Result<Model, PipelineError> {
        Ok(self.model()?.cut(&calibration.order.permutation())?)
    }

    pub(crate) fn tokenizer(&self) -> Result<&TextTokenizer, PipelineError> {
        get_or_try(&self.tokenizer, || {
            let tokenizer = TextTokenizer::load(&self.local.dir)?;
            let (tokens, vocab) = (tokenizer.vocabulary(), self.checkpoint.spec().vocab);
            if tokens > vocab {
                return Err(PipelineError::Vocabulary { dir: self.local.dir.clone(), tokens, vocab });
            }
            Ok(tokenizer)
        })
    }

    /// How a batch of `split` is made.
    pub(crate) fn pack(&self, split: Split) -> Pack {
        let data = &self.recipe.data;
        let pack = Pack::new(split, data.sequences, data.length, self.recipe.seed);
        Pack { shares: data.shares, ..pack }
    }

    /// The batch of `split`: calibration ranks units, validation scores candidates.
    pub(crate) fn tokens(&self, split: Split) -> Result<Tokens, PipelineError> {
        Ok(pack(&self.documents, self.tokenizer()?, &self.pack(split))?)
    }
}

/// The budget in numbers, if model and recipe fit each other and the space has anything inside the budget.
pub(crate) fn range(recipe: &Recipe, spec: &ModelSpec) -> Result<BudgetRange, PipelineError> {
    for (what, got) in [("data.length", recipe.data.length), ("eval.window", recipe.eval.window)] {
        if got > spec.max_tokens {
            return Err(PipelineError::TooLong { what, got, most: spec.max_tokens });
        }
    }
    let range = recipe.budget.budget().range(spec)?;
    let mut rng = taper_base::rng::stream(recipe.seed, "feasible", 0, 0);
    recipe.space.repair(spec, range, &Architecture::whole(spec), &mut rng)?;
    Ok(range)
}

/// The documents of `source`; files of a Hub dataset are fetched first.
pub(crate) fn documents(source: &TextSource, console: &dyn Console) -> Result<Documents, PipelineError> {
    let Some(dataset) = &source.dataset else { return Ok(Documents::read(source)?) };
    let (id, revision) = match dataset.split_once('@') {
        Some((id, revision)) => (id, Some(revision)),
        None => (dataset.as_str(), None),
    };
    let fetch = |path: &PathBuf| taper_hub::fetch_dataset_file(id, revision, &path.to_string_lossy(), console);
    let paths = source.paths.iter().map(fetch).collect::<Result<_, _>>()?;
    Ok(Documents::read(&TextSource { paths, dataset: None, ..source.clone() })?)
}

fn get_or_try<T>(cell: &OnceCell<T>, make: impl FnOnce() -> Result<T, PipelineError>) -> Result<&T, PipelineError> {
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let value = make()?;
    Ok(cell.get_or_init(|| value))
}
