//! Muon: `b ← μ b + (1 − μ) g`, `u = (1 − μ) g + μ b` (Nesterov) or `b`, `w ← w − η λ w − η' NS(u)`, `NS` nearly the
//! orthogonal factor of `u`.
//!
//! Five steps of Newton-Schulz, `X ← a X + (b X Xᵀ + c (X Xᵀ)²) X`, from `X = u / ‖u‖_F`, with a, b, c = 3.4445, −4.775,
//! 2.0315. `η' = η · 0.2 · sqrt(max(d_out, d_in))` (`match-rms-adamw`, arXiv:2502.16982), or `η · sqrt(max(1, d_out / d_in))`
//! (`original`). Matrices of sub-blocks alone; all else goes by AdamW at the same rate.
//!
//! Source: K. Jordan's Muon, as `torch.optim.Muon` has it. Deviation: Newton-Schulz in f32, torch's is in bf16.

use candle_core::{Device, Tensor};
use serde::Deserialize;
use taper_base::registry::{Entry, MethodError, params};
use taper_kernels::{cpu, update};

use super::adamw::AdamW;
use super::{Kind, Optimizer, Slot, decay, within};

const NAME: &str = "muon";
/// Of the polynomial.
const COEFFICIENTS: [f64; 3] = [3.4445, -4.775, 2.0315];
/// The least norm divided by.
const EPS: f64 = 1e-7;

/// The table's entry.
pub const ENTRY: Entry<dyn Optimizer> = Entry {
    name: NAME,
    summary: "orthogonal updates of matrices, AdamW for the rest",
    source: "arXiv:2502.16982",
    build: |value| {
        let made: Muon = params(NAME, value)?;
        within(NAME, "momentum", made.momentum, 0.0..1.0)?;
        within(NAME, "weight_decay", made.weight_decay, 0.0..f64::INFINITY)?;
        if !(1..100).contains(&made.ns_steps) {
            let reason = format!("ns_steps is {}, wanted 1 to 99", made.ns_steps);
            return Err(MethodError::Parameters { method: NAME, reason });
        }
        made.adamw.check(NAME)?;
        Ok(Box::new(made))
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Muon {
    momentum: f64,
    nesterov: bool,
    ns_steps: usize,
    adjust: Adjust,
    weight_decay: f64,
    adamw: AdamW,
}

impl Default for Muon {
    fn default() -> Self {
        let (adjust, adamw) = (Adjust::MatchRmsAdamw, AdamW::default());
        Self { momentum: 0.95, nesterov: true, ns_steps: 5, adjust, weight_decay: 0.1, adamw }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Adjust {
    Original,
    MatchRmsAdamw,
}

impl Optimizer for Muon {
    fn buffers(&self, kind: Kind<'_>) -> usize {
        if kind.hidden { 1 } else { self.adamw.buffers(kind) }
    }

    fn update(&self, slot: Slot<'_>, step: u64, rate: f64) {
        let (true, [rows, columns]) = (slot.kind.hidden, slot.kind.shape) else {
            return self.adamw.update(slot, step, rate);
        };
        let Slot { kind, weight, gradient, scale, state } = slot;
        let [momentum] = state else { return }; // as many as `buffers` says
        let keep = self.momentum as f32;
        update::blend(momentum, keep, gradient, scale * (1.0 - keep));
        let mut direction = momentum.clone();
        if self.nesterov {
            update::blend(&mut direction, keep, gradient, scale * (1.0 - keep));
        }
        // of a matrix of numbers in its own memory no step can fail
        let Ok(direction) = orthogonal(direction, [*rows, *columns], self.ns_steps) else { return };
        let [d_out, d_in] = if kind.transposed { [*columns, *rows] } else { [*rows, *columns] }.map(|d| d as f64);
        let adjusted = match self.adjust {
            Adjust::Original => rate * (d_out / d_in).max(1.0).sqrt(),
            Adjust::MatchRmsAdamw => rate * 0.2 * d_out.max(d_in).sqrt(),
        };
        update::blend(weight, decay(kind, rate, self.weight_decay), &direction, -adjusted as f32);
    }
}

/// Nearly the orthogonal factor of `x`.
fn orthogonal(x: Vec<f32>, [rows, columns]: [usize; 2], steps: usize) -> taper_kernels::Result<Vec<f32>> {
    const OP: &str = "muon";
    let wrap = |cause| taper_kernels::KernelError::Tensor { op: OP, cause };
    let [a, b, c] = COEFFICIENTS;
    let mut x = Tensor::from_vec(x, (rows, columns), &Device::Cpu).map_err(wrap)?;
    let wide = rows <= columns; // work on the shorter side
    if !wide {
        x = x.t().and_then(|x| x.contiguous()).map_err(wrap)?;
    }
    let norm = cpu::square_sum(&x)?.sqrt().max(EPS);
    x = (x / norm).map_err(wrap)?;
    for _ in 0..steps {
        let gram = cpu::into_units(&x, &x, None)?; // X Xᵀ
        let square = cpu::into_units(&gram, &gram, None)?; // it is symmetric
        let polynomial = ((gram * b).map_err(wrap)? + (square * c).map_err(wrap)?).map_err(wrap)?;
        let base = (&x * a).map_err(wrap)?;
        x = cpu::from_units(Some(&base), &[(&polynomial, &x)], None)?;
    }
    if !wide {
        x = x.t().and_then(|x| x.contiguous()).map_err(wrap)?;
    }
    Ok(cpu::Values::of(OP, &x)?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn singular_values_come_near_one_whatever_they_were() {
        for shape in [[2, 3], [3, 2]] {
            let x: Vec<f32> = vec![3.0, 0.0, 1.0, 0.5, -0.25, 0.125];
            let y = orthogonal(x, shape, 5).unwrap();
            let y = Tensor::from_vec(y, (shape[0], shape[1]), &Device::Cpu).unwrap();
            let y = if shape[0] < shape[1] { y } else { y.t().unwrap().contiguous().unwrap() };
            let gram = cpu::into_units(&y, &y, None).unwrap().to_vec2::<f32>().unwrap();
            // squares of the singular values: these coefficients leave them in about .7 to 1.2
            let (mean, off) = ((gram[0][0] + gram[1][1]) / 2.0, gram[0][1]);
            let radius = ((gram[0][0] - gram[1][1]).powi(2) / 4.0 + off * off).sqrt();
            for value in [mean - radius, mean + radius] {
                assert!((0.65..1.25).contains(&value.sqrt()), "{shape:?} {gram:?}");
            }
        }
    }

    #[test]
    fn shapes_are_those_of_checkpoints_and_vectors_go_by_adamw() {
        let muon = Muon { adjust: Adjust::Original, weight_decay: 0.0, ..Muon::default() };
        let step = |transposed| {
            let (mut weight, mut state) = ([0.0_f32; 4], vec![vec![0.0; 4]]);
            let kind = Kind { shape: &[4, 1], hidden: true, transposed };
            muon.update(
                Slot { kind, weight: &mut weight, gradient: &[1.0, 0.0, 0.0, 0.0], scale: 1.0, state: &mut state },
                1,
                0.1,
            );
            weight[0]
        };
        assert!((step(false) / step(true) - 2.0).abs() < 1e-5, "sqrt(4 / 1)");
        let vector = Kind { shape: &[4], hidden: false, transposed: false };
        assert_eq!(muon.buffers(vector), 2);
    }
}
