//! The binary from outside: what it prints, how it ends, and what it leaves on disk.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod changes;
mod closed_pipes;
mod damaged_runs;
mod determinism;
mod documents;
mod export;
mod gates;
mod heal;
mod images;
mod kills;
mod latency;
mod messages;
mod mutations;
mod publish;
mod racing;
mod recipe_messages;
mod support;
mod task_data;
mod tasks;
