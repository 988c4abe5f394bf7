use super::*;
use serde_json::json;

const VOCAB: usize = 10_000;

fn made(params: serde_json::Value) -> Box<dyn Corruptor> {
    (ENTRY.build)(&params).unwrap()
}

fn sequence<'a>(ids: &'a [u32], starts: &'a [usize], index: u64) -> Sequence<'a> {
    Sequence { ids, starts, vocab: VOCAB, seed: 3, index }
}

/// The document that an example was made of, of one whose sentinels are all above its tokens.
fn rebuilt(example: &Example, least: u32) -> Vec<u32> {
    let learnt = example.targets.iter().position(Option::is_some).unwrap() + 1;
    let (input, spans) = example.input.split_at(learnt);
    let span = |sentinel: u32| {
        let at = spans.iter().position(|id| *id == sentinel).unwrap() + 1;
        spans[at..].iter().copied().take_while(|id| *id < least).collect::<Vec<_>>()
    };
    input.iter().flat_map(|id| if *id >= least { span(*id) } else { vec![*id] }).collect()
}

#[test]
fn rates_spans_and_shares_are_nominal() {
    const N: usize = 512;
    for denoiser in DENOISERS {
        let (mut taken, mut spans, mut edges) = (0, 0, 0);
        for draw in 0..10_000 {
            let found = denoiser.spans(N, &mut stream(1, "test", draw, 0));
            taken += found.iter().map(|[start, end]| end - start).sum::<usize>();
            spans += found.len();
            assert!(found.windows(2).all(|pair| pair[0][1] < pair[1][0]) && found[0][0] > 0, "{found:?}");
            edges += usize::from(found[found.len() - 1][1] == N);
        }
        let rate = taken as f64 / (10_000 * N) as f64;
        assert!((rate - denoiser.rate).abs() < 0.01 * denoiser.rate + 0.0015, "{denoiser:?} {rate}");
        assert_eq!(edges, 10_000);
        if denoiser.mode != Mode::Prefix {
            let mean = taken as f64 / spans as f64;
            assert!((mean / denoiser.span - 1.0).abs() < 0.21, "{denoiser:?} {mean}"); // 77 tokens are one span of 64, or two
            if denoiser.span < 64.0 {
                assert!((mean / denoiser.span - 1.0).abs() < 0.05, "{denoiser:?} {mean}");
            }
        }
    }
    let mut counts = [0_u32; 7];
    for draw in 0..10_000 {
        let drawn = Denoiser::drawn(&mut stream(2, "test", draw, 0));
        counts[DENOISERS.iter().position(|one| *one == drawn).unwrap()] += 1;
    }
    let chi: f64 = counts
        .iter()
        .zip(DENOISERS)
        .map(|(n, one)| (f64::from(*n) - 1e4 * one.share).powi(2) / (1e4 * one.share))
        .sum();
    assert!(chi < 22.5, "{chi} {counts:?}"); // 6 degrees of freedom, p = .001
}

#[test]
fn input_and_spans_are_the_document_and_nothing_else_is_learnt() {
    let made = made(json!({}));
    for index in 0..500 {
        let ids: Vec<u32> = (0..200).collect();
        let example = made.example(sequence(&ids, &[], index), true);
        assert!(example.input.len() <= ids.len() && example.input.len() >= ids.len() - 2, "{}", example.input.len());
        let found = rebuilt(&example, 5000);
        assert_eq!(found, ids[..found.len()]);
        // what a place is to predict is the token after it, from the first sentinel of the spans on
        let from = example.targets.iter().position(Option::is_some).unwrap();
        let learnt: Vec<u32> = example.targets[from..example.targets.len() - 1].iter().map(|id| id.unwrap()).collect();
        assert_eq!(learnt, example.input[from + 1..]);
        assert_eq!(example.targets.last(), Some(&None));
        let sentinels: Vec<u32> = learnt.into_iter().filter(|id| *id >= 5000).collect();
        let wanted: Vec<u32> = (0..sentinels.len() as u32).map(|i| VOCAB as u32 - 1 - i).collect();
        assert_eq!(sentinels, wanted);
        assert_eq!(example.input[..=from].iter().filter(|id| **id >= 5000).count(), sentinels.len());
    }
}

#[test]
fn documents_are_apart_if_that_is_wanted() {
    let (made, ids) = (made(json!({"sentinels": 9000, "modes": [1, 2, 3]})), Vec::from_iter(100..200));
    let example = made.example(sequence(&ids, &[40, 41], 7), true);
    let end = example.first.iter().position(|first| *first > 0).unwrap();
    assert!(example.first[..end].iter().all(|first| *first == 0));
    assert!(example.first[end..].iter().all(|first| *first as usize == end), "one token is no document");
    assert!([1, 2, 3].contains(&example.input[0]) && [1, 2, 3].contains(&example.input[end]));
    assert!(example.input.contains(&9000));
    let together = made.example(sequence(&ids, &[40, 41], 7), false);
    assert!(together.first.iter().all(|first| *first == 0));
    assert_eq!((&together.input, &together.targets), (&example.input, &example.targets));
    assert_ne!(made.example(sequence(&ids, &[40, 41], 8), true), example, "another sequence, other spans");
}

#[test]
fn what_cannot_be_taken_apart_is_left_out_and_modes_differ() {
    assert!(made(json!({})).example(sequence(&[5], &[], 0), true).input.is_empty());
    let refusal = (ENTRY.build)(&json!({"modes": [1, 1, 2]})).map(|_| ()).unwrap_err().to_string();
    assert_eq!(refusal, "ul2: modes are 1, 1 and 2, wanted three tokens that differ");
}
