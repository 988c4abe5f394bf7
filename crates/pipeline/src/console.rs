//! What a run tells whoever watches.

use std::fmt;

use serde::Serialize;
use taper_base::progress::{Progress, Silent};

/// The stages, in the order in which data flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The checkpoint is found, fetched and checked.
    Load,
    /// Its sub-blocks are timed, if the budget counts latency.
    Measure,
    /// Units are ranked on the calibration text.
    Calibrate,
    /// Candidates are scored.
    Search,
    /// The best one is cut and written.
    Materialise,
    /// It is trained, if the recipe says so.
    Heal,
    /// It is measured beside the original and the controls.
    Eval,
    /// It is written for other engines, if the recipe says so.
    Export,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Load,
        Self::Measure,
        Self::Calibrate,
        Self::Search,
        Self::Materialise,
        Self::Heal,
        Self::Eval,
        Self::Export,
    ];

    /// Its name, also that of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Measure => "measure",
            Self::Calibrate => "calibrate",
            Self::Search => "search",
            Self::Materialise => "materialise",
            Self::Heal => "heal",
            Self::Eval => "eval",
            Self::Export => "export",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Watches a run: its stages, and the progress inside them.
pub trait Console: Progress {
    /// Work on `stage` begins; `what` says on what.
    fn started(&self, stage: Stage, what: &str);
    /// `stage` is over: `summary` in a line; `skipped` if an earlier run had done it.
    fn finished(&self, stage: Stage, summary: &str, skipped: bool);
}

impl Console for Silent {
    fn started(&self, _: Stage, _: &str) {}
    fn finished(&self, _: Stage, _: &str, _: bool) {}
}
