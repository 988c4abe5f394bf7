//! What a training says of itself: a line of JSON a step, and TensorBoard's event files.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;
use serde::{Deserialize, Serialize};
use taper_base::files;

use crate::error::{HealError, Result, file};

/// One step, or one look at the validation text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// `local` or `global`.
    pub phase: String,
    /// Steps done.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Weighted sum of the objectives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Each objective, before its weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objectives: Vec<(String, f64)>,
    /// Norm of the gradient before it is clipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<f64>,
    /// The learning rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Loss of the next token on the validation text, in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<f64>,
    /// Seconds since the training, or its last resumption, began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// Where metrics go.
pub(crate) struct Metrics {
    path: PathBuf,
    events: PathBuf,
    phase: &'static str,
}

impl Metrics {
    /// In the folder `dir`; what is there of steps of `phase` after `step` is forgotten.
    pub(crate) fn open(dir: &Path, phase: &'static str, step: u64) -> Result<Self> {
        let path = dir.join("metrics.jsonl");
        let mut kept = String::new();
        for metric in read(&path)? {
            if metric.phase != phase || metric.step <= step {
                kept.push_str(&line(&metric, &path)?);
            }
        }
        files::write(&path, kept.as_bytes()).map_err(file(&path))?;
        let events = dir.join(format!("events.out.tfevents.{phase}-{step:08}.taper"));
        let metrics = Self { path, events, phase };
        let start = Event { wall_time: now(), file_version: Some("brain.Event:2".to_owned()), ..Event::default() };
        files::write(&metrics.events, &record(&start)).map_err(file(&metrics.events))?;
        Ok(metrics)
    }

    pub(crate) fn put(&self, metric: Metric) -> Result<()> {
        let metric = Metric { phase: self.phase.to_owned(), ..metric };
        append(&self.path, line(&metric, &self.path)?.as_bytes())?;
        let named =
            [("loss", metric.loss), ("norm", metric.norm), ("rate", metric.rate), ("validation", metric.validation)];
        let named = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let objectives = metric.objectives.iter().map(|(name, value)| (format!("objective/{name}"), *value));
        let value = |(name, value): (String, f64)| Value {
            tag: format!("{}/{name}", self.phase),
            simple_value: Some(value as f32),
        };
        let summary = Some(Summary { value: named.chain(objectives).map(value).collect() });
        let event = Event { wall_time: now(), step: metric.step as i64, file_version: None, summary };
        append(&self.events, &record(&event))
    }
}

fn line(metric: &Metric, path: &Path) -> Result<String> {
    let text = serde_json::to_string(metric)
        .map_err(|cause| HealError::File { path: path.to_owned(), cause: cause.into() })?;
    Ok(text + "\n")
}

/// All metrics of a file; none if there is no file. A last line that a kill cut short is passed over.
///
/// # Errors
/// [`HealError::File`] if it cannot be read.
pub fn read(path: &Path) -> Result<Vec<Metric>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(cause) => Err(HealError::File { path: path.to_owned(), cause }),
    }
}

fn append(path: &Path, bytes: &[u8]) -> Result<()> {
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.and_then(|mut opened| opened.write_all(bytes)).map_err(file(path))
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// `tensorflow.Event`, as far as it is used.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

/// `tensorflow.Summary.Value` of a scalar.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// A `TFRecord`: length, its masked checksum, the bytes, theirs.
fn record(event: &Event) -> Vec<u8> {
    let (bytes, masked) =
        (event.encode_to_vec(), |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8));
    let length = (bytes.len() as u64).to_le_bytes();
    [&length[..], &masked(&length).to_le_bytes(), &bytes, &masked(&bytes).to_le_bytes()].concat()
}
