//! GGUF: one file with weights, configuration and tokenizer, for llama.cpp and what is built on it.

mod arch;
mod format;
mod quantize;
mod read;
mod tokenizer;
mod unpack;

use std::borrow::Cow;
use std::path::Path;

use taper_arch::{BlockSpec, ModelSpec};
use taper_base::files;
use taper_base::progress::Progress;
use taper_model::{Checkpoint, Parameter, Place, StoredType};

use crate::ExportError;
use arch::{EMPTY, rope_factors};
use format::{ALIGNMENT, aligned, write_header};
use quantize::{Role, encode};

pub use arch::Arch;
pub use format::{Info, Kind, Value};
pub use quantize::Mix;
pub use unpack::unpack;

/// A tensor to be written, and what it is made of.
struct Planned {
    info: Info,
    source: Source,
}

enum Source {
    /// As it is stored.
    One(Place),
    /// Rows of so many heads, from halves to pairs.
    Pairs(Place, usize),
    /// One below the other.
    Fused([Place; 3]),
    /// All the same.
    Constant(f32),
    /// These.
    Given(Vec<f32>),
}

/// Writes `checkpoint` to the file `path`, which appears whole or not at all.
///
/// # Errors
/// [`ExportError::Rule`] before anything is written if llama.cpp cannot hold the model, [`ExportError`] for its files.
pub fn write(checkpoint: &Checkpoint, mix: Mix, path: &Path, progress: &dyn Progress) -> Result<Arch, ExportError> {
    let spec = checkpoint.spec();
    let arch = Arch::of(spec).map_err(|rule| ExportError::Rule { target: "llama.cpp", rule })?;
    let planned = plan(spec, arch, mix);
    let mut keys = vec![
        ("general.architecture".to_owned(), Value::Text(arch.name().to_owned())),
        ("general.name".to_owned(), Value::Text(name(checkpoint))),
        ("general.file_type".to_owned(), Value::U32(mix.number())),
        ("general.quantization_version".to_owned(), Value::U32(2)),
    ];
    keys.extend(arch.keys(spec));
    keys.extend(tokenizer::keys(checkpoint.dir(), spec.vocab)?);
    keys.extend(unpack::keys(checkpoint)?);
    let infos: Vec<Info> = planned.iter().map(|one| one.info.clone()).collect();
    progress.begin(&format!("{} as {}", path.display(), mix.name()), infos.len() as u64);
    let mut failed = None;
    let written = files::write_with(path, |out| {
        write_header(out, &keys, &infos)?;
        for one in &planned {
            let bytes = match one.bytes(checkpoint) {
                Ok(bytes) => bytes,
                Err(cause) => {
                    failed = Some(cause);
                    return Err(std::io::Error::other("a tensor"));
                }
            };
            out.write_all(&bytes)?;
            out.write_all(&[0; ALIGNMENT as usize][..aligned(bytes.len()) - bytes.len()])?;
            progress.advance(1, &one.info.name);
        }
        Ok(())
    });
    progress.end();
    match (failed, written) {
        (Some(cause), _) => Err(cause),
        (None, written) => written.map(|()| arch).map_err(ExportError::file(path)),
    }
}

/// The folder's name.
fn name(checkpoint: &Checkpoint) -> String {
    checkpoint.dir().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

impl Planned {
    fn bytes<'a>(&self, checkpoint: &'a Checkpoint) -> Result<Cow<'a, [u8]>, ExportError> {
        if let Some(bytes) = self.as_stored(checkpoint)? {
            return Ok(bytes);
        }
        let values = match &self.source {
            Source::One(place) => checkpoint.values(*place)?,
            Source::Pairs(place, heads) => pairs(&checkpoint.values(*place)?, *heads, checkpoint.spec().d_head),
            Source::Fused(places) => {
                let all: Result<Vec<_>, _> = places.iter().map(|place| checkpoint.values(*place)).collect();
                all?.concat()
            }
            Source::Constant(value) => vec![*value; self.info.shape.iter().product()],
            Source::Given(values) => values.clone(),
        };
        let columns = self.info.shape.last().copied().unwrap_or(1);
        let (tensor, kind) = (self.info.name.clone(), self.info.kind.name());
        let encoded = encode(&values, columns, self.info.kind);
        encoded.map(Cow::Owned).map_err(|cause| ExportError::Quantize { tensor, kind, cause: Box::new(cause) })
    }

    /// The bytes of the checkpoint, if they are in the kind wanted already.
    fn as_stored<'a>(&self, checkpoint: &'a Checkpoint) -> Result<Option<Cow<'a, [u8]>>, ExportError> {
        let wanted = match self.info.kind {
            Kind::F32 => StoredType::F32,
            Kind::F16 => StoredType::F16,
            Kind::Bf16 => StoredType::BF16,
            _ => return Ok(None),
        };
        Ok(match &self.source {
            Source::One(place) => checkpoint.raw(*place, wanted)?.map(Cow::Borrowed),
            Source::Pairs(place, heads) => {
                let bytes = checkpoint.raw(*place, wanted)?;
                bytes.map(|bytes| Cow::Owned(pairs(bytes, *heads, checkpoint.spec().d_head)))
            }
            Source::Fused(_) | Source::Constant(_) | Source::Given(_) => None,
        })
    }
}

/// Rows of each of `heads` heads of `d_head`: halves, `0 1 2 … | d/2 …`, become pairs, `0 d/2 1 …`.
fn pairs<T: Copy>(values: &[T], heads: usize, d_head: usize) -> Vec<T> {
    let row = values.len() / (heads * d_head).max(1);
    let mut out = Vec::with_capacity(values.len());
    for head in values.chunks_exact(row * d_head) {
        let (first, second) = head.split_at(row * d_head / 2);
        for (a, b) in first.chunks_exact(row).zip(second.chunks_exact(row)) {
            out.extend_from_slice(a);
            out.extend_from_slice(b);
        }
    }
    out
}

/// All tensors of `spec`, in the order of the file.
fn plan(spec: &ModelSpec, arch: Arch, mix: Mix) -> Vec<Planned> {
    let mut all = Plan { spec, mix, all: Vec::new() };
    let (d, vocab) = (spec.d_model, spec.vocab);
    let embedding = if spec.tied_head { Role::Output } else { Role::Embedding };
    all.put("token_embd.weight", &[vocab, d], embedding, Source::One(Place::global(Parameter::Embedding)));
    all.put("output_norm.weight", &[d], Role::Vector, Source::One(Place::global(Parameter::FinalNorm)));
    if !spec.tied_head {
        all.put("output.weight", &[vocab, d], Role::Output, Source::One(Place::global(Parameter::Head)));
    }
    if let Some(factors) = rope_factors(spec) {
        all.put("rope_freqs.weight", &[factors.len()], Role::Vector, Source::Given(factors));
    }
    for (index, block) in spec.blocks.iter().enumerate() {
        all.attention(index, block, arch);
        all.mlp(index, block);
    }
    all.all
}

struct Plan<'a> {
    spec: &'a ModelSpec,
    mix: Mix,
    all: Vec<Planned>,
}

impl Plan<'_> {
    fn put(&mut self, name: &str, shape: &[usize], role: Role, source: Source) {
        let kind = self.mix.kind(role, shape.last().copied().unwrap_or(1), self.spec.blocks.len());
        self.all.push(Planned { info: Info { name: name.to_owned(), shape: shape.to_vec(), kind }, source });
    }

    fn attention(&mut self, index: usize, block: &BlockSpec, arch: Arch) {
        use Parameter as P;
        let (Some(a), spec) = (block.attention, self.spec) else { return };
        let (d, d_head) = (spec.d_model, spec.d_head);
        let (q, kv) = (a.n_heads * d_head, a.n_kv_heads * d_head);
        let name = |name: &str| format!("blk.{index}.{name}");
        let place = |parameter| Place::of(index, parameter);
        let turned = |parameter, heads| match arch.pairs() {
            true => Source::Pairs(place(parameter), heads),
            false => Source::One(place(parameter)),
        };
        self.put(&name("attn_norm.weight"), &[d], Role::Vector, Source::One(place(P::AttentionNorm)));
        if arch == Arch::OpenElm {
            let fused = Source::Fused([place(P::Q), place(P::K), place(P::V)]);
            self.put(&name("attn_qkv.weight"), &[q + 2 * kv, d], Role::Fused, fused);
        } else {
            self.put(&name("attn_q.weight"), &[q, d], Role::Matrix, turned(P::Q, a.n_heads));
            self.put(&name("attn_k.weight"), &[kv, d], Role::Matrix, turned(P::K, a.n_kv_heads));
            self.put(&name("attn_v.weight"), &[kv, d], Role::Values(index), Source::One(place(P::V)));
        }
        self.put(&name("attn_output.weight"), &[d, q], Role::Matrix, Source::One(place(P::O)));
        if spec.qkv_bias {
            self.put(&name("attn_q.bias"), &[q], Role::Vector, turned(P::QBias, a.n_heads));
            self.put(&name("attn_k.bias"), &[kv], Role::Vector, turned(P::KBias, a.n_kv_heads));
            self.put(&name("attn_v.bias"), &[kv], Role::Vector, Source::One(place(P::VBias)));
        }
        if spec.o_bias {
            self.put(&name("attn_output.bias"), &[d], Role::Vector, Source::One(place(P::OBias)));
        }
        if spec.qk_norm {
            self.put(&name("attn_q_norm.weight"), &[d_head], Role::Vector, Source::One(place(P::QNorm)));
            self.put(&name("attn_k_norm.weight"), &[d_head], Role::Vector, Source::One(place(P::KNorm)));
        }
    }

    fn mlp(&mut self, index: usize, block: &BlockSpec) {
        use Parameter as P;
        let d = self.spec.d_model;
        let d_ff = block.mlp.map_or(EMPTY, |m| m.d_ff);
        let name = |name: &str| format!("blk.{index}.{name}");
        let source = |parameter, empty| match block.mlp {
            Some(_) => Source::One(Place::of(index, parameter)),
            None => Source::Constant(empty),
        };
        self.put(&name("ffn_norm.weight"), &[d], Role::Vector, source(P::MlpNorm, 1.0));
        self.put(&name("ffn_gate.weight"), &[d_ff, d], Role::Matrix, source(P::Gate, 0.0));
        self.put(&name("ffn_up.weight"), &[d_ff, d], Role::Matrix, source(P::Up, 0.0));
        self.put(&name("ffn_down.weight"), &[d, d_ff], Role::Down(index), source(P::Down, 0.0));
        if self.spec.mlp_bias && block.mlp.is_some() {
            for (own, parameter, size) in [
                ("ffn_gate.bias", P::GateBias, d_ff),
                ("ffn_up.bias", P::UpBias, d_ff),
                ("ffn_down.bias", P::DownBias, d),
            ] {
                self.put(&name(own), &[size], Role::Vector, Source::One(Place::of(index, parameter)));
            }
        }
    }
}

#[cfg(test)]
mod tests;
