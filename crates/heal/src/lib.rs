//! Training after pruning: the pruned model learns again, from text or from the model it was cut from.
//!
//! A step is data → forward → [`Objective`]s → backward → gradients → [`Optimizer`] at the rate of a [`Schedule`]. Each of
//! them is a method: one file, listed in one table.

pub mod corruptors;
pub mod objectives;
pub mod optimizers;
pub mod schedules;

pub use corruptors::Corruptor;
pub use objectives::Objective;
pub use optimizers::Optimizer;
pub use schedules::Schedule;
