//! Checkpoints of a training: weights, the optimizer's state, voters, and where data and loss stand.
//!
//! Each is a folder `step-00000100` that appears whole or not at all. Random numbers are addressed by step, so there is no
//! generator to keep; a training that goes on from a checkpoint comes to the same bits as one that never stopped.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, View};
use serde::{Deserialize, Serialize};
use taper_base::files::{self, PendingDir};
use taper_data::Cursor;
use taper_kernels::cpu;

use crate::error::{HealError, Result, file};
use crate::trained::{Trained, Weight};

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
        let values: std::result::Result<Vec<_>, _> =
            trained.weights().iter().map(|weight| cpu::Values::of("checkpoint", &weight.values)).collect();
        let values = values?;
        let names = || trained.weights().iter().map(|weight| weight.name.clone());
        write(
            &pending.path().join("weights.safetensors"),
            names().zip(values.iter().map(|values| Numbers::new(values))),
        )?;
        let buffers = trained.weights().iter().flat_map(|weight| {
            weight.state.iter().enumerate().map(|(number, values)| (buffer(&weight.name, number), Numbers::new(values)))
        });
        write(&pending.path().join("optimizer.safetensors"), buffers)?;
        for (index, voter) in voters.iter().enumerate() {
            let path = pending.path().join(format!("voter-{index}.safetensors"));
            write(&path, names().zip(voter.iter().map(|values| Numbers::new(values))))?;
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
        self.read(step, trained, true)?;
        let mut voters = Vec::new();
        for index in 0..state.voters.len() {
            let mut opened = Tensors::open(folder.join(format!("voter-{index}.safetensors")))?;
            let one = |weight: &Weight| {
                let mut values = vec![0.0; weight.values.elem_count()];
                opened.fill(&weight.name, &mut values).map(|()| values)
            };
            voters.push(trained.weights().iter().map(one).collect::<Result<_>>()?);
        }
        Ok(Loaded { state, voters })
    }

    /// Puts the weights of step `step` into `trained`, with the optimizer's state if that is wanted.
    pub(crate) fn read(&self, step: u64, trained: &mut Trained, state: bool) -> Result<()> {
        let folder = self.folder(step);
        let mut weights = Tensors::open(folder.join("weights.safetensors"))?;
        let mut optimizer = Tensors::open(folder.join("optimizer.safetensors"))?;
        trained.restore(state, &mut |name, number, to| match number {
            None => weights.fill(name, to),
            Some(number) => optimizer.fill(&buffer(name, number), to),
        })
    }
}

/// Name of the optimizer's buffer `number` of a weight.
fn buffer(weight: &str, number: usize) -> String {
    format!("{weight}.{number}")
}

/// Numbers as they are written; nothing is copied. Little-endian, as all machines that candle runs on.
struct Numbers<'a> {
    values: &'a [f32],
    shape: [usize; 1],
}

impl<'a> Numbers<'a> {
    fn new(values: &'a [f32]) -> Self {
        Self { values, shape: [values.len()] }
    }
}

impl View for Numbers<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(bytemuck::cast_slice(self.values))
    }

    fn data_len(&self) -> usize {
        4 * self.values.len()
    }
}

fn write<'a>(path: &Path, tensors: impl Iterator<Item = (String, Numbers<'a>)>) -> Result<()> {
    safetensors::serialize_to_file(tensors, None, path)
        .map_err(|cause| HealError::Damaged { path: path.to_owned(), reason: cause.to_string() })
}

/// A file of tensors, read one by one into memory that is there already.
struct Tensors {
    path: PathBuf,
    file: File,
    places: BTreeMap<String, [u64; 2]>,
}

#[derive(Deserialize)]
struct Entry {
    data_offsets: [u64; 2],
}

impl Tensors {
    fn open(path: PathBuf) -> Result<Self> {
        let damaged = |reason: String| HealError::Damaged { path: path.clone(), reason };
        let mut opened = File::open(&path).map_err(file(&path))?;
        let size = opened.metadata().map_err(file(&path))?.len();
        let mut length = [0; 8];
        opened.read_exact(&mut length).map_err(file(&path))?;
        let length = u64::from_le_bytes(length);
        if length > size.saturating_sub(8) {
            return Err(damaged(format!("a header of {length} bytes in a file of {size}")));
        }
        let mut header = vec![0; length as usize];
        opened.read_exact(&mut header).map_err(file(&path))?;
        let entries: BTreeMap<String, Entry> =
            serde_json::from_slice(&header).map_err(|cause| damaged(cause.to_string()))?;
        let place = |entry: &Entry| entry.data_offsets.map(|offset| (8 + length).saturating_add(offset));
        let places = entries.iter().map(|(name, entry)| (name.clone(), place(entry))).collect();
        Ok(Self { path, file: opened, places })
    }

    /// The numbers of the tensor `name`, as many as `to` has.
    fn fill(&mut self, name: &str, to: &mut [f32]) -> Result<()> {
        let damaged = |reason: String| HealError::Damaged { path: self.path.clone(), reason };
        let [start, end] = *self.places.get(name).ok_or_else(|| damaged(format!("`{name}` is missing")))?;
        if end.saturating_sub(start) != 4 * to.len() as u64 {
            let found = end.saturating_sub(start) / 4;
            return Err(damaged(format!("`{name}` has {found} values, wanted {}", to.len())));
        }
        let read = self.file.seek(SeekFrom::Start(start));
        let read = read.and_then(|_| self.file.read_exact(bytemuck::cast_slice_mut(to)));
        read.map_err(|cause| damaged(format!("`{name}`: {cause}")))
    }
}
