//! Scores of a candidate without training: one file a proxy.
