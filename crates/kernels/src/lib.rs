//! Forward and backward of every operation the engine is made of.
