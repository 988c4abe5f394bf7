//! Eval: the pruned checkpoint, read back from its files, beside the original and two controls of the same budget.
//!
//! Controls: `uniform`, the same kept ratio in every sub-block, and `random`, architectures drawn from the search space
//! (their mean). All are cut by the same ranking of units, so only the choice of architecture differs.

use std::path::Path;

use serde::{Deserialize, Serialize};
use taper_arch::{ArchError, Architecture, Costs, Workload, cost, select};
use taper_base::Fingerprint;
use taper_base::rng::stream;
use taper_data::{Documents, Split};
use taper_eval::{Perplexity, documents_to_ids, perplexity};
use taper_model::{Calibration, Checkpoint, Model};

use super::{materialise, read_json, search, write_json};
use crate::context::{Context, documents};
use crate::error::finite;
use crate::stage::StageKey;
use crate::{Outcome, PipelineError, Stage};

/// The final table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// What it was measured on.
    pub text: String,
    /// One row a model: original, pruned, uniform, random.
    pub rows: Vec<Row>,
}

/// A model of the final table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// `original`, `pruned`, `uniform` or `random`.
    pub name: String,
    /// Its architecture's text form; of several random ones, the first's.
    pub architecture: String,
    /// Its costs; of several, the first's.
    pub costs: Costs,
    /// What was measured; of several, the mean loss and its exponential.
    pub measured: Perplexity,
    /// Loss of each of several random architectures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<f64>,
}

/// The text that results are reported on.
struct Text {
    documents: Documents,
    /// All of it, or the calibration text's test split.
    own: bool,
}

impl Text {
    fn of(context: &Context<'_>) -> Result<Self, PipelineError> {
        match &context.recipe.eval.text {
            Some(source) => Ok(Self { documents: documents(source, context.console)?, own: true }),
            None => Ok(Self { documents: context.documents.clone(), own: false }),
        }
    }

    fn chosen(&self, context: &Context<'_>) -> Vec<&str> {
        if self.own {
            return self.documents.all().iter().map(String::as_str).collect();
        }
        self.documents.of_split(&context.recipe.data.shares, Split::Test)
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_bytes(format!("{} {}", self.own, self.documents.fingerprint()).as_bytes())
    }

    fn name(&self) -> String {
        let which = if self.own { "all of" } else { "test split of" };
        format!("{which} {}", self.documents.name())
    }
}

pub(crate) fn evaluate(
    context: &Context<'_>,
    calibration: &Calibration,
    pruned: &Path,
) -> Result<Evaluation, PipelineError> {
    let (text, stage) = (Text::of(context)?, Stage::Eval);
    let eval = &context.recipe.eval;
    let key = StageKey::new(stage.name())
        .with("materialise", &materialise::key(context)?.fingerprint())
        .with("text", &text.fingerprint())
        .with_json("shares", &context.recipe.data.shares)?
        .with_json("windows", &eval.settings())?
        .with_json("random", &eval.random)?;
    context.console.started(stage, &text.name());
    let outcome = context.run.run(&key, |dir| {
        let rows = rows(context, calibration, pruned, &text)?;
        write_json(&dir.join("eval.json"), &Evaluation { text: text.name(), rows })
    })?;
    let found: Evaluation = read_json(&context.run.path(stage.name()).join("eval.json"))?;
    let losses: Vec<String> = found.rows.iter().map(|row| format!("{} {:.4}", row.name, row.measured.loss)).collect();
    context.console.finished(stage, &losses.join(", "), outcome == Outcome::Skipped);
    Ok(found)
}

fn rows(
    context: &Context<'_>,
    calibration: &Calibration,
    pruned: &Path,
    text: &Text,
) -> Result<Vec<Row>, PipelineError> {
    let (recipe, spec) = (context.recipe, context.checkpoint.spec());
    let ids = documents_to_ids(&text.chosen(context), context.tokenizer()?, true)?;
    let measure = |model: &Model| perplexity(model, &ids, recipe.eval.settings(), context.console);
    let row = |name: &str, architecture: &Architecture, measured: Perplexity| -> Result<Row, PipelineError> {
        finite(measured.perplexity, || format!("the perplexity of the {name} model"))?;
        let costs = cost(spec, architecture, Workload::default())?;
        Ok(Row { name: name.to_owned(), architecture: architecture.to_string(), costs, measured, losses: Vec::new() })
    };
    let sorted = context.sorted(calibration)?;
    let cut = |architecture: &Architecture| -> Result<Model, PipelineError> {
        Ok(sorted.cut(&select::prefixes(spec, architecture)?.blocks)?)
    };

    let whole = Architecture::whole(spec);
    // a space of depth alone has no uniform architecture
    let uniform = match recipe.space.uniform(spec, context.range) {
        Ok(uniform) => Some(uniform),
        Err(ArchError::Infeasible { .. }) => None,
        Err(cause) => return Err(cause.into()),
    };
    let exported = Model::load(&Checkpoint::open(pruned)?)?;
    let mut rows = vec![
        row("original", &whole, measure(context.model()?)?)?,
        row("pruned", &search::best(context)?, measure(&exported)?)?,
    ];
    if let Some(uniform) = uniform {
        rows.push(row("uniform", &uniform, measure(&cut(&uniform)?)?)?);
    }
    let mut drawn = Vec::new();
    for index in 0..recipe.eval.random {
        let mut rng = stream(recipe.seed, "random-control", index as u64, 0);
        let architecture = recipe.space.random(spec, context.range, &mut rng)?;
        let measured = measure(&cut(&architecture)?)?;
        drawn.push((architecture, measured));
    }
    if let Some((architecture, first)) = drawn.first() {
        let losses: Vec<f64> = drawn.iter().map(|(_, measured)| measured.loss).collect();
        let loss = losses.iter().sum::<f64>() / losses.len() as f64;
        let standard_error = first.standard_error.filter(|_| losses.len() == 1);
        let mean = Perplexity { loss, perplexity: loss.exp(), standard_error, ..*first };
        let losses = if losses.len() > 1 { losses } else { Vec::new() };
        rows.push(Row { losses, ..row("random", architecture, mean)? });
    }
    Ok(rows)
}
