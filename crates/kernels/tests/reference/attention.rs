//! Attention: grouped heads, windows, more tokens than a tile, groups and attention without a head.

use taper_kernels::cpu::{attention, attention_backward};
use taper_kernels::{Heads, Sight};

use super::*;

/// Row-major `[sequences · each, heads · d_head]`.
fn at(heads: &Heads<'_>, (each, n): (usize, usize), sequence: usize, token: usize, head: usize) -> usize {
    ((sequence * each + token) * n + head) * heads.d_head
}

/// Tokens of a sequence that look.
fn queries(heads: &Heads<'_>) -> usize {
    match heads.sight {
        Sight::Causal => heads.tokens,
        Sight::Full { queries } => queries,
    }
}

/// `inputs` are q, k and v.
fn brute_force(inputs: &[Vec<f64>], heads: &Heads<'_>) -> Vec<f64> {
    let (d, n, n_kv) = (heads.d_head, heads.kv_of.len(), heads.n_kv_heads);
    let mut out = vec![0.0; inputs[0].len()];
    for sequence in 0..heads.sequences {
        for (head, kv) in heads.kv_of.iter().enumerate() {
            for token in 0..queries(heads) {
                let first = heads.window.map_or(0, |window| (token + 1).saturating_sub(window));
                let seen = if heads.sight == Sight::Causal { first..token + 1 } else { 0..heads.tokens };
                let query = at(heads, (queries(heads), n), sequence, token, head);
                let score = |key: usize| {
                    let key = at(heads, (heads.tokens, n_kv), sequence, key, *kv);
                    (0..d).map(|i| inputs[0][query + i] * inputs[1][key + i]).sum::<f64>() / (d as f64).sqrt()
                };
                let weights: Vec<f64> = seen.clone().map(|key| score(key).exp()).collect();
                let total: f64 = weights.iter().sum();
                for (key, weight) in seen.zip(&weights) {
                    let value = at(heads, (heads.tokens, n_kv), sequence, key, *kv);
                    (0..d).for_each(|i| out[query + i] += weight / total * inputs[2][value + i]);
                }
            }
        }
    }
    out
}

fn check(heads: Heads<'_>, seed: u64) {
    let (n, n_kv) = (heads.kv_of.len(), heads.n_kv_heads);
    let t = |name, each: usize, n: usize| random(name, seed, &[heads.sequences * each, n * heads.d_head]);
    let (asked, tokens) = (queries(&heads), heads.tokens);
    let (q, k, v, dout) = (t("q", asked, n), t("k", tokens, n_kv), t("v", tokens, n_kv), t("dout", asked, n));
    let inputs = [wide(&q), wide(&k), wide(&v)];
    let attended = attention(&q, &k, &v, heads).unwrap();
    near("attention", &attended.out, &brute_force(&inputs, &heads));
    let found = attention_backward([&q, &k, &v], heads, &attended, &dout).unwrap();
    let wanted = differences(&inputs, &wide(&dout), |inputs| brute_force(inputs, &heads));
    for (name, found, wanted) in [("dq", &found[0], &wanted[0]), ("dk", &found[1], &wanted[1])] {
        // a single key: its weight is 1 whatever the scores, and what f32 leaves of that is no gradient
        if heads.tokens == 1 || heads.window == Some(1) && heads.sight == Sight::Causal {
            assert!(wide(found).iter().all(|x| x.abs() < TOLERANCE), "{name}");
        } else {
            near(name, found, wanted);
        }
    }
    near("dv", &found[2], &wanted[2]);
}

#[test]
fn attention_and_its_gradients() {
    let groups: [(&[usize], usize); 6] =
        [(&[0], 1), (&[0, 1], 2), (&[0, 0, 0], 1), (&[0, 0, 1], 2), (&[1, 0], 2), (&[1], 3)];
    let mut rng = stream(3, "attention", 0, 0);
    for seed in 0..24 {
        let (kv_of, n_kv_heads) = groups[seed % groups.len()];
        let tokens = pick(&mut rng, &[1, 2, 3, 7, 13]);
        let window = [None, Some(1), Some(3), Some(100)][seed % 4];
        let (sequences, d_head) = (pick(&mut rng, &[1, 2, 3]), pick(&mut rng, &[1, 2, 5, 8]));
        let sight = match seed % 5 {
            3 => Sight::Full { queries: tokens.div_ceil(2) },
            4 => Sight::Full { queries: tokens },
            _ => Sight::Causal,
        };
        check(Heads { sequences, tokens, d_head, kv_of, n_kv_heads, window, first: None, sight }, seed as u64);
    }
}

#[test]
fn attention_over_more_than_a_tile() {
    let causal = [None, Some(5), Some(64), Some(65)].map(|window| (window, Sight::Causal, 67));
    let full = [(150, 150), (67, 67), (140, 1), (40, 20)].map(|(t, queries)| (None, Sight::Full { queries }, t));
    for (seed, (window, sight, tokens)) in causal.into_iter().chain(full).enumerate() {
        let (kv_of, d_head) = (&[0, 0], if tokens > 100 { 1 } else { 3 });
        check(
            Heads { sequences: 1, tokens, d_head, kv_of, n_kv_heads: 1, window, first: None, sight },
            100 + seed as u64,
        );
    }
}

#[test]
fn no_head_no_token_and_no_sequence_give_nothing() {
    for (sequences, tokens, kv_of) in [(2, 3, &[] as &[usize]), (2, 0, &[0, 1]), (0, 3, &[0, 1])] {
        let heads = Heads {
            sequences,
            tokens,
            d_head: 4,
            kv_of,
            n_kv_heads: 2,
            window: None,
            first: None,
            sight: Sight::Causal,
        };
        let rows = sequences * tokens;
        let (q, kv) = (random("q", 0, &[rows, 4 * kv_of.len()]), random("kv", 0, &[rows, 8]));
        let attended = attention(&q, &kv, &kv, heads).unwrap();
        assert_eq!(attended.out.dims(), q.dims());
        let [dq, dk, dv] = attention_backward([&q, &kv, &kv], heads, &attended, &q).unwrap();
        assert_eq!((dq.dims(), dk.dims(), dv.dims()), (q.dims(), kv.dims(), kv.dims()));
        assert!(wide(&dk).iter().chain(&wide(&dv)).all(|x| *x == 0.0));
    }
}
