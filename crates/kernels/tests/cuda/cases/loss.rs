use super::{BOTH, Given, Gpu, close, given};
use taper_kernels::cuda::{Array, CudaError, Storage, cross_entropy, token_losses, unit_gradient};

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
}
