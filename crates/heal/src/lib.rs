//! Training after pruning: the pruned model learns again, from text or from the model it was cut from.
//!
//! A step is data → forward → [`Objective`]s → backward → gradients → [`Optimizer`] at the rate of a [`Schedule`]. Each of
//! them is a method: one file, listed in one table. [`heal()`] is the whole of it, and can be killed anywhere.

mod cache;
mod checkpoint;
pub mod corruptors;
mod error;
mod guide;
mod heal;
mod local;
mod losses;
#[cfg(test)]
mod machine_tests;
mod material;
mod matrix;
mod metrics;
mod noise;
pub mod objectives;
pub mod optimizers;
mod own;
mod plan;
pub mod schedules;
mod trained;
mod trainer;

pub use corruptors::Corruptor;
pub use error::HealError;
pub use heal::{Healed, Summary, TOKENS, heal};
pub use losses::Aim;
pub use material::Material;
pub use metrics::{Metric, read as read_metrics};
pub use noise::Noise;
pub use objectives::Objective;
pub use optimizers::Optimizer;
pub use plan::{Job, Plan};
pub use schedules::Schedule;
pub use trained::{AdapterSettings, Training};
