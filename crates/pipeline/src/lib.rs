//! Recipes, stages, the run directory and its report.
//!
//! [`Recipe`] is what a user asks for, checked whole before a byte of weights is read; [`run()`] does it, stage by stage.
//! [`RunDir`] holds what each stage made, [`StageKey`] says when that is still good, and [`TrialStore`] keeps every scored
//! candidate.

mod about;
mod bench;
mod classify;
mod console;
mod context;
mod data;
mod device;
mod error;
mod export;
mod gates;
mod heal;
mod local;
mod logits;
mod machine;
mod memory;
mod plot;
mod publish;
pub mod recipe;
mod run;
pub mod run_dir;
mod score;
pub mod stage;
mod stages;
pub mod store;
mod tasks;
mod verify;

pub use about::{
    BlockInspection, EvalReport, EvalRequest, Finding, Inspection, Method, doctor, eval, inspect, methods,
};
pub use bench::{BatchReport, BenchReport, BenchRequest, bench};
pub use classify::{Against, ClassifyReport, ClassifyRequest, classify};
pub use console::{Console, Stage};
pub use error::PipelineError;
pub use export::{ExportReport, ExportRequest, Exported, export};
pub use gates::Gate;
pub use heal::{HealData, HealOutcome, HealRequest, Start, heal};
pub use logits::{LogitsReport, logits};
pub use memory::MemoryNeed;
pub use publish::{PublishReport, PublishRequest, publish};
pub use recipe::{HealPart, Methods, Recipe, RecipeError};
pub use run::{Checked, RunReport, check, run};
pub use run_dir::{Outcome, RunDir, RunDirError};
pub use score::{CandidateScore, Halves, ScoreReport, ScoreRequest, score};
pub use stage::StageKey;
pub use stages::evaluate::{Evaluation, LatencyReport, LatencyRow, Row, TaskTable};
pub use stages::heal::HealReport;
pub use stages::search::{Found, Saved, Verified};
pub use store::{StoreError, StoredTrial, TrialStore};
pub use taper_arch::ImageSpec;
pub use taper_data::TextSource;
pub use taper_data::images::ImageSource;
pub use taper_eval::harness::{BOOTSTRAP, Comparison, FEWSHOT_SEED, OutputType, Pair, Recovery, Suite};
pub use taper_eval::{Classification, Latency, Spread};
pub use taper_export::{Narrowed, Target};
pub use tasks::{ChatRequest, TaskReport, TaskRequest, eval_tasks, suite};
pub use verify::{Loaded, Verdict, VerifyRequest, verify};
