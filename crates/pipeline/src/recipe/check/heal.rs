//! What a recipe's `heal` section asks for: methods, ranges, and what fits together.

use taper_heal::HealError;

use super::{Finding, Methods, method};
use crate::PipelineError;
use crate::recipe::Recipe;
use crate::recipe::heal::{HealPart, weighted};

/// The first thing wrong.
pub(super) fn heal(recipe: &Recipe, methods: &Methods) -> Result<(), Finding> {
    let Some(part) = &recipe.heal else { return Ok(()) };
    data(recipe, part)?;
    section(part, recipe.data.length, methods).map_err(|finding| {
        let path = [vec!["heal".to_owned()], finding.path].concat();
        Finding { path, ..finding }
    })
}

/// What belongs to text, or to images.
fn data(recipe: &Recipe, part: &HealPart) -> Result<(), Finding> {
    let images = recipe.data.images.is_some();
    match part.misplaced(images) {
        Some((key, what)) => {
            let reason = format!("{what}, but `data` is of {}", if images { "images" } else { "text" });
            Err(Finding::new(&["heal", key], reason))
        }
        None => Ok(()),
    }
}

fn section(part: &HealPart, length: usize, methods: &Methods) -> Result<(), Finding> {
    for (index, objective) in part.objectives.iter().enumerate() {
        let index = index.to_string();
        let (_, params) =
            weighted(objective).map_err(|reason| Finding::new(&["objectives", &index, &objective.name], reason))?;
        let objective = crate::recipe::Method { params, ..objective.clone() };
        method(&objective, &["objectives", &index], methods.check_objective)?;
    }
    method(&part.optimizer, &["optimizer"], methods.check_optimizer)?;
    method(&part.schedule, &["schedule"], methods.check_schedule)?;
    method(&part.corruptor, &["corruptor"], methods.check_corruptor)?;
    for (index, text) in part.texts.iter().enumerate() {
        if !(text.weight.is_finite() && text.weight > 0.0) {
            let reason = format!("weight is {}, wanted a number above 0", text.weight);
            return Err(Finding::new(&["texts", &index.to_string(), "weight"], reason));
        }
    }
    match part.plan(0, length, true) {
        Err(PipelineError::Heal(HealError::Setting { key, reason })) => {
            let path: Vec<&str> = key.split('.').collect();
            Err(Finding::new(&path, format!("{key}: {reason}")))
        }
        Err(other) => Err(Finding::new(&[], other.to_string())),
        Ok(_) => Ok(()),
    }
}
