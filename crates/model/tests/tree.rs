//! Scores of continuations over a tree of shared beginnings are those of PyTorch's logits, for every family.

mod shared;

use candle_core::{DType, Device};
use taper_model::{Checkpoint, Continuation, Model};

use shared::golden_folders;

/// Largest difference of a sum of log-probabilities from PyTorch's, relative: as `golden/README.toml` says of logits.
const GOLDEN: f64 = 1e-4;

/// Sum of log-probabilities of `target` at the end of `row`'s first tokens, and whether each is the likeliest, in f64.
fn reference(logits: &[Vec<f32>], upto: usize, target: &[u32]) -> (f64, bool) {
    let (mut sum, mut greedy) = (0.0, true);
    for (place, token) in target.iter().enumerate() {
        let row: Vec<f64> = logits[upto - target.len() + place].iter().map(|x| f64::from(*x)).collect();
        let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = row.iter().map(|x| (x - most).exp()).sum();
        sum += row[*token as usize] - most - total.ln();
        greedy &= row.iter().position(|x| *x == most) == Some(*token as usize);
    }
    (sum, greedy)
}

#[test]
fn every_family_scores_what_pytorch_scores() {
    let (mut cases, mut hits) = (0, 0);
    for folder in golden_folders() {
        let golden = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
        let ids: Vec<Vec<u32>> = golden["input_ids"].to_dtype(DType::U32).unwrap().to_vec2().unwrap();
        let logits: Vec<Vec<Vec<f32>>> = golden["logits"].to_vec3().unwrap();
        let model = Model::load(&Checkpoint::open(&folder).unwrap()).unwrap();
        let likeliest = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as u32;
        // Ends of each row at several lengths: what comes next, the likeliest token, and two of one text.
        let mut asked: Vec<(usize, usize, Vec<u32>)> = Vec::new();
        for (row, ids) in ids.iter().enumerate() {
            for upto in [ids.len() - 1, 2, 1, ids.len() / 2] {
                asked.push((row, upto, ids[1..=upto].to_vec()));
                asked.push((row, upto, vec![likeliest(&logits[row][upto - 1])]));
                asked.push((row, upto, vec![ids[0]]));
            }
        }
        let texts: Vec<Continuation<'_>> =
            asked.iter().map(|(row, upto, target)| Continuation { input: &ids[*row][..*upto], target }).collect();
        let scores = model.score(&texts).unwrap();
        for ((row, upto, target), score) in asked.iter().zip(scores) {
            let (want, greedy) = reference(&logits[*row], *upto, target);
            let off = (score.log_likelihood - want).abs() / want.abs().max(1e-3);
            assert!(off < GOLDEN, "{} {upto} {target:?}: {score:?}, wanted {want}", folder.display());
            assert_eq!(score.greedy, greedy, "{} {upto} {target:?}", folder.display());
            cases += 1;
            hits += usize::from(greedy);
        }
    }
    assert!(cases > 100 && hits >= cases / 4, "{hits} of {cases} greedy");
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let model = Model::load(&Checkpoint::open(&golden_folders()[0]).unwrap()).unwrap();
    let refusal = |texts: &[Continuation<'_>]| model.score(texts).unwrap_err().to_string();
    assert_eq!(refusal(&[]), "token ids: no continuation to score");
    let none = Continuation { input: &[1, 2], target: &[] };
    assert_eq!(refusal(&[none]), "token ids: 2 tokens to predict 0 with");
    let long = Continuation { input: &[1], target: &[1, 2] };
    assert_eq!(refusal(&[long]), "token ids: 1 tokens to predict 2 with");
    let outside = Continuation { input: &[1 << 30], target: &[1] };
    assert!(refusal(&[outside]).contains("is outside the vocabulary"));
}
