//! Evaluation of checkpoints.
