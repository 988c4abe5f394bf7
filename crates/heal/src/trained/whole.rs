//! Parameters of the model itself, trained in full, chosen by patterns of their names in checkpoints.

use std::collections::BTreeMap;

use globset::{Glob, GlobSet, GlobSetBuilder};
use taper_arch::ModelSpec;
use taper_kernels::Tensor;
use taper_model::{Model, Place};

use super::{Trained, Weight, own, replaced};
use crate::error::{HealError, Result};
use crate::optimizers::Optimizer;

pub(super) fn begin(student: Model, patterns: &[String], optimizer: &dyn Optimizer) -> Result<Trained> {
    let names: Vec<Place> = student.tensors().into_iter().map(|(place, _)| place).collect();
    let chosen = chosen("train", patterns, (student.spec(), &names))?;
    let (weights, places) = (std::cell::RefCell::new(Vec::new()), std::cell::RefCell::new(BTreeMap::new()));
    let model = replaced(&student, &|place, tensor| {
        let name = place.name(student.spec());
        if !chosen.is_match(&name) {
            return Ok(tensor);
        }
        let values = own(&tensor)?;
        let kind = (place.parameter.traced().is_some(), place.parameter.transposed());
        let mut weights = weights.borrow_mut();
        places.borrow_mut().insert(place, weights.len());
        weights.push(Weight::new(name, values.clone(), kind, optimizer)?);
        Ok(Tensor::from(values))
    })?;
    Ok(Trained { model, there: None, weights: weights.into_inner(), adapters: None, places: places.into_inner() })
}

/// The set of names that `patterns` describe; each must describe one of `names`.
pub(super) fn chosen(
    key: &'static str,
    patterns: &[String],
    (spec, places): (&ModelSpec, &[Place]),
) -> Result<GlobSet> {
    let names: Vec<String> = places.iter().map(|place| place.name(spec)).collect();
    let example = || names.get(1).or(names.first()).cloned().unwrap_or_default();
    let bad = |pattern: &str| HealError::Pattern { key, pattern: pattern.to_owned(), example: example() };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = Glob::new(pattern).map_err(|cause| HealError::Setting { key, reason: cause.to_string() })?;
        let matcher = glob.compile_matcher();
        if !names.iter().any(|name| matcher.is_match(name)) {
            return Err(bad(pattern));
        }
        set.add(glob);
    }
    if patterns.is_empty() {
        return Err(HealError::Setting { key, reason: "no pattern, wanted one at least".to_owned() });
    }
    set.build().map_err(|cause| HealError::Setting { key, reason: cause.to_string() })
}
