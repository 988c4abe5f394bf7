//! Gates: what the result must keep of the original, or the run has missed its aim.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use taper_base::registry::did_you_mean;

use crate::recipe::Kept;
use crate::stages::evaluate::Evaluation;

/// The gate on the text's perplexity rather than on a task.
pub(crate) const PERPLEXITY: &str = "perplexity";

/// A recovery that a recipe asks for, and what was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gate {
    /// Task, group or `perplexity`.
    pub name: String,
    /// What must be kept at least.
    pub wanted: f64,
    /// What is kept; none if nothing was measured.
    pub found: Option<f64>,
    /// Whether that is enough.
    pub met: bool,
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, wanted) = (&self.name, self.wanted);
        match self.found {
            None => write!(f, "recovery of {name} was not measured, wanted at least {wanted}"),
            Some(found) if self.met => write!(f, "recovery of {name} is {found:.4}, wanted at least {wanted}"),
            Some(found) => {
                write!(
                    f,
                    "recovery of {name} is {found:.4}, wanted at least {wanted}: {:.4} too little",
                    wanted - found
                )
            }
        }
    }
}

/// Each gate of `wanted`, by name.
pub(crate) fn judge(wanted: &BTreeMap<String, Kept>, eval: &Evaluation) -> Vec<Gate> {
    let gate = |(name, wanted): (&String, &Kept)| {
        let found = if name == PERPLEXITY { perplexity(eval) } else { of_task(eval, name) };
        Gate { name: name.clone(), wanted: wanted.0, found, met: found.is_some_and(|found| found >= wanted.0) }
    };
    wanted.iter().map(gate).collect()
}

/// `original / result`, on the table's text; the result is the healed model, or the pruned one.
fn perplexity(eval: &Evaluation) -> Option<f64> {
    let of = |name: &str| eval.rows.iter().find(|row| row.name == name).map(|row| row.measured.perplexity);
    Some(of("original")? / of("healed").or_else(|| of("pruned"))?)
}

fn of_task(eval: &Evaluation, name: &str) -> Option<f64> {
    let mut recoveries = eval.tasks.iter().flat_map(|table| &table.recoveries);
    recoveries.find(|one| one.name == name).map(|one| one.recovery)
}

/// What is wrong with a gate on `name`, if only `measured` can have one.
pub(crate) fn refuse<'a>(name: &str, measured: impl Iterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = measured.chain([PERPLEXITY]).collect();
    let hint = did_you_mean(name, known.iter().copied());
    (!known.contains(&name)).then(|| format!("`{name}` is not among `eval.tasks`{hint}, so nothing is measured of it"))
}
