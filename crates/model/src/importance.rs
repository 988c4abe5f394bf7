//! Importance of units, and of sub-blocks, from one forward pass over the calibration tokens.
//!
//! `I_j = Σ_i |W_ij| · ‖X_j‖₂`, `W` the output projection (o or down), `X_j` its input's column j over all tokens. A
//! head's is the sum over its columns, a KV group's that over its heads. A sub-block's is the mean of `|W_ij| · ‖X_j‖₂`
//! over all entries. Source: arXiv:2602.02891, §3 (Wanda, arXiv:2306.11695, summed over output rows).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use taper_arch::select::{AttentionOrder, BlockOrder};
use taper_arch::{SubBlock, UnitOrder};
use taper_kernels::{column_square_sums, row_abs_sums};

use crate::error::at;
use crate::{Batch, Model, Result};

/// Tokens of one forward pass.
const TOKENS: usize = 4096;

/// What calibration found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Loss of the whole model on the calibration tokens, nats per token.
    pub loss: f64,
    /// Importance of each sub-block: attention, MLP; 0 where there is none.
    pub importance: Vec<[f64; 2]>,
    /// Importance of each unit, by its number: query heads, MLP channels.
    pub units: Vec<[Vec<f64>; 2]>,
    /// Units of each block, best first.
    pub order: UnitOrder,
}

/// One forward pass over `batch`, in pieces.
///
/// # Errors
/// What the forward pass says.
pub fn calibrate(model: &Model, batch: Batch<'_>) -> Result<Calibration> {
    let mut squares: BTreeMap<(usize, SubBlock), Vec<f64>> = BTreeMap::new();
    let (mut loss, mut count) = (0.0, 0_usize);
    for piece in batch.pieces(TOKENS) {
        let losses = model.observe(piece, &mut |block, half, units| {
            let sums = column_square_sums(units)?;
            let total = squares.entry((block, half)).or_insert_with(|| vec![0.0; sums.len()]);
            total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
            Ok(())
        })?;
        loss += losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
        count += losses.len();
    }
    let mut found = Calibration {
        loss: loss / count.max(1) as f64,
        importance: Vec::new(),
        units: Vec::new(),
        order: UnitOrder::stored(&model.spec),
    };
    for (index, block) in model.blocks.iter().enumerate() {
        let columns = |half, weight| -> Result<Vec<f64>> {
            let sums = row_abs_sums(weight).map_err(at(format!("block {index}, {half}")))?;
            let squares = squares.get(&(index, half)).into_iter().flatten();
            Ok(sums.iter().zip(squares).map(|(sum, square)| sum * square.sqrt()).collect())
        };
        let (mut importance, mut units) = ([0.0; 2], [Vec::new(), Vec::new()]);
        let order = &mut found.order.blocks[index];
        if let Some(attention) = &block.attention {
            let columns = columns(SubBlock::Attention, &attention.o)?;
            importance[0] = columns.iter().sum::<f64>() / attention.o.elem_count() as f64;
            units[0] = columns.chunks(model.spec.d_head).map(|head| head.iter().sum()).collect();
            sort_attention(order, &attention.kv_of, &units[0]);
        }
        if let Some(mlp) = &block.mlp {
            units[1] = columns(SubBlock::Mlp, &mlp.down)?;
            importance[1] = units[1].iter().sum::<f64>() / mlp.down.elem_count() as f64;
            order.mlp.iter_mut().for_each(|channels| best_first(channels, &|channel| units[1][*channel]));
        }
        found.importance.push(importance);
        found.units.push(units);
    }
    Ok(found)
}

/// `kv_of` is the group of each head: in a sorted model heads are not in the order of their groups.
fn sort_attention(order: &mut BlockOrder, kv_of: &[usize], heads: &[f64]) {
    if let Some(AttentionOrder { groups, heads: by_group }) = &mut order.attention {
        for (group, members) in by_group.iter_mut().enumerate() {
            *members = (0..kv_of.len()).filter(|head| kv_of[*head] == group).collect();
            best_first(members, &|head| heads[*head]);
        }
        let sums: Vec<f64> = by_group.iter().map(|group| group.iter().map(|head| heads[*head]).sum()).collect();
        best_first(groups, &|group| sums[*group]);
    }
}

/// Descending; of equals the one with the smaller number.
fn best_first(units: &mut [usize], importance: &dyn Fn(&usize) -> f64) {
    units.sort_by(|a, b| importance(b).total_cmp(&importance(a)).then(a.cmp(b)));
}
