//! What may be changed: which units may go, in which steps and down to what.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::slots::{Size, Slot, Slots, Span};
use crate::{ArchError, Architecture, AttentionSpec, ModelSpec, SubBlock, budget::Counted};

/// Which architectures a search may make of a model. All ratios are kept ratios: 1 keeps everything.
///
/// Bits are not part of the space: those of an architecture are neither checked nor changed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SearchSpace {
    /// Whether a block's attention may be removed.
    pub drop_attention: bool,
    /// Whether the first block's attention may be removed, where those of blocks may. llama.cpp's and vLLM's classes for
    /// blocks that differ want it.
    pub drop_first_attention: bool,
    /// Whether a block's MLP may be removed.
    pub drop_mlp: bool,
    /// Whether a block's attention and MLP are removed only together. Wants `drop_attention` and `drop_mlp` alike.
    pub tied_depth: bool,
    /// Whether query heads may be pruned: within each KV group, the same number in every one of a block.
    pub heads: bool,
    /// Whether whole KV groups may be pruned (key, value and all their query heads). Left out: only where `heads` is on
    /// and every query head has its own key and value (multi-head attention); grouped models keep their KV cache layout.
    pub groups: Option<bool>,
    /// Whether MLP channels may be pruned.
    pub width: bool,
    /// Kept channels are a multiple of this, or all. 32 suits every GPU's matrix units.
    #[schemars(range(min = 1))]
    pub channels_multiple: usize,
    /// Smallest kept ratio of query heads within a KV group, and of KV groups, in (0, 1].
    pub least_heads: f64,
    /// Smallest kept ratio of MLP channels, in (0, 1].
    pub least_width: f64,
    /// Smallest kept ratio of attentions among all blocks, and of MLPs, in (0, 1]. The paper's 27 of 32 would be 0.84.
    pub least_blocks: f64,
}

impl Default for SearchSpace {
    fn default() -> Self {
        Self {
            drop_attention: true,
            drop_first_attention: true,
            drop_mlp: true,
            tied_depth: false,
            heads: true,
            groups: None,
            width: true,
            channels_multiple: 32,
            least_heads: 0.25,
            least_width: 0.1,
            least_blocks: 0.5,
        }
    }
}

impl SearchSpace {
    /// Checks every field.
    ///
    /// # Errors
    /// [`ArchError::Dimension`] naming the first one that is out of bounds.
    pub fn validate(&self) -> Result<(), ArchError> {
        let refuse = |what: &str, got: &dyn fmt::Display, want: &str| {
            Err(ArchError::Dimension { what: what.to_owned(), got: got.to_string(), want: want.to_owned() })
        };
        let ratios = [self.least_heads, self.least_width, self.least_blocks];
        for (name, ratio) in ["least_heads", "least_width", "least_blocks"].into_iter().zip(ratios) {
            if !(ratio > 0.0 && ratio <= 1.0) {
                return refuse(name, &ratio, "a kept ratio above 0 and at most 1");
            }
        }
        if self.channels_multiple == 0 {
            return refuse("channels_multiple", &0, "1 or more");
        }
        if self.tied_depth && self.drop_attention != self.drop_mlp {
            return refuse("tied_depth", &true, "`drop_attention` and `drop_mlp` alike beside it");
        }
        Ok(())
    }

    /// Query heads that a KV group of block `index` may keep, ascending; none if it has no attention.
    pub fn head_choices(&self, spec: &ModelSpec, index: usize) -> Vec<usize> {
        let attention = spec.blocks.get(index).and_then(|block| block.attention);
        attention.map_or_else(Vec::new, |a| self.attention_spans(a)[0].sizes().collect())
    }

    /// KV groups that block `index` may keep, ascending; none if it has no attention.
    pub fn group_choices(&self, spec: &ModelSpec, index: usize) -> Vec<usize> {
        let attention = spec.blocks.get(index).and_then(|block| block.attention);
        attention.map_or_else(Vec::new, |a| self.attention_spans(a)[1].sizes().collect())
    }

    /// MLP channels that block `index` may keep, ascending; none if it has no MLP.
    pub fn channel_choices(&self, spec: &ModelSpec, index: usize) -> Vec<usize> {
        let mlp = spec.blocks.get(index).and_then(|block| block.mlp);
        mlp.map_or_else(Vec::new, |m| self.channel_span(m.d_ff).sizes().collect())
    }

    /// Whether the attention of block `index` may be removed.
    pub fn may_drop_attention(&self, index: usize) -> bool {
        self.drop_attention && (index > 0 || self.drop_first_attention)
    }

    /// How many blocks of `spec` must keep `half`: `ceil(least_blocks · blocks that have it)`, all if it may not go.
    pub fn least_kept(&self, spec: &ModelSpec, half: SubBlock) -> usize {
        let blocks = spec.blocks.iter();
        let (present, droppable) = match half {
            SubBlock::Attention => (blocks.filter(|b| b.attention.is_some()).count(), self.drop_attention),
            SubBlock::Mlp => (blocks.filter(|b| b.mlp.is_some()).count(), self.drop_mlp),
        };
        if droppable { least_of(present, self.least_blocks) } else { present }
    }

    /// Heads per group and groups.
    pub(crate) fn attention_spans(&self, attention: AttentionSpec) -> [Span; 2] {
        let span = |full, free| if free { Span::new(full, self.least_heads, 1) } else { Span::fixed(full) };
        let groups = self.groups.unwrap_or(self.heads && attention.heads_per_group() == 1);
        [span(attention.heads_per_group(), self.heads), span(attention.n_kv_heads, groups)]
    }

    pub(crate) fn channel_span(&self, d_ff: usize) -> Span {
        if self.width { Span::new(d_ff, self.least_width, self.channels_multiple) } else { Span::fixed(d_ff) }
    }

    /// Whether `arch` is a legal architecture for `spec`; costs do not matter here.
    ///
    /// # Errors
    /// [`ArchError::Mismatch`] with the first block that breaks a rule, and the rule; [`ArchError::Dimension`] if this
    /// space is itself invalid.
    pub fn contains(&self, spec: &ModelSpec, arch: &Architecture) -> Result<(), ArchError> {
        arch.apply(spec)?;
        let slots = Slots::new(self, spec, Counted::Total)?;
        let sizes = slots.sizes(arch);
        for (index, (slot, size)) in slots.slots.iter().zip(&sizes).enumerate() {
            let place = || format!("block {}, {}", slot.block, slot.half);
            if let Some(reason) = fault(slot, *size) {
                return Err(ArchError::Mismatch { place: place(), reason });
            }
            if slots.partner(index).is_some_and(|other| sizes[other].is_some() != size.is_some()) {
                let reason = "removed or kept without the block's other half, and `tied_depth` is on".to_owned();
                return Err(ArchError::Mismatch { place: place(), reason });
            }
        }
        let kept = slots.kept(&sizes);
        for half in SubBlock::BOTH {
            let (kept, least) = (kept[half as usize], slots.least[half as usize]);
            if kept < least {
                let reason = format!("{kept} of them stay, and the search space wants {least} or more");
                return Err(ArchError::Mismatch { place: format!("{half} of all blocks"), reason });
            }
        }
        Ok(())
    }

    /// The architecture of this space with the fewest weights: least sizes, and the costliest halves removed.
    ///
    /// # Errors
    /// [`ArchError::Dimension`] if this space is invalid.
    pub fn smallest(&self, spec: &ModelSpec) -> Result<Architecture, ArchError> {
        let slots = Slots::new(self, spec, Counted::Total)?;
        Ok(slots.write(&slots.smallest(), &Architecture::whole(spec)))
    }

    /// The architecture of this space with the most weights: all of `spec`, which is always legal.
    pub fn largest(&self, spec: &ModelSpec) -> Architecture {
        Architecture::whole(spec)
    }
}

/// What is illegal about `size` in `slot`.
fn fault(slot: &Slot, size: Size) -> Option<String> {
    let Some(size) = size else {
        return (!slot.droppable).then(|| "removed, and the search space keeps it".to_owned());
    };
    let units = match slot.half {
        SubBlock::Attention => ["query heads per KV group", "KV groups"],
        SubBlock::Mlp => ["channels", ""],
    };
    let wrong = (0..2).find(|axis| !slot.spans[*axis].holds(size[*axis]))?;
    let Span { least, full, step } = slot.spans[wrong];
    Some(format!("keeps {} {}, wanted {least} to {full} in steps of {step}", size[wrong], units[wrong]))
}

/// `ceil(ratio · full)`, at least 1 of what there is; a product that misses a whole number by rounding counts as it.
pub(crate) fn least_of(full: usize, ratio: f64) -> usize {
    ((full as f64 * ratio - 1e-9).ceil().max(1.0) as usize).min(full)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MlpSpec;
    use crate::spec::example;

    /// As the example, but each query head has its own key and value, and 172 channels are no multiple of 32.
    fn multi_head() -> ModelSpec {
        let mut spec = example();
        for block in &mut spec.blocks {
            block.attention = Some(AttentionSpec { n_heads: 4, n_kv_heads: 4, window: None });
            block.mlp = Some(MlpSpec { d_ff: 172 });
        }
        spec
    }

    #[test]
    fn choices_are_hand_computed_ones() {
        let space = SearchSpace::default();
        assert_eq!(space.head_choices(&example(), 0), [1, 2]); // ceil(0.25 * 2) = 1
        assert_eq!(space.group_choices(&example(), 0), [2]); // grouped: the KV layout stays
        assert_eq!(space.channel_choices(&example(), 0), [32, 64]);
        assert_eq!(space.head_choices(&multi_head(), 0), [1]);
        assert_eq!(space.group_choices(&multi_head(), 0), [1, 2, 3, 4]);
        assert_eq!(space.channel_choices(&multi_head(), 0), [32, 64, 96, 128, 160, 172]); // 17.2 rounds up to 32
        assert_eq!(space.channel_choices(&multi_head(), 9), [0; 0]);
        let space = SearchSpace { groups: Some(true), width: false, ..space };
        assert_eq!(space.group_choices(&example(), 0), [1, 2]);
        assert_eq!(space.channel_choices(&multi_head(), 0), [172]);
        let space = SearchSpace { heads: false, groups: None, ..space };
        assert_eq!((space.head_choices(&example(), 0), space.group_choices(&multi_head(), 0)), (vec![2], vec![4]));
    }

    #[test]
    fn a_share_of_blocks_rounds_up_and_what_may_not_go_stays() {
        let space = SearchSpace { drop_mlp: false, ..SearchSpace::default() };
        assert_eq!(space.least_kept(&example(), SubBlock::Attention), 2); // ceil(0.5 * 3)
        assert_eq!(space.least_kept(&example(), SubBlock::Mlp), 3);
        assert_eq!(least_of(30, 0.1), 3);
        assert_eq!((least_of(4, 0.01), least_of(0, 0.5)), (1, 0));
    }

    #[test]
    fn every_rule_is_named_when_broken() {
        let refusal = |space: SearchSpace, text: &str| {
            space.contains(&example(), &text.parse().unwrap()).unwrap_err().to_string()
        };
        let space = SearchSpace::default();
        space.contains(&example(), &"1x2/32 -/64 2x2/-".parse().unwrap()).unwrap();
        space.contains(&example(), &"1x2@4/32@8 -/64 2x2/- e@8".parse().unwrap()).unwrap();
        let odd = "block 1, mlp: keeps 33 channels, wanted 32 to 64 in steps of 32";
        assert_eq!(refusal(space, "1x2/32 -/33 2x2/-"), odd);
        let groups = "block 0, attention: keeps 1 KV groups, wanted 2 to 2 in steps of 1";
        assert_eq!(refusal(space, "1x1/32 -/64 2x2/-"), groups);
        let few = "attention of all blocks: 1 of them stay, and the search space wants 2 or more";
        assert_eq!(refusal(space, "-/32 -/64 2x2/64"), few);
        let stays = SearchSpace { drop_mlp: false, ..space };
        assert_eq!(refusal(stays, "2x2/- 2x2/64 2x2/64"), "block 0, mlp: removed, and the search space keeps it");
        let first = SearchSpace { drop_first_attention: false, ..space };
        first.contains(&example(), &"2x2/64 -/64 2x2/64".parse().unwrap()).unwrap();
        assert_eq!(refusal(first, "-/64 2x2/64 2x2/64"), "block 0, attention: removed, and the search space keeps it");
        let tied = SearchSpace { tied_depth: true, ..space };
        tied.contains(&example(), &"-/- 2x2/64 2x2/64".parse().unwrap()).unwrap();
        let half = "block 2, attention: removed or kept without the block's other half, and `tied_depth` is on";
        assert_eq!(refusal(tied, "2x2/64 2x2/64 -/64"), half);
        assert!(space.contains(&example(), &"2x2/64".parse().unwrap()).is_err());
    }

    #[test]
    fn smallest_and_largest_are_legal_ends() {
        let space = SearchSpace::default();
        assert_eq!(space.largest(&example()), Architecture::whole(&example()));
        let smallest = space.smallest(&example()).unwrap();
        space.contains(&example(), &smallest).unwrap();
        let kept: Vec<_> = smallest.blocks.iter().filter_map(|b| b.attention.as_ref()).map(|a| a.heads()).collect();
        assert_eq!(kept, [2, 2]);
        assert_eq!(smallest.blocks.iter().filter_map(|b| b.mlp.as_ref()).map(|m| m.channels).sum::<usize>(), 64);
    }

    #[test]
    fn unknown_fields_and_bad_values_are_refused_by_name() {
        let parse = |text: &str| serde_json::from_str::<SearchSpace>(text);
        assert_eq!(parse("{}").unwrap(), SearchSpace::default());
        assert_eq!(parse(r#"{"groups": true}"#).unwrap().groups, Some(true));
        assert!(parse(r#"{"head": true}"#).unwrap_err().to_string().contains("unknown field `head`"));
        let refusal = |text: &str| parse(text).unwrap().validate().unwrap_err().to_string();
        let ratio = "least_heads is 0, wanted a kept ratio above 0 and at most 1";
        assert_eq!(refusal(r#"{"least_heads": 0}"#), ratio);
        assert!(refusal(r#"{"least_width": 1.5}"#).starts_with("least_width is 1.5"));
        assert!(refusal(r#"{"least_blocks": -1}"#).starts_with("least_blocks is -1"));
        assert_eq!(refusal(r#"{"channels_multiple": 0}"#), "channels_multiple is 0, wanted 1 or more");
        let tied = "tied_depth is true, wanted `drop_attention` and `drop_mlp` alike beside it";
        assert_eq!(refusal(r#"{"tied_depth": true, "drop_mlp": false}"#), tied);
        let nan = SearchSpace { least_heads: f64::NAN, ..SearchSpace::default() };
        assert!(nan.validate().is_err() && nan.contains(&example(), &Architecture::whole(&example())).is_err());
    }
}
