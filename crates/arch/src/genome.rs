//! The genome: what is kept of each sub-block. Small, ordered, hashable; everything else exchanges it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use taper_base::Fingerprint;

use crate::{ArchError, AttentionSpec, BlockSpec, MlpSpec, ModelSpec};

/// How a block mixes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttentionKind {
    /// Softmax over all tokens before, or over the model's own window.
    #[default]
    Softmax,
}

/// What is kept of one attention.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionGenes {
    /// How tokens are mixed.
    #[serde(default)]
    pub kind: AttentionKind,
    /// Query heads kept in each kept KV group.
    pub heads_per_group: usize,
    /// KV groups kept.
    pub groups: usize,
    /// Bits per weight; `None` as stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<u8>,
}

impl AttentionGenes {
    /// Query heads kept in all.
    pub fn heads(&self) -> usize {
        self.heads_per_group * self.groups
    }
}

/// What is kept of one MLP.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpGenes {
    /// Intermediate channels kept.
    pub channels: usize,
    /// Bits per weight; `None` as stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<u8>,
}

/// What is kept of one block; `None` is removed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockGenes {
    /// Attention.
    pub attention: Option<AttentionGenes>,
    /// MLP.
    pub mlp: Option<MlpGenes>,
}

/// What a model becomes. The canonical form is this struct's JSON; [`Architecture::fingerprint`] is that form's hash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Bits per weight of the embedding; `None` as stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_bits: Option<u8>,
    /// Bits per weight of an untied head; `None` as stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_bits: Option<u8>,
    /// One entry a block of the model it was made from, first to last.
    pub blocks: Vec<BlockGenes>,
}

impl Architecture {
    /// The whole of `spec`: nothing removed.
    pub fn whole(spec: &ModelSpec) -> Self {
        let block = |block: &BlockSpec| BlockGenes {
            attention: block.attention.map(|a| AttentionGenes {
                kind: AttentionKind::Softmax,
                heads_per_group: a.heads_per_group(),
                groups: a.n_kv_heads,
                bits: None,
            }),
            mlp: block.mlp.map(|m| MlpGenes { channels: m.d_ff, bits: None }),
        };
        Self { embedding_bits: None, head_bits: None, blocks: spec.blocks.iter().map(block).collect() }
    }

    /// The hash of the canonical form: equal for equal architectures only.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_bytes(self.to_string().as_bytes()) // the text form is injective, see its tests
    }

    /// What `spec` is after the cut.
    ///
    /// # Errors
    /// [`ArchError::Mismatch`] naming the first block that keeps more than there is, or nothing of what it keeps.
    pub fn apply(&self, spec: &ModelSpec) -> Result<ModelSpec, ArchError> {
        if self.blocks.len() != spec.blocks.len() {
            let reason = format!("architecture has {} blocks, the model {}", self.blocks.len(), spec.blocks.len());
            return Err(ArchError::Mismatch { place: "blocks".to_owned(), reason });
        }
        let pairs = self.blocks.iter().zip(&spec.blocks).enumerate();
        let blocks = pairs.map(|(index, (genes, block))| {
            Ok(BlockSpec {
                attention: genes.attention.as_ref().map(|a| apply_attention(index, a, block.attention)).transpose()?,
                mlp: genes.mlp.as_ref().map(|m| apply_mlp(index, m, block.mlp)).transpose()?,
            })
        });
        Ok(ModelSpec { blocks: blocks.collect::<Result<_, _>>()?, ..spec.clone() })
    }

    /// Numbers for surrogates: per block the kept ratios of heads per group, groups and channels (0 if removed).
    ///
    /// # Shapes
    /// `[3 * blocks]`, each in 0 to 1.
    pub fn features(&self, spec: &ModelSpec) -> Vec<f64> {
        let ratio = |kept: usize, of: usize| if of == 0 { 0.0 } else { kept as f64 / of as f64 };
        let block = |(genes, block): (&BlockGenes, &BlockSpec)| {
            let heads = genes.attention.as_ref().zip(block.attention);
            [
                heads.map_or(0.0, |(g, a)| ratio(g.heads_per_group, a.heads_per_group())),
                heads.map_or(0.0, |(g, a)| ratio(g.groups, a.n_kv_heads)),
                genes.mlp.as_ref().zip(block.mlp).map_or(0.0, |(g, m)| ratio(g.channels, m.d_ff)),
            ]
        };
        self.blocks.iter().zip(&spec.blocks).flat_map(block).collect()
    }

    /// Where `self` and `other` differ, one line a sub-block, in block order.
    pub fn diff(&self, other: &Self) -> Vec<String> {
        let longest = self.blocks.len().max(other.blocks.len());
        let show = |arch: &Self, index: usize| arch.blocks.get(index).map_or("absent".to_owned(), ToString::to_string);
        let lines = (0..longest).filter_map(|index| {
            let (ours, theirs) = (show(self, index), show(other, index));
            (ours != theirs).then(|| format!("block {index}: {ours} → {theirs}"))
        });
        lines.collect()
    }
}

fn apply_attention(
    index: usize,
    genes: &AttentionGenes,
    spec: Option<AttentionSpec>,
) -> Result<AttentionSpec, ArchError> {
    let refuse = |reason: String| ArchError::Mismatch { place: format!("block {index}, attention"), reason };
    let spec = spec.ok_or_else(|| refuse("kept, but the model has none there".to_owned()))?;
    for (what, kept, of) in [
        ("query heads per KV group", genes.heads_per_group, spec.heads_per_group()),
        ("KV groups", genes.groups, spec.n_kv_heads),
    ] {
        if !(1..=of).contains(&kept) {
            return Err(refuse(format!("keeps {kept} {what}, wanted 1 to {of}")));
        }
    }
    Ok(AttentionSpec { n_heads: genes.heads(), n_kv_heads: genes.groups, ..spec })
}

fn apply_mlp(index: usize, genes: &MlpGenes, spec: Option<MlpSpec>) -> Result<MlpSpec, ArchError> {
    let refuse = |reason: String| ArchError::Mismatch { place: format!("block {index}, mlp"), reason };
    let spec = spec.ok_or_else(|| refuse("kept, but the model has none there".to_owned()))?;
    if !(1..=spec.d_ff).contains(&genes.channels) {
        return Err(refuse(format!("keeps {} channels, wanted 1 to {}", genes.channels, spec.d_ff)));
    }
    Ok(MlpSpec { d_ff: genes.channels })
}

fn write_bits(f: &mut fmt::Formatter<'_>, bits: Option<u8>) -> fmt::Result {
    bits.map_or(Ok(()), |bits| write!(f, "@{bits}"))
}

/// `2x4/512`: 2 query heads in each of 4 KV groups, 512 channels; `-` is removed, `@4` are bits.
impl fmt::Display for BlockGenes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.attention {
            Some(a) => {
                write!(f, "{}x{}", a.heads_per_group, a.groups)?;
                write_bits(f, a.bits)?;
            }
            None => f.write_str("-")?,
        }
        f.write_str("/")?;
        match &self.mlp {
            Some(m) => {
                write!(f, "{}", m.channels)?;
                write_bits(f, m.bits)
            }
            None => f.write_str("-"),
        }
    }
}

/// Blocks separated by spaces, then ` e@8` and ` h@8` where embedding or head have bits of their own.
impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, block) in self.blocks.iter().enumerate() {
            write!(f, "{}{block}", if index == 0 { "" } else { " " })?;
        }
        for (name, bits) in [("e", self.embedding_bits), ("h", self.head_bits)] {
            if let Some(bits) = bits {
                write!(f, " {name}@{bits}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Architecture {
    type Err = ArchError;

    fn from_str(text: &str) -> Result<Self, ArchError> {
        let refuse = |reason: String| ArchError::Text { text: text.to_owned(), what: "an architecture", reason };
        let mut arch = Self { embedding_bits: None, head_bits: None, blocks: Vec::new() };
        for word in text.split_whitespace() {
            if let Some(bits) = word.strip_prefix("e@") {
                arch.embedding_bits = Some(number(bits).map_err(refuse)?);
            } else if let Some(bits) = word.strip_prefix("h@") {
                arch.head_bits = Some(number(bits).map_err(refuse)?);
            } else {
                arch.blocks.push(parse_block(word).map_err(refuse)?);
            }
        }
        Ok(arch)
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().ok().ok_or_else(|| format!("`{text}` is no number that fits"))
}

fn parse_block(word: &str) -> Result<BlockGenes, String> {
    let (attention, mlp) = word.split_once('/').ok_or_else(|| format!("`{word}` has no `/`"))?;
    let bits = |text: &str| -> Result<(String, Option<u8>), String> {
        match text.split_once('@') {
            Some((genes, bits)) => Ok((genes.to_owned(), Some(number(bits)?))),
            None => Ok((text.to_owned(), None)),
        }
    };
    let attention = (attention != "-").then(|| {
        let (genes, bits) = bits(attention)?;
        let (heads, groups) = genes.split_once('x').ok_or_else(|| format!("`{genes}` has no `x`"))?;
        let kind = AttentionKind::Softmax;
        Ok::<_, String>(AttentionGenes { kind, heads_per_group: number(heads)?, groups: number(groups)?, bits })
    });
    let mlp = (mlp != "-").then(|| {
        let (genes, bits) = bits(mlp)?;
        Ok::<_, String>(MlpGenes { channels: number(&genes)?, bits })
    });
    Ok(BlockGenes { attention: attention.transpose()?, mlp: mlp.transpose()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::example;

    #[test]
    fn text_and_json_forms_come_back() {
        for text in ["2x2/64 1x2/32 -/-", "2x1@4/64 -/33@8 1x1/- e@8 h@6"] {
            let arch: Architecture = text.parse().unwrap();
            assert_eq!(arch.to_string(), text);
            let json = serde_json::to_string(&arch).unwrap();
            assert_eq!(serde_json::from_str::<Architecture>(&json).unwrap(), arch);
        }
        assert_eq!(Architecture::whole(&example()).to_string(), "2x2/64 2x2/64 2x2/64");
    }

    #[test]
    fn what_is_no_architecture_is_refused_with_the_word() {
        let refusal = |text: &str| text.parse::<Architecture>().unwrap_err().to_string();
        assert_eq!(refusal("2x2"), "`2x2` is not an architecture: `2x2` has no `/`");
        assert_eq!(refusal("2/64"), "`2/64` is not an architecture: `2` has no `x`");
        assert_eq!(refusal("2x2/6f"), "`2x2/6f` is not an architecture: `6f` is no number that fits");
    }

    #[test]
    fn apply_refuses_what_the_model_lacks() {
        let apply = |text: &str| text.parse::<Architecture>().unwrap().apply(&example());
        let spec = apply("1x2/32 -/- 2x1/-").unwrap();
        assert_eq!(spec.blocks[0].attention.unwrap(), AttentionSpec { n_heads: 2, n_kv_heads: 2, window: None });
        assert_eq!(spec.blocks[1], BlockSpec { attention: None, mlp: None });
        let refusal = |text: &str| apply(text).unwrap_err().to_string();
        assert_eq!(refusal("1x2/32"), "blocks: architecture has 1 blocks, the model 3");
        assert_eq!(refusal("3x2/1 -/- -/-"), "block 0, attention: keeps 3 query heads per KV group, wanted 1 to 2");
        assert_eq!(refusal("-/- 1x1/65 -/-"), "block 1, mlp: keeps 65 channels, wanted 1 to 64");
    }

    #[test]
    fn features_are_kept_ratios_and_diff_names_blocks() {
        let arch: Architecture = "1x2/32 -/64 2x1/-".parse().unwrap();
        assert_eq!(arch.features(&example()), [0.5, 1.0, 0.5, 0.0, 0.0, 1.0, 1.0, 0.5, 0.0]);
        assert_eq!(arch.diff(&"1x2/32 -/- 2x1/-".parse().unwrap()), ["block 1: -/64 → -/-"]);
        assert_ne!(arch.fingerprint(), Architecture::whole(&example()).fingerprint());
    }
}
