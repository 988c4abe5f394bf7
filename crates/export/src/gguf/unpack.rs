//! Back from GGUF: a file that taper wrote becomes the checkpoint that it was written from.
//!
//! The configuration and the tokenizer's files are in it as they were, under keys that llama.cpp passes over; weights are where
//! the plan of writing says, turned back.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use safetensors::{Dtype, View};
use serde_json::Value as Json;
use taper_arch::ModelSpec;
use taper_base::files::{self, PendingDir};
use taper_model::{Checkpoint, Place};

use super::read::{Entry, Header};
use super::{Arch, Kind, Mix, Planned, Source, Value, plan};
use crate::transformers::COPIED;
use crate::{ExportError, transformers};

/// `config.json`, in the form of transformers.
const CONFIG: &str = "taper.config";
/// `tokenizer.json`, by the name that GGUF's documentation gives it.
const TOKENIZER: &str = "tokenizer.huggingface.json";
/// What the names of other files begin with.
const FILES: &str = "taper.files.";
/// Not kept: what llama.cpp's own keys say already, or `tokenizer.json`.
const LEFT: [&str; 4] = ["merges.txt", "tokenizer.json", "tokenizer.model", "vocab.json"];

/// The keys by which the file becomes a checkpoint again.
pub(super) fn keys(checkpoint: &Checkpoint) -> Result<Vec<(String, Value)>, ExportError> {
    let config = transformers::layout(checkpoint.spec(), checkpoint.config()).config; // without what is of one machine
    let mut keys = vec![(CONFIG.to_owned(), Value::Text(config.to_string()))];
    for name in COPIED {
        let path = checkpoint.dir().join(name);
        if !path.is_file() || (LEFT.contains(&name) && name != "tokenizer.json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(ExportError::file(&path))?;
        let key = if name == "tokenizer.json" { TOKENIZER.to_owned() } else { format!("{FILES}{name}") };
        keys.push((key, Value::Text(text)));
    }
    Ok(keys)
}

/// Makes the folder `dir` of the file `path`; it appears whole or not at all.
///
/// # Errors
/// [`ExportError::Gguf`] with what is wrong with the file: damaged, of another program, or of fewer bits than 16.
pub fn unpack(path: &Path, dir: &Path) -> Result<(), ExportError> {
    let refuse = |reason: String| ExportError::Gguf { path: path.to_owned(), reason };
    let file = File::open(path).map_err(ExportError::file(path))?;
    #[expect(unsafe_code, reason = "mapping a file")]
    // SAFETY: the map is only read; a file that is shortened meanwhile ends this process, as in every loader that maps.
    let map = unsafe { Mmap::map(&file) }.map_err(ExportError::file(path))?;
    let header = Header::read(&map).map_err(refuse)?;
    let config = header.text(CONFIG).ok_or_else(|| {
        refuse(format!("has no key `{CONFIG}`, so taper did not write it; take the checkpoint that it was made from"))
    })?;
    let config: Json = serde_json::from_str(config).map_err(|cause| refuse(format!("`{CONFIG}`: {cause}")))?;
    let spec = taper_model::spec_of(path, &config)?;
    let weights = weights(&spec, &header, &map).map_err(refuse)?;

    let pending = PendingDir::new(dir).map_err(ExportError::file(dir))?;
    let to = pending.path();
    for (key, text) in &header.texts {
        let name = if key == TOKENIZER { "tokenizer.json" } else { key.strip_prefix(FILES).unwrap_or_default() };
        if COPIED.contains(&name) {
            files::write(&to.join(name), text.as_bytes()).map_err(ExportError::file(&to.join(name)))?;
        }
    }
    transformers::write(to, &spec, to, &config)?;
    let out = to.join("model.safetensors");
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let written = safetensors::serialize_to_file(weights, metadata, &out).map_err(std::io::Error::other);
    written.map_err(ExportError::file(&out))?;
    File::open(&out).and_then(|file| file.sync_all()).map_err(ExportError::file(&out))?;
    Checkpoint::open(to)?;
    pending.commit().map_err(ExportError::file(dir))
}

/// A tensor of the checkpoint in the file's bytes.
struct Weights<'a> {
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: &'a [u8],
    /// Heads whose rows are pairs.
    pairs: Option<usize>,
}

impl View for Weights<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self.pairs {
            Some(heads) => Cow::Owned(halves(self.bytes, heads, self.shape[0])),
            None => Cow::Borrowed(self.bytes),
        }
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Every weight of a model of `spec`, where the plan of writing put it.
fn weights<'a>(spec: &ModelSpec, header: &Header, map: &'a [u8]) -> Result<BTreeMap<String, Weights<'a>>, String> {
    let arch = Arch::of(spec)?;
    if header.text("general.architecture") != Some(arch.name()) {
        let found = header.text("general.architecture").unwrap_or("none");
        return Err(format!("`general.architecture` is {found}, and its configuration makes it {}", arch.name()));
    }
    let mix: Mix = "f32".parse()?;
    let there: BTreeMap<&str, &Entry> = header.tensors.iter().map(|entry| (entry.name.as_str(), entry)).collect();
    let mut all = BTreeMap::new();
    for Planned { info, source } in plan(spec, arch, mix) {
        let entry = there.get(info.name.as_str()).ok_or_else(|| format!("tensor `{}` is missing", info.name))?;
        let (dtype, bytes) = found(entry, &info.shape, map)?;
        let mut put = |place: Place, shape: Vec<usize>, bytes: &'a [u8], pairs: Option<usize>| {
            all.insert(place.name(spec), Weights { shape, dtype, bytes, pairs });
        };
        match source {
            Source::One(place) => put(place, info.shape, bytes, None),
            Source::Pairs(place, heads) => put(place, info.shape, bytes, Some(heads)),
            Source::Fused(places) => {
                let Some(attention) = places[0].block.and_then(|block| spec.blocks[block].attention) else { continue };
                let row = bytes.len() / info.shape[0];
                let rows = [attention.n_heads, attention.n_kv_heads, attention.n_kv_heads].map(|n| n * spec.d_head);
                let mut from = 0;
                for (place, rows) in places.into_iter().zip(rows) {
                    put(place, vec![rows, info.shape[1]], &bytes[from * row..(from + rows) * row], None);
                    from += rows;
                }
            }
            Source::Constant(_) | Source::Given(_) => {} // made for llama.cpp
        }
    }
    Ok(all)
}

/// A tensor's bytes, if it is of this shape and of 16 bits or more.
fn found<'a>(entry: &Entry, shape: &[usize], map: &'a [u8]) -> Result<(Dtype, &'a [u8]), String> {
    let name = &entry.name;
    if entry.shape != shape {
        return Err(format!("tensor `{name}` is of shape {:?}, wanted {shape:?}", entry.shape));
    }
    let dtype = match entry.kind {
        Ok(Kind::F32) => Dtype::F32,
        Ok(Kind::F16) => Dtype::F16,
        Ok(Kind::Bf16) => Dtype::BF16,
        Ok(kind) => return Err(format!("tensor `{name}` is {}: taper reads F32, F16 and BF16", kind.name())),
        Err(number) => return Err(format!("tensor `{name}` is of kind {number}: taper reads F32, F16 and BF16")),
    };
    let size = if dtype == Dtype::F32 { 4 } else { 2 };
    let bytes = shape.iter().try_fold(size, |all: usize, one| all.checked_mul(*one));
    let end = bytes.and_then(|bytes| entry.start.checked_add(bytes));
    let taken = end.and_then(|end| map.get(entry.start..end));
    taken.map(|bytes| (dtype, bytes)).ok_or_else(|| format!("tensor `{name}` goes beyond the file's end"))
}

/// Rows of each of `heads` heads: pairs, `0 d/2 1 …`, become halves again.
fn halves(bytes: &[u8], heads: usize, rows: usize) -> Vec<u8> {
    let row = bytes.len() / rows.max(1);
    let mut out = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(bytes.len() / heads.max(1)) {
        for parity in 0..2 {
            head.chunks_exact(row).skip(parity).step_by(2).for_each(|row| out.extend_from_slice(row));
        }
    }
    out
}
