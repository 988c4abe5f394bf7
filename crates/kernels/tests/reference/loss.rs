//! Cross-entropy fused with the head.

use taper_kernels::cpu::{cross_entropy, token_losses};

use super::*;

/// Losses of `inputs`: hidden states and head.
fn losses(inputs: &[Vec<f64>], targets: &[u32], d: usize) -> Vec<f64> {
    let loss = |(hidden, target): (&[f64], &u32)| {
        let logit = |row: &[f64]| row.iter().zip(hidden).map(|(w, h)| w * h).sum::<f64>();
        let logits: Vec<f64> = inputs[1].chunks(d).map(logit).collect();
        logits.iter().map(|x| x.exp()).sum::<f64>().ln() - logits[*target as usize]
    };
    inputs[0].chunks(d).zip(targets).map(loss).collect()
}

/// Losses, and gradients of hidden states and head as the operation gives them.
fn found(hidden: &Tensor, head: &Tensor, targets: &[u32], weights: &[f32]) -> (Vec<f64>, Tensor, Vec<f64>) {
    let (vocab, d) = head.dims2().unwrap();
    let mut head_gradient = vec![0.0; vocab * d];
    let mut sink = |input: &Tensor, slopes: &Tensor| {
        for (input, slopes) in wide(input).chunks(d).zip(wide(slopes).chunks(vocab)) {
            for (row, slope) in head_gradient.chunks_mut(d).zip(slopes) {
                row.iter_mut().zip(input).for_each(|(sum, x)| *sum += slope * x);
            }
        }
        Ok(())
    };
    let (losses, gradient) = cross_entropy(hidden, head, targets, weights, Some(&mut sink)).unwrap();
    assert_eq!(losses, token_losses(hidden, head, targets).unwrap());
    (losses.into_iter().map(f64::from).collect(), gradient, head_gradient)
}

fn weights(name: &str, seed: u64, tokens: usize) -> Vec<f32> {
    random(name, seed, &[tokens]).to_vec1().unwrap()
}

#[test]
fn losses_and_gradients() {
    let mut rng = stream(4, "loss", 0, 0);
    for seed in 0..20 {
        let tokens = pick(&mut rng, &[1, 2, 3, 9, 17]);
        let (vocab, d) = (pick(&mut rng, &[2, 3, 11, 31]), pick(&mut rng, &[1, 2, 5, 9]));
        let (hidden, head) = (random("hidden", seed, &[tokens, d]), random("head", seed, &[vocab, d]));
        let targets: Vec<u32> = (0..tokens).map(|_| rng.random_range(0..vocab as u32)).collect();
        let weights = weights("weights", seed, tokens);
        let inputs = [wide(&hidden), wide(&head)];
        let (losses_found, gradient, head_gradient) = found(&hidden, &head, &targets, &weights);
        assert!(error(&losses_found, &losses(&inputs, &targets, d)) <= TOLERANCE);
        let dy: Vec<f64> = weights.iter().copied().map(f64::from).collect();
        let wanted = differences(&inputs, &dy, |inputs| losses(inputs, &targets, d));
        near("gradient of the hidden states", &gradient, &wanted[0]);
        assert!(error(&head_gradient, &wanted[1]) <= TOLERANCE);
    }
}

/// A vocabulary so large that the tokens are taken in pieces: the slope written out, since differences would take minutes.
#[test]
fn tokens_in_pieces() {
    let (tokens, vocab, d) = (67, 131_071, 2);
    let (hidden, head) = (random("hidden", 0, &[tokens, d]), random("head", 0, &[vocab, d]));
    let targets: Vec<u32> = (0..tokens as u32).map(|token| token * 1951).collect();
    let weights = weights("weights", 0, tokens);
    let (losses_found, gradient, head_gradient) = found(&hidden, &head, &targets, &weights);
    let (states, rows) = (wide(&hidden), wide(&head));
    let (mut wanted, mut wanted_head) = (vec![0.0; tokens * d], vec![0.0; vocab * d]);
    let mut wanted_losses = Vec::new();
    for (token, state) in states.chunks(d).enumerate() {
        let exps: Vec<f64> = rows.chunks(d).map(|row| (row[0] * state[0] + row[1] * state[1]).exp()).collect();
        let total: f64 = exps.iter().sum();
        wanted_losses.push(-(exps[targets[token] as usize] / total).ln());
        for (id, x) in exps.iter().enumerate() {
            let hit = if id == targets[token] as usize { 1.0 } else { 0.0 };
            let slope = f64::from(weights[token]) * (x / total - hit);
            for i in 0..d {
                wanted[token * d + i] += slope * rows[id * d + i];
                wanted_head[id * d + i] += slope * state[i];
            }
        }
    }
    assert!(error(&losses_found, &wanted_losses) <= TOLERANCE);
    near("gradient of the hidden states", &gradient, &wanted);
    assert!(error(&head_gradient, &wanted_head) <= TOLERANCE);
}

#[test]
fn no_token_has_no_loss() {
    let (hidden, head) = (random("hidden", 0, &[0, 3]), random("head", 0, &[5, 3]));
    let (losses, gradient, _) = found(&hidden, &head, &[], &[]);
    assert!(losses.is_empty());
    assert_eq!(gradient.dims(), [0, 3]);
    let refusal = token_losses(&hidden, &random("head", 0, &[0, 3]), &[]).unwrap_err().to_string();
    assert_eq!(refusal, "token_losses: head has shape [0, 3], wanted [vocab, 3]");
}
