//! Checkpoints of a training: weights, the optimizer's state, voters, and where data and loss stand.
//!
//! Each is a folder `step-00000100` that appears whole or not at all. Random numbers are addressed by step, so there is no
//! generator to keep; a training that goes on from a checkpoint comes to the same bits as one that never stopped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use taper_base::files::{self, PendingDir};
use taper_data::Cursor;

use crate::error::{HealError, Result, file};
use crate::trained::Trained;

/// Where a training stands, beside its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Steps done.
    pub(crate) step: u64,
    /// Tokens seen.
    pub(crate) tokens: u64,
    /// Loss of the first step.
    pub(crate) first: f64,
    /// Steps in a row with a loss far above that.
    pub(crate) high: u64,
    /// The step with the smallest loss of the validation text so far, 0 for before the first, and that loss.
    pub(crate) best: (u64, f64),
    /// Where the texts stand.
    pub(crate) cursors: Vec<Cursor>,
    /// Steps after which voters were taken, oldest first.
    pub(crate) voters: Vec<u64>,
}

/// The folder of checkpoints of a training.
pub(crate) struct Checkpoints {
    dir: PathBuf,
    keep: usize,
}

/// Numbers of all weights: one list a weight.
pub(crate) type Values = Vec<Vec<f32>>;

/// What a checkpoint held.
pub(crate) struct Loaded {
    pub(crate) state: State,
    pub(crate) voters: Vec<Values>,
}

impl Checkpoints {
    /// In the folder `dir`, of which the newest `keep` stay, and the best.
    pub(crate) fn new(dir: PathBuf, keep: usize) -> Result<Self> {
        std::fs::create_dir_all(&dir).map_err(file(&dir))?;
        files::sweep(&dir).map_err(file(&dir))?;
        Ok(Self { dir, keep: keep.max(1) })
    }

    pub(crate) fn folder(&self, step: u64) -> PathBuf {
        self.dir.join(format!("step-{step:08}"))
    }

    /// Steps of the checkpoints there are, ascending.
    pub(crate) fn steps(&self) -> Result<Vec<u64>> {
        let mut steps = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(file(&self.dir))? {
            let name = entry.map_err(file(&self.dir))?.file_name().to_string_lossy().into_owned();
            steps.extend(name.strip_prefix("step-").and_then(|step| step.parse::<u64>().ok()));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Writes one, and removes those that are no longer kept.
    pub(crate) fn save(&self, trained: &Trained, state: &State, voters: &[Values]) -> Result<()> {
        let folder = self.folder(state.step);
        let pending = PendingDir::new(&folder).map_err(file(&folder))?;
        let names: Vec<&str> = trained.weights().iter().map(|weight| &weight.name[..]).collect();
        let values = trained.snapshot()?;
        write(
            &pending.path().join("weights.safetensors"),
            names.iter().zip(&values).map(|(n, v)| ((*n).to_owned(), v)),
        )?;
        let buffers = names.iter().zip(trained.state()).flat_map(|(name, state)| {
            state.iter().enumerate().map(move |(buffer, values)| (format!("{name}.{buffer}"), values))
        });
        write(&pending.path().join("optimizer.safetensors"), buffers)?;
        for (index, voter) in voters.iter().enumerate() {
            let path = pending.path().join(format!("voter-{index}.safetensors"));
            write(&path, names.iter().zip(voter).map(|(n, v)| ((*n).to_owned(), v)))?;
        }
        let path = pending.path().join("state.json");
        files::write_json(&path, state).map_err(file(&path))?;
        pending.commit().map_err(file(&folder))?;
        self.prune(state)
    }

    fn prune(&self, state: &State) -> Result<()> {
        let steps: Vec<u64> = self.steps()?.into_iter().filter(|step| *step <= state.step).collect();
        let old = steps.len().saturating_sub(self.keep);
        for step in &steps[..old] {
            if state.best.0 != *step {
                let folder = self.folder(*step);
                std::fs::remove_dir_all(&folder).map_err(file(&folder))?;
            }
        }
        Ok(())
    }

    /// Puts the checkpoint of step `step` into `trained`.
    pub(crate) fn load(&self, step: u64, trained: &mut Trained) -> Result<Loaded> {
        let folder = self.folder(step);
        let path = folder.join("state.json");
        let bytes = std::fs::read(&path).map_err(file(&path))?;
        let state: State = serde_json::from_slice(&bytes)
            .map_err(|cause| HealError::Damaged { path: path.clone(), reason: cause.to_string() })?;
        let weights = folder.join("weights.safetensors");
        let sizes: Vec<(String, usize)> =
            trained.weights().iter().map(|weight| (weight.name.clone(), weight.values.elem_count())).collect();
        let values = read_all(&weights, &sizes)?;
        let path = folder.join("optimizer.safetensors");
        let mut buffers = read(&path)?;
        let mut optimizer = Vec::new();
        for ((name, size), state) in sizes.iter().zip(trained.state()) {
            let taken = (0..state.len()).map(|buffer| take(&path, &mut buffers, &format!("{name}.{buffer}"), *size));
            optimizer.push(taken.collect::<Result<Vec<_>>>()?);
        }
        let voter = |index: usize| read_all(&folder.join(format!("voter-{index}.safetensors")), &sizes);
        let voters = (0..state.voters.len()).map(voter).collect::<Result<_>>()?;
        trained.restore(&values, Some(optimizer))?;
        Ok(Loaded { state, voters })
    }

    /// Values of the weights of step `step`.
    pub(crate) fn values(&self, step: u64, trained: &Trained) -> Result<Values> {
        let sizes: Vec<(String, usize)> =
            trained.weights().iter().map(|weight| (weight.name.clone(), weight.values.elem_count())).collect();
        read_all(&self.folder(step).join("weights.safetensors"), &sizes)
    }
}

fn write<'a>(path: &Path, tensors: impl Iterator<Item = (String, &'a Vec<f32>)>) -> Result<()> {
    let mut views = Vec::new();
    let bytes: Vec<(String, Vec<u8>)> =
        tensors.map(|(name, values)| (name, values.iter().flat_map(|x| x.to_le_bytes()).collect())).collect();
    for (name, bytes) in &bytes {
        let view = TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes).map_err(damaged(path))?;
        views.push((name, view));
    }
    safetensors::serialize_to_file(views, None, path).map_err(damaged(path))
}

fn damaged(path: &Path) -> impl FnOnce(safetensors::SafeTensorError) -> HealError + use<> {
    let path = path.to_owned();
    move |cause| HealError::Damaged { path, reason: cause.to_string() }
}

fn read(path: &Path) -> Result<BTreeMap<String, Vec<f32>>> {
    let bytes = std::fs::read(path).map_err(file(path))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(damaged(path))?;
    let values = |view: TensorView<'_>| -> Vec<f32> {
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    Ok(tensors.tensors().into_iter().map(|(name, view)| (name, values(view))).collect())
}

fn read_all(path: &Path, sizes: &[(String, usize)]) -> Result<Values> {
    let mut tensors = read(path)?;
    sizes.iter().map(|(name, size)| take(path, &mut tensors, name, *size)).collect()
}

fn take(path: &Path, tensors: &mut BTreeMap<String, Vec<f32>>, name: &str, size: usize) -> Result<Vec<f32>> {
    let reason = match tensors.remove(name) {
        Some(values) if values.len() == size => return Ok(values),
        Some(values) => format!("`{name}` has {} values, wanted {size}", values.len()),
        None => format!("`{name}` is missing"),
    };
    Err(HealError::Damaged { path: path.to_owned(), reason })
}
