//! Strategies that ask for candidates and are told their scores; they know no tensor.
