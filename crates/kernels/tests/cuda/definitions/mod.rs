//! Definitions in f64, as plain as can be. Gradients are the derivatives by the chain rule over all pairs of entries, not
//! the shortened formulas that the kernels use.

pub mod attention;
pub mod norm;
