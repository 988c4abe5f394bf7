//! Other names for the tensors of models of images: timm's, and those of transformers' own modules since version 5.
//!
//! Where q, k and v are one tensor, its thirds are theirs.

use safetensors::tensor::TensorInfo;
use taper_arch::{ModelSpec, Pool};

/// timm's names of tensors outside of blocks, without `.weight` or `.bias`, and transformers'.
const OUTSIDE: [(&str, &str); 5] = [
    ("cls_token", "embeddings.cls_token"),
    ("dist_token", "embeddings.distillation_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
    ("norm", "layernorm"),
];

/// Names of parts of a block, timm's and those of transformers' modules, and those of its checkpoints.
const INSIDE: [(&str, &str); 10] = [
    ("norm1", "layernorm_before"),
    ("norm2", "layernorm_after"),
    ("attn.proj", "attention.output.dense"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
    ("attention.q_proj", "attention.attention.query"),
    ("attention.k_proj", "attention.attention.key"),
    ("attention.v_proj", "attention.attention.value"),
    ("attention.o_proj", "attention.output.dense"),
    ("attn.qkv", ""),
];

/// `entries` under the names that transformers' checkpoints of `spec`'s family have; language models' are left alone.
pub(crate) fn classic(spec: &ModelSpec, entries: Vec<(String, TensorInfo)>) -> Vec<(String, TensorInfo)> {
    let Some(image) = spec.image else { return entries };
    let mut all = Vec::with_capacity(entries.len());
    for (name, info) in entries {
        if let Some((block, kind)) = fused(&name) {
            let third = |part: usize| third(&info, part).map(|third| (part, third));
            for (part, info) in (0..3).filter_map(third) {
                let which = ["query", "key", "value"][part];
                let family = spec.family.name();
                all.push((format!("{family}.encoder.layer.{block}.attention.attention.{which}.{kind}"), info));
            }
        } else {
            all.push((renamed(spec, image.pool, name), info));
        }
    }
    all
}

/// Block and kind of timm's fused q, k and v.
fn fused(name: &str) -> Option<(usize, &str)> {
    let (block, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
    Some((block.parse().ok()?, rest.strip_prefix("attn.qkv.")?))
}

/// A third of the rows.
fn third(info: &TensorInfo, part: usize) -> Option<TensorInfo> {
    let (rows, rest) = info.shape.split_first()?;
    let (from, to) = info.data_offsets;
    let bytes = (to - from) / 3;
    let shape = [rows / 3].iter().chain(rest).copied().collect();
    let whole = rows.is_multiple_of(3); // else the shapes will be found wrong
    let data_offsets = if whole { (from + part * bytes, from + (part + 1) * bytes) } else { (from, to) };
    Some(TensorInfo { dtype: info.dtype, shape, data_offsets })
}

fn renamed(spec: &ModelSpec, pool: Pool, name: String) -> String {
    let family = spec.family.name();
    let dinov2 = family == "dinov2";
    let head = if pool == Pool::EachPrefix { "cls_classifier" } else { "classifier" };
    for (timm, classic) in [("head_dist.", "distillation_classifier."), ("head.", &format!("{head}."))] {
        if let Some(kind) = name.strip_prefix(timm) {
            return format!("{classic}{kind}");
        }
    }
    for (timm, classic) in OUTSIDE {
        if let Some(kind) = name.strip_prefix(timm).filter(|kind| kind.is_empty() || kind.starts_with('.')) {
            return format!("{family}.{classic}{kind}");
        }
    }
    let starts = ["blocks.".to_owned(), format!("{family}.layers."), format!("{family}.encoder.layer.")];
    let Some(rest) = starts.iter().find_map(|start| name.strip_prefix(start)) else { return name };
    let Some((block, rest)) = rest.split_once('.') else { return name };
    let own = |new: &str| {
        !(dinov2 && (new.starts_with("layernorm") || new.ends_with("dense") && !new.starts_with("attention")))
    };
    let inside = INSIDE.iter().filter(|(_, classic)| own(classic));
    let new = inside.into_iter().find_map(|(other, classic)| {
        let kind = rest.strip_prefix(other).filter(|kind| kind.starts_with('.'))?;
        Some(format!("{classic}{kind}"))
    });
    let rest = new.unwrap_or_else(|| rest.to_owned());
    format!("{family}.encoder.layer.{block}.{rest}")
}
