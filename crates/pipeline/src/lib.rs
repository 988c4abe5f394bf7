//! Recipes, stages, the run directory and its report.
