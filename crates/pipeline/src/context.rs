//! What the stages of one run share. Weights and tokens are made when a stage first needs them; text is read and hashed
//! at once, for every key depends on it.

use std::cell::{OnceCell, RefCell};
use std::path::PathBuf;

use serde_json::{Value, json};
use taper_arch::{Architecture, BudgetRange, ModelSpec, SearchSpace};
use taper_base::Fingerprint;
use taper_data::{Documents, Pack, Split, TextSource, TextTokenizer, pack};
use taper_hub::LocalModel;
use taper_model::{Calibration, Checkpoint, Model};
use taper_proxies::{Needs, Projection, ProxyError};
use taper_search::{Importance, Problem};

use crate::data::{Content, Data, Samples};
use crate::device::Gpu;
use crate::run_dir::RunDir;
use crate::stages::measure;
use crate::{Console, PipelineError, Recipe};

/// Version of what the stages compute; part of every key. Raise it when a change alters results.
pub(crate) const REVISION: u32 = 4;

pub(crate) struct Context<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) run: &'a RunDir,
    pub(crate) console: &'a dyn Console,
    pub(crate) local: LocalModel,
    pub(crate) checkpoint: Checkpoint,
    /// The checkpoint's, with the table of times if the budget counts them.
    pub(crate) spec: ModelSpec,
    /// Of configuration, weights and tokenizer.
    pub(crate) fingerprint: Fingerprint,
    pub(crate) data: Data,
    pub(crate) range: BudgetRange,
    /// The recipe's, without what the engines of `export` cannot load.
    pub(crate) space: SearchSpace,
    /// Where to compute; none is the CPU.
    pub(crate) gpu: Option<Gpu>,
    weights: RefCell<Option<Weights>>,
    tokenizer: OnceCell<TextTokenizer>,
}

/// The one model in memory: units as stored, or sorted.
enum Weights {
    Stored(Model),
    Sorted(Model),
}

impl<'a> Context<'a> {
    pub(crate) fn new(
        (recipe, run, console): (&'a Recipe, &'a RunDir, &'a dyn Console),
        local: LocalModel,
        (checkpoint, spec): (Checkpoint, ModelSpec),
        fingerprint: Fingerprint,
        gpu: Option<Gpu>,
    ) -> Result<Self, PipelineError> {
        let range = range(recipe, &spec)?;
        let (space, _) = recipe.space_of(&spec)?;
        let data = Data::open(recipe, (&local, &spec), console)?;
        let (weights, tokenizer) = (RefCell::new(None), OnceCell::new());
        Ok(Self {
            recipe,
            run,
            console,
            local,
            checkpoint,
            spec,
            fingerprint,
            data,
            range,
            space,
            gpu,
            weights,
            tokenizer,
        })
    }

    /// The whole model, units as stored. Takes the place of the sorted one.
    pub(crate) fn stored(&self) -> Result<Model, PipelineError> {
        let mut weights = self.weights.borrow_mut();
        if let Some(Weights::Stored(model)) = &*weights {
            return Ok(model.clone());
        }
        *weights = None; // before the other is read
        let model = Model::load(&self.checkpoint)?;
        *weights = Some(Weights::Stored(model.clone()));
        Ok(model)
    }

    /// The whole model, units sorted by calibration: every candidate is a set of views on it. Takes the place of the
    /// stored one, block by block.
    pub(crate) fn sorted(&self, calibration: &Calibration) -> Result<Model, PipelineError> {
        let mut weights = self.weights.borrow_mut();
        let model = match weights.take() {
            Some(Weights::Sorted(model)) => model,
            Some(Weights::Stored(model)) => model.into_cut(&calibration.order.permutation())?,
            None => Model::load(&self.checkpoint)?.into_cut(&calibration.order.permutation())?,
        };
        *weights = Some(Weights::Sorted(model.clone()));
        Ok(model)
    }

    /// `model` where it is computed with: on the GPU, if there is one to be used.
    pub(crate) fn placed(&self, model: &Model) -> Result<Model, PipelineError> {
        self.gpu.as_ref().map_or_else(|| Ok(model.clone()), |gpu| gpu.hold(model))
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

    /// How a batch of `split` is made of text.
    pub(crate) fn pack(&self, split: Split) -> Pack {
        let data = &self.recipe.data;
        let pack = Pack::new(split, data.sequences(), data.length, self.recipe.seed);
        Pack { shares: data.shares, ..pack }
    }

    /// What the batch of `split` depends on beside the data.
    pub(crate) fn batch(&self, split: Split) -> Value {
        let pack = self.pack(split);
        match &self.data.content {
            Content::Text(_) => json!({"sequences": pack.sequences, "length": pack.length, "seed": pack.seed,
                "shares": pack.shares, "eos": pack.eos}),
            Content::Images(_) => json!({"images": pack.sequences, "seed": pack.seed, "shares": pack.shares}),
        }
    }

    /// The same in words.
    pub(crate) fn about_batch(&self) -> String {
        let data = &self.recipe.data;
        match &self.data.content {
            Content::Text(_) => format!("{} x {} tokens of {}", data.sequences(), data.length, data.name()),
            Content::Images(_) => format!("{} images of {}", data.sequences(), data.name()),
        }
    }

    /// The batch of `split`: calibration ranks units, validation scores candidates.
    pub(crate) fn samples(&self, split: Split) -> Result<Samples, PipelineError> {
        match &self.data.content {
            Content::Text(documents) => Ok(Samples::Tokens(pack(documents, self.tokenizer()?, &self.pack(split))?)),
            Content::Images(images) => images.samples(&self.pack(split), || self.stored()),
        }
    }
}

/// Whether model and recipe fit each other, as far as can be said before anything is measured.
pub(crate) fn check(recipe: &Recipe, spec: &ModelSpec) -> Result<(), PipelineError> {
    match (spec.image.is_some(), recipe.data.images.is_some()) {
        (true, false) => return Err(PipelineError::OtherData { reads: "images", given: "data.text" }),
        (false, true) => return Err(PipelineError::OtherData { reads: "text", given: "data.images" }),
        _ => {}
    }
    for (what, got) in [("data.length", recipe.data.length), ("eval.window", recipe.eval.window)] {
        if got > spec.max_tokens && spec.image.is_none() {
            return Err(PipelineError::TooLong { what, got, most: spec.max_tokens });
        }
    }
    if let Some(length) = recipe.heal.as_ref().and_then(|heal| heal.length)
        && length > spec.max_tokens
        && spec.image.is_none()
    {
        return Err(PipelineError::TooLong { what: "heal.length", got: length, most: spec.max_tokens });
    }
    let proxy = taper_proxies::build(&recipe.search.proxy.name, &recipe.search.proxy.params)?;
    if let Some(Projection::Rank(rank)) = proxy.needs().trace
        && rank > spec.d_model
    {
        return Err(ProxyError::Rank { rank, most: spec.d_model }.into());
    }
    if recipe.search.fidelity.is_some() && proxy.needs() == Needs::default() {
        return Err(PipelineError::NothingToSave { proxy: recipe.search.proxy.name.clone() });
    }
    measure::check(recipe, spec)
}

/// The budget in numbers, if model and recipe fit each other and the space has anything inside the budget.
pub(crate) fn range(recipe: &Recipe, spec: &ModelSpec) -> Result<BudgetRange, PipelineError> {
    check(recipe, spec)?;
    let range = recipe.budget.budget().range(spec)?;
    let mut rng = taper_base::rng::stream(recipe.seed, "feasible", 0, 0);
    let (space, _) = recipe.space_of(spec)?;
    space.repair(spec, range, &Architecture::whole(spec), &mut rng)?;
    let strategy = taper_search::build(&recipe.search.strategy.name, &recipe.search.strategy.params)?;
    let importance = Importance { blocks: vec![[1.0; 2]; spec.blocks.len()] }; // not known yet
    let problem = Problem { spec: spec.clone(), space, range, importance, seed: recipe.seed };
    strategy.start(problem)?;
    Ok(range)
}

/// The documents of `source`; files of a Hub dataset are fetched first.
pub(crate) fn documents(source: &TextSource, console: &dyn Console) -> Result<Documents, PipelineError> {
    let Some(dataset) = &source.dataset else { return Ok(Documents::read(source)?) };
    let paths = fetched(dataset, &source.paths, console)?;
    Ok(Documents::read(&TextSource { paths, dataset: None, ..source.clone() })?)
}

/// The files `paths` of the Hub dataset `dataset`, `owner/name` or `owner/name@revision`, here.
pub(crate) fn fetched(dataset: &str, paths: &[PathBuf], console: &dyn Console) -> Result<Vec<PathBuf>, PipelineError> {
    let (id, revision) = match dataset.split_once('@') {
        Some((id, revision)) => (id, Some(revision)),
        None => (dataset, None),
    };
    let fetch = |path: &PathBuf| taper_hub::fetch_dataset_file(id, revision, &path.to_string_lossy(), console);
    Ok(paths.iter().map(fetch).collect::<Result<_, _>>()?)
}

fn get_or_try<T>(cell: &OnceCell<T>, make: impl FnOnce() -> Result<T, PipelineError>) -> Result<&T, PipelineError> {
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let value = make()?;
    Ok(cell.get_or_init(|| value))
}
