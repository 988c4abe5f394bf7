//! Checkpoints: load, forward, layer-wise backward, cut, save.
