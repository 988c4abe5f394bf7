use super::{BOTH, Given, Gpu, close, given};
use taper_kernels::cuda::{
    Array, CudaError, Predictions, Storage, cross_entropy, predictions, token_losses, unit_gradient,
};
use taper_kernels::rows::Divergence;

/// Tokens, d_model, vocabulary: one of each, fewer logits than threads, more, odd.
const SIZES: [[usize; 3]; 4] = [[1, 1, 1], [3, 4, 10], [5, 7, 257], [2, 3, 1001]];

fn logits(hidden: &Given, head: &Given, [tokens, d, vocab]: [usize; 3]) -> Vec<Vec<f64>> {
    let dot = |t: usize, v: usize| (0..d).map(|i| hidden.values[t * d + i] * head.values[v * d + i]).sum();
    (0..tokens).map(|t| (0..vocab).map(|v| dot(t, v)).collect()).collect()
}

fn targets(tokens: usize, vocab: usize) -> Vec<u32> {
    (0..tokens).map(|t| ((t * 7 + vocab - 1) % vocab) as u32).collect()
}

pub fn losses_and_gradients(machine: &Gpu) {
    for (size, storage) in SIZES.into_iter().flat_map(|size| BOTH.map(|storage| (size, storage))) {
        let [tokens, d, vocab] = size;
        let hidden = given(machine, "hidden", &[tokens, d], storage);
        let head = given(machine, "head", &[vocab, d], storage);
        let (targets, weights) = (targets(tokens, vocab), (0..tokens).map(|t| 0.5 + t as f32).collect::<Vec<_>>());
        let rows = logits(&hidden, &head, size);
        let (mut losses, mut dh, mut dw) = (vec![0.0; tokens], vec![0.0; tokens * d], vec![0.0; vocab * d]);
        for (t, row) in rows.iter().enumerate() {
            let sum: f64 = row.iter().map(|x| x.exp()).sum();
            losses[t] = sum.ln() - row[targets[t] as usize];
            for (v, x) in row.iter().enumerate() {
                let hit = f64::from(u8::from(v == targets[t] as usize));
                let slope = f64::from(weights[t]) * (x.exp() / sum - hit);
                (0..d).for_each(|i| dh[t * d + i] += slope * head.values[v * d + i]);
                (0..d).for_each(|i| dw[v * d + i] += slope * hidden.values[t * d + i]);
            }
        }
        let got = token_losses(&hidden.array, &head.array, &targets).unwrap().to_host().unwrap();
        assert!(testkit::max_abs_diff(&got, &losses) < 1e-5, "{size:?} {storage}: {got:?} {losses:?}");
        let mut head_gradient = None;
        let mut sink = |input: &Array, slopes: &Array| {
            assert!(slopes.to_host().is_ok() == (storage == Storage::F32), "rows are apart");
            head_gradient = Some(unit_gradient(slopes, input)?); // all tokens are one piece
            Ok::<_, CudaError>(())
        };
        let (again, gradient) = cross_entropy(&hidden.array, &head.array, &targets, &weights, Some(&mut sink)).unwrap();
        assert_eq!(again.to_host().unwrap(), got);
        if vocab > 1 {
            close(&format!("hidden {size:?}"), &gradient, &dh, storage);
            close(&format!("head {size:?}"), &head_gradient.unwrap(), &dw, storage);
        }
    }
}

/// `D(p, q)` of two rows of logits at temperature `t`, and its gradient with respect to `q`'s divided by `t`.
fn divergence(kind: Divergence, p: &[f64], q: &[f64], t: f64) -> (f64, Vec<f64>) {
    let logs = |row: &[f64]| -> Vec<f64> {
        let sum: f64 = row.iter().map(|x| (x / t).exp()).sum();
        row.iter().map(|x| x / t - sum.ln()).collect()
    };
    // the loss, and q dD/dq, by outcome
    let outcome = |p: f64, q: f64| match kind {
        Divergence::Forward => (p * (p / q).ln(), -p),
        Divergence::Reverse => (q * (q / p).ln(), q * ((q / p).ln() + 1.0)),
        Divergence::JensenShannon(beta) => {
            let beta = f64::from(beta);
            let m = beta * p + (1.0 - beta) * q;
            (beta * p * (p / m).ln() + (1.0 - beta) * q * (q / m).ln(), (1.0 - beta) * q * (q / m).ln())
        }
    };
    let (p, q) = (logs(p), logs(q));
    let all: Vec<(f64, f64)> = p.iter().zip(&q).map(|(p, q)| outcome(p.exp(), q.exp())).collect();
    let pull: f64 = all.iter().map(|(_, a)| a).sum();
    (all.iter().map(|(loss, _)| loss).sum(), all.iter().zip(&q).map(|((_, a), q)| a - q.exp() * pull).collect())
}

pub fn predictions_by_targets_and_a_teacher(machine: &Gpu) {
    let kinds = [Divergence::Forward, Divergence::Reverse, Divergence::JensenShannon(0.3)];
    for (size, storage) in SIZES.into_iter().flat_map(|size| BOTH.map(|storage| (size, storage))) {
        let [tokens, d, vocab] = size;
        let [hidden, seen] = ["hidden", "seen"].map(|name| given(machine, name, &[tokens, d], storage));
        let [head, theirs] = ["head", "theirs"].map(|name| given(machine, name, &[vocab, d], storage));
        let targets: Vec<Option<u32>> =
            targets(tokens, vocab).into_iter().enumerate().map(|(t, id)| (t != 1).then_some(id)).collect();
        let (rows, other) = (logits(&hidden, &head, size), logits(&seen, &theirs, size));
        for (kind, cross_entropy) in kinds.into_iter().zip([0.7, 0.0, 1.3]) {
            let aims = Predictions { cross_entropy, smoothing: 0.2, apart: 0.6, divergence: kind, temperature: 1.5 };
            let (mut losses, mut dh) = (vec![0.0; 2 * tokens], vec![0.0; tokens * d]);
            for (t, row) in rows.iter().enumerate() {
                let Some(target) = targets[t] else { continue };
                let sum: f64 = row.iter().map(|x| x.exp()).sum();
                let share = 0.2 / vocab as f64;
                losses[2 * t] = sum.ln() - 0.8 * row[target as usize] - share * row.iter().sum::<f64>();
                let (apart, slopes) = divergence(kind, &other[t], row, 1.5);
                losses[2 * t + 1] = apart;
                for (v, x) in row.iter().enumerate() {
                    let hit = if v == target as usize { 0.8 } else { 0.0 };
                    let slope = cross_entropy * (x.exp() / sum - hit - share) + 0.6 * slopes[v];
                    (0..d).for_each(|i| dh[t * d + i] += slope * head.values[v * d + i]);
                }
            }
            let (own, teacher) = ([&hidden.array, &head.array], [&seen.array, &theirs.array]);
            let (got, gradient) = predictions::<CudaError>(own, Some(teacher), &targets, aims, None).unwrap();
            let got = got.to_host().unwrap();
            assert!(testkit::max_abs_diff(&got, &losses) < 1e-5, "{size:?} {storage} {kind:?}: {got:?} {losses:?}");
            if vocab > 1 {
                close(&format!("predictions {size:?} {kind:?}"), &gradient, &dh, storage);
            }
        }
        // without a teacher, the cross-entropy alone
        let aims = Predictions {
            cross_entropy: 0.5,
            smoothing: 0.0,
            apart: 1.0,
            divergence: Divergence::Forward,
            temperature: 1.0,
        };
        let own = [&hidden.array, &head.array];
        let (got, gradient) = predictions::<CudaError>(own, None, &targets, aims, None).unwrap();
        let weights: Vec<f32> = targets.iter().map(|target| if target.is_some() { 0.5 } else { 0.0 }).collect();
        let known: Vec<u32> = targets.iter().map(|target| target.unwrap_or(0)).collect();
        let (losses, want) = cross_entropy::<CudaError>(&hidden.array, &head.array, &known, &weights, None).unwrap();
        let (got, losses) = (got.to_host().unwrap(), losses.to_host().unwrap());
        for (t, target) in targets.iter().enumerate() {
            assert_eq!(got[2 * t], if target.is_some() { losses[t] } else { 0.0 });
        }
        let want: Vec<f64> = want.to_host().unwrap().into_iter().map(f64::from).collect();
        if vocab > 1 {
            close(&format!("no teacher {size:?}"), &gradient, &want, storage);
        }
    }
}

/// Logits far from 0, of both signs: the exponentials of neither may leave f32.
pub fn a_row_apart(machine: &Gpu) {
    let hidden = Array::of(machine, &[1.0, -1.0], &[2, 1], Storage::F32).unwrap();
    let head = Array::of(machine, &[-500.0, 300.0, 300.0, 200.0], &[4, 1], Storage::F32).unwrap();
    let got = token_losses(&hidden, &head, &[1, 0]).unwrap().to_host().unwrap();
    assert!((got[0] - 2.0_f32.ln()).abs() < 1e-4 && got[1].abs() < 1e-4, "{got:?}");
}

pub fn arguments_are_checked(machine: &Gpu) {
    let hidden = Array::of(machine, &[1.0, 0.0], &[1, 2], Storage::F32).unwrap();
    let head = Array::of(machine, &[0.0, 5.0, 1.0, 7.0], &[2, 2], Storage::F32).unwrap();
    let refusal = |targets: &[u32]| token_losses(&hidden, &head, targets).unwrap_err().to_string();
    assert_eq!(refusal(&[2]), "token_losses: token has shape [2], wanted below the vocabulary's size, 2");
    assert_eq!(refusal(&[1, 1]), "token_losses: targets has shape [2], wanted [1]");
    assert!(cross_entropy::<CudaError>(&hidden, &head, &[1], &[], None).is_err());
    let aims = Predictions {
        cross_entropy: 1.0,
        smoothing: 0.0,
        apart: 1.0,
        divergence: Divergence::Forward,
        temperature: 1.0,
    };
    let other = Array::of(machine, &[1.0; 6], &[3, 2], Storage::F32).unwrap();
    let refusal = predictions::<CudaError>([&hidden, &head], Some([&hidden, &other]), &[None], aims, None).unwrap_err();
    assert_eq!(refusal.to_string(), "predictions: teacher has shape [3], wanted a vocabulary of 2");
}
