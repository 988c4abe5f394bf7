//! Progress on stderr: a bar, plain lines, JSON lines, or nothing.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use taper_base::progress::{Progress, Silent};
use taper_pipeline::{Console, Stage};

use crate::args;

/// Time between two plain lines of one piece of work.
const PAUSE: Duration = Duration::from_secs(20);

/// The console that the command line asks for.
pub(crate) fn console(style: args::ProgressStyle) -> Box<dyn Console> {
    use args::ProgressStyle as S;
    match style {
        S::Auto if std::io::stderr().is_terminal() => Box::new(Bar::default()),
        S::Bar => Box::new(Bar::default()),
        S::Auto | S::Plain => Box::new(Lines { json: false, work: Mutex::default() }),
        S::Json => Box::new(Lines { json: true, work: Mutex::default() }),
        S::Silent => Box::new(Silent),
    }
}

/// A closed stderr must not stop the work.
fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn stage_line(stage: Stage, summary: &str, skipped: bool) -> String {
    let mark = if skipped { "unchanged" } else { "done" };
    format!("{stage:<12} {mark:<10} {summary}")
}

#[derive(Default)]
struct Bar {
    bar: Mutex<Option<ProgressBar>>,
}

impl Bar {
    fn with(&self, f: impl FnOnce(&mut Option<ProgressBar>)) {
        f(&mut self.bar.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Progress for Bar {
    fn begin(&self, what: &str, total: u64) {
        let style = ProgressStyle::with_template("{prefix:<12} [{bar:30}] {pos}/{len}  {elapsed} (left {eta})  {msg}");
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        self.with(|slot| *slot = Some(bar));
    }
    fn advance(&self, steps: u64, note: &str) {
        self.with(|slot| {
            if let Some(bar) = slot {
                bar.inc(steps);
                bar.set_message(note.to_owned());
            }
        });
    }
    fn end(&self) {
        self.with(|slot| {
            if let Some(bar) = slot.take() {
                bar.finish_and_clear();
            }
        });
    }
}

impl Console for Bar {
    fn started(&self, stage: Stage, what: &str) {
        line(&format!("{stage:<12} {what}"));
    }
    fn finished(&self, stage: Stage, summary: &str, skipped: bool) {
        self.end();
        line(&stage_line(stage, summary, skipped));
    }
}

#[derive(Default)]
struct Work {
    what: String,
    total: u64,
    done: u64,
    start: Option<Instant>,
    shown: Option<Instant>,
}

impl Work {
    /// Time left at the pace so far.
    fn left(&self) -> Option<Duration> {
        let elapsed = self.start?.elapsed();
        let rest = self.total.saturating_sub(self.done);
        (self.done > 0).then(|| elapsed.mul_f64(rest as f64 / self.done as f64))
    }
}

struct Lines {
    json: bool,
    work: Mutex<Work>,
}

impl Lines {
    fn show(&self, work: &Work, note: &str) {
        let left = work.left().map(|left| left.as_secs());
        if self.json {
            let event = json!({"event": "progress", "work": work.what, "done": work.done, "total": work.total,
                "seconds_left": left, "note": note});
            return line(&event.to_string());
        }
        let left = left.map(|left| format!(", about {left} s left")).unwrap_or_default();
        let note = if note.is_empty() { String::new() } else { format!(", {note}") };
        line(&format!("{:<12} {}/{}{left}{note}", work.what, work.done, work.total));
    }
}

impl Progress for Lines {
    fn begin(&self, what: &str, total: u64) {
        let now = Some(Instant::now());
        let work = Work { what: what.to_owned(), total, done: 0, start: now, shown: now };
        *self.work.lock().unwrap_or_else(PoisonError::into_inner) = work;
    }
    fn advance(&self, steps: u64, note: &str) {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        work.done += steps;
        if work.shown.is_some_and(|shown| shown.elapsed() >= PAUSE) {
            work.shown = Some(Instant::now());
            self.show(&work, note);
        }
    }
    fn end(&self) {}
}

impl Console for Lines {
    fn started(&self, stage: Stage, what: &str) {
        if self.json {
            return line(&json!({"event": "started", "stage": stage, "what": what}).to_string());
        }
        line(&format!("{stage:<12} {what}"));
    }
    fn finished(&self, stage: Stage, summary: &str, skipped: bool) {
        if self.json {
            let event = json!({"event": "finished", "stage": stage, "summary": summary, "skipped": skipped});
            return line(&event.to_string());
        }
        line(&stage_line(stage, summary, skipped));
    }
}
