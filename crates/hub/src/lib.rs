//! Checkpoints from the Hub, and the layouts that stock engines load.
