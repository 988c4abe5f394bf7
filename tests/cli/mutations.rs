//! Damaged input of every kind: exit code 2 and a message that names the file, or 0 if the damage does no harm.

mod checkpoints;
mod recipes;
mod texts;
