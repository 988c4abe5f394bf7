//! Which units are kept, by number. An [`Architecture`] says how many; a [`UnitOrder`] turns that into which.

use serde::{Deserialize, Serialize};

use crate::{ArchError, Architecture, AttentionSpec, ModelSpec};

/// Kept query heads and channels of one block, by original number; `None` is removed. KV heads all stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptBlock {
    /// Query heads.
    pub attention: Option<Vec<usize>>,
    /// MLP channels.
    pub mlp: Option<Vec<usize>>,
}

/// A candidate as people write it by hand: explicit sets for each block.
pub type Candidate = Vec<KeptBlock>;

/// Kept units of one attention, by their number in the model at hand, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectedAttention {
    /// Query heads.
    pub heads: Vec<usize>,
    /// KV groups.
    pub groups: Vec<usize>,
}

/// Kept units of one block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectedBlock {
    /// Attention; `None` is removed.
    pub attention: Option<SelectedAttention>,
    /// MLP channels; `None` is removed.
    pub mlp: Option<Vec<usize>>,
}

/// Kept units of a model: what the one cutting routine takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selection {
    /// One entry a block.
    pub blocks: Vec<SelectedBlock>,
}

impl Selection {
    /// Keeps everything.
    pub fn whole(spec: &ModelSpec) -> Self {
        UnitOrder::stored(spec)
            .blocks
            .into_iter()
            .map(|block| SelectedBlock {
                attention: block.attention.map(|a| SelectedAttention {
                    heads: sorted(a.heads.into_iter().flatten().collect()),
                    groups: sorted(a.groups),
                }),
                mlp: block.mlp.map(sorted),
            })
            .collect()
    }

    /// A hand-written candidate, checked against the model.
    ///
    /// # Errors
    /// [`ArchError::Mismatch`] naming the block whose list is empty, repeats a unit or names one that is not there.
    pub fn from_candidate(spec: &ModelSpec, candidate: &[KeptBlock]) -> Result<Self, ArchError> {
        if candidate.len() != spec.blocks.len() {
            let reason = format!("candidate has {} blocks, the model {}", candidate.len(), spec.blocks.len());
            return Err(ArchError::Mismatch { place: "blocks".to_owned(), reason });
        }
        let blocks = candidate.iter().zip(&spec.blocks).enumerate().map(|(index, (kept, block))| {
            let heads = block.attention.map_or(0, |a| a.n_heads);
            let groups = block.attention.map_or(0, |a| a.n_kv_heads);
            let channels = block.mlp.map_or(0, |m| m.d_ff);
            let attention = kept.attention.as_ref().map(|kept| {
                let heads = checked(index, "attention", kept, heads)?;
                Ok(SelectedAttention { heads, groups: (0..groups).collect() })
            });
            let mlp = kept.mlp.as_ref().map(|kept| checked(index, "mlp", kept, channels));
            Ok(SelectedBlock { attention: attention.transpose()?, mlp: mlp.transpose()? })
        });
        Ok(Self { blocks: blocks.collect::<Result<_, _>>()? })
    }
}

impl FromIterator<SelectedBlock> for Selection {
    fn from_iter<I: IntoIterator<Item = SelectedBlock>>(blocks: I) -> Self {
        Self { blocks: blocks.into_iter().collect() }
    }
}

fn checked(index: usize, half: &str, kept: &[usize], of: usize) -> Result<Vec<usize>, ArchError> {
    let refuse = |reason: String| ArchError::Mismatch { place: format!("block {index}, {half}"), reason };
    let kept = sorted(kept.to_vec());
    if kept.is_empty() {
        return Err(refuse("keeps no unit; write null to remove it".to_owned()));
    }
    if let Some(twice) = kept.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(refuse(format!("unit {} is listed twice", twice[0])));
    }
    match kept.last() {
        Some(last) if *last >= of => Err(refuse(format!("unit {last} is not there: the model has {of}"))),
        _ => Ok(kept),
    }
}

fn sorted(mut units: Vec<usize>) -> Vec<usize> {
    units.sort_unstable();
    units
}

/// Units of one attention, best first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionOrder {
    /// KV groups, best first.
    pub groups: Vec<usize>,
    /// For each KV group by its own number, its query heads (numbered over the whole attention), best first.
    pub heads: Vec<Vec<usize>>,
}

/// Units of one block, best first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockOrder {
    /// Heads and groups.
    pub attention: Option<AttentionOrder>,
    /// Channels.
    pub mlp: Option<Vec<usize>>,
}

/// The ranking of a model's units, found once by calibration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnitOrder {
    /// One entry a block.
    pub blocks: Vec<BlockOrder>,
}

impl UnitOrder {
    /// The order in which the checkpoint stores its units.
    pub fn stored(spec: &ModelSpec) -> Self {
        let attention = |a: AttentionSpec| AttentionOrder {
            groups: (0..a.n_kv_heads).collect(),
            heads: (0..a.n_kv_heads)
                .map(|g| (g * a.heads_per_group()..(g + 1) * a.heads_per_group()).collect())
                .collect(),
        };
        let blocks = spec.blocks.iter().map(|block| BlockOrder {
            attention: block.attention.map(attention),
            mlp: block.mlp.map(|m| (0..m.d_ff).collect()),
        });
        Self { blocks: blocks.collect() }
    }

    /// Checks that every list names each unit of `spec` once.
    ///
    /// # Errors
    /// [`ArchError::Mismatch`] naming the block where one does not.
    pub fn check(&self, spec: &ModelSpec) -> Result<(), ArchError> {
        let stored = Self::stored(spec);
        let wrong = |place: String| ArchError::Mismatch {
            place,
            reason: "the ranking does not name each unit once".to_owned(),
        };
        if self.blocks.len() != stored.blocks.len() {
            return Err(wrong("blocks".to_owned()));
        }
        for (index, (ours, whole)) in self.blocks.iter().zip(&stored.blocks).enumerate() {
            let lists = |order: &AttentionOrder| {
                let heads = order.heads.iter().map(|heads| sorted(heads.clone())).collect::<Vec<_>>();
                (sorted(order.groups.clone()), heads)
            };
            if ours.attention.as_ref().map(lists) != whole.attention.as_ref().map(lists) {
                return Err(wrong(format!("block {index}, attention")));
            }
            if ours.mlp.clone().map(sorted) != whole.mlp {
                return Err(wrong(format!("block {index}, mlp")));
            }
        }
        Ok(())
    }

    /// The best units of each block, as many as `arch` keeps, by original number and ascending.
    ///
    /// # Errors
    /// [`ArchError::Mismatch`] if `arch` keeps more than was ranked.
    pub fn select(&self, arch: &Architecture) -> Result<Selection, ArchError> {
        if self.blocks.len() != arch.blocks.len() {
            let reason = format!("architecture has {} blocks, the ranking {}", arch.blocks.len(), self.blocks.len());
            return Err(ArchError::Mismatch { place: "blocks".to_owned(), reason });
        }
        let blocks = arch.blocks.iter().zip(&self.blocks).enumerate().map(|(index, (genes, order))| {
            let missing = |half: &str| ArchError::Mismatch {
                place: format!("block {index}, {half}"),
                reason: "keeps more than was ranked".to_owned(),
            };
            let attention = genes.attention.as_ref().map(|genes| {
                let order = order.attention.as_ref().ok_or_else(|| missing("attention"))?;
                let groups = order.groups.get(..genes.groups).ok_or_else(|| missing("attention"))?;
                let heads = groups.iter().map(|g| order.heads[*g].get(..genes.heads_per_group));
                let heads: Option<Vec<&[usize]>> = heads.collect();
                let heads = heads.ok_or_else(|| missing("attention"))?.concat();
                Ok(SelectedAttention { heads: sorted(heads), groups: sorted(groups.to_vec()) })
            });
            let mlp = genes.mlp.as_ref().map(|genes| {
                let kept = order.mlp.as_ref().and_then(|order| order.get(..genes.channels));
                kept.map(|kept| sorted(kept.to_vec())).ok_or_else(|| missing("mlp"))
            });
            Ok(SelectedBlock { attention: attention.transpose()?, mlp: mlp.transpose()? })
        });
        Ok(Selection { blocks: blocks.collect::<Result<_, _>>()? })
    }

    /// The permutation that sorts a model so that every architecture keeps a prefix of its channels, KV groups and,
    /// while all groups stay, of its query heads: heads are laid out by rank first, then by group.
    pub fn permutation(&self) -> Vec<SelectedBlock> {
        let attention = |order: &AttentionOrder| {
            let ranks = order.heads.first().map_or(0, Vec::len);
            let heads = (0..ranks).flat_map(|rank| order.groups.iter().map(move |g| order.heads[*g][rank]));
            SelectedAttention { heads: heads.collect(), groups: order.groups.clone() }
        };
        let block = |order: &BlockOrder| SelectedBlock {
            attention: order.attention.as_ref().map(attention),
            mlp: order.mlp.clone(),
        };
        self.blocks.iter().map(block).collect()
    }
}

/// `arch` on a model sorted by [`UnitOrder::permutation`]: prefixes only.
///
/// # Errors
/// [`ArchError::Mismatch`] if `arch` does not fit `spec`.
pub fn prefixes(spec: &ModelSpec, arch: &Architecture) -> Result<Selection, ArchError> {
    arch.apply(spec)?;
    let block = |(genes, block): (&crate::BlockGenes, &crate::BlockSpec)| SelectedBlock {
        attention: genes.attention.as_ref().zip(block.attention).map(|(genes, spec)| SelectedAttention {
            heads: (0..genes.heads_per_group)
                .flat_map(|rank| (0..genes.groups).map(move |g| rank * spec.n_kv_heads + g))
                .collect(),
            groups: (0..genes.groups).collect(),
        }),
        mlp: genes.mlp.as_ref().map(|genes| (0..genes.channels).collect()),
    };
    Ok(arch.blocks.iter().zip(&spec.blocks).map(block).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::example;

    fn order() -> UnitOrder {
        let mut order = UnitOrder::stored(&example());
        let attention = AttentionOrder { groups: vec![1, 0], heads: vec![vec![1, 0], vec![2, 3]] };
        order.blocks[0].attention = Some(attention);
        order.blocks[0].mlp = Some((0..64).rev().collect());
        order
    }

    #[test]
    fn select_keeps_the_best_by_original_number() {
        let kept = order().select(&"1x2/3 -/- 2x1/2".parse().unwrap()).unwrap();
        let first = kept.blocks[0].attention.clone().unwrap();
        assert_eq!((first.heads, first.groups), (vec![1, 2], vec![0, 1]));
        assert_eq!(kept.blocks[0].mlp, Some(vec![61, 62, 63]));
        assert_eq!(kept.blocks[1], SelectedBlock { attention: None, mlp: None });
        assert_eq!(kept.blocks[2].attention.clone().unwrap().heads, [0, 1]);
        assert!(order().select(&"3x2/3 -/- 2x1/2".parse().unwrap()).is_err());
    }

    #[test]
    fn prefixes_of_the_permutation_are_the_selection() {
        let (spec, order) = (example(), order());
        for text in ["1x2/3 -/- 2x1/2", "2x1/64 1x1/1 2x2/-", "1x1/5 2x2/9 -/7"] {
            let arch: Architecture = text.parse().unwrap();
            let direct = order.select(&arch).unwrap();
            let prefix = prefixes(&spec, &arch).unwrap();
            for ((permuted, prefix), direct) in order.permutation().iter().zip(&prefix.blocks).zip(&direct.blocks) {
                let pick = |from: &[usize], at: &[usize]| sorted(at.iter().map(|i| from[*i]).collect());
                let channels = prefix.mlp.as_ref().map(|at| pick(permuted.mlp.as_ref().unwrap(), at));
                assert_eq!(channels, direct.mlp);
                let heads =
                    prefix.attention.as_ref().map(|at| pick(&permuted.attention.as_ref().unwrap().heads, &at.heads));
                assert_eq!(heads, direct.attention.as_ref().map(|a| a.heads.clone()));
            }
        }
    }

    #[test]
    fn a_ranking_that_misses_a_unit_is_refused() {
        order().check(&example()).unwrap();
        let refusal = |change: fn(&mut BlockOrder)| {
            let mut broken = order();
            change(&mut broken.blocks[1]);
            broken.check(&example()).unwrap_err().to_string()
        };
        let attention = "block 1, attention: the ranking does not name each unit once";
        assert_eq!(refusal(|block| block.attention.as_mut().unwrap().groups = vec![9, 0]), attention);
        assert_eq!(refusal(|block| block.attention.as_mut().unwrap().heads[1] = vec![2]), attention);
        assert!(refusal(|block| block.mlp.as_mut().unwrap()[3] = 4).starts_with("block 1, mlp"));
        assert!(UnitOrder { blocks: Vec::new() }.check(&example()).is_err());
    }

    #[test]
    fn candidates_are_checked_by_block() {
        let spec = example();
        let refusal = |block: KeptBlock| {
            let whole = KeptBlock { attention: None, mlp: None };
            Selection::from_candidate(&spec, &[whole.clone(), block, whole]).unwrap_err().to_string()
        };
        let heads = |heads: &[usize]| KeptBlock { attention: Some(heads.to_vec()), mlp: None };
        assert_eq!(refusal(heads(&[4])), "block 1, attention: unit 4 is not there: the model has 4");
        assert_eq!(refusal(heads(&[1, 1])), "block 1, attention: unit 1 is listed twice");
        assert_eq!(refusal(heads(&[])), "block 1, attention: keeps no unit; write null to remove it");
        assert!(Selection::from_candidate(&spec, &[]).is_err());
        assert_eq!(Selection::whole(&spec).blocks[0].attention.clone().unwrap().heads, [0, 1, 2, 3]);
    }
}
