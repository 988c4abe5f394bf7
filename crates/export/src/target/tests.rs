use super::*;
use taper_arch::spec::example;
use taper_arch::{Architecture, AttentionSpec, BlockSpec, BudgetRange, Family, MlpSpec};
use taper_base::rng::stream;

/// Six blocks of 4 query heads in `kv` groups and 64 channels.
fn spec(family: Family, kv: usize, tied_head: bool) -> ModelSpec {
    let attention = Some(AttentionSpec { n_heads: 4, n_kv_heads: kv, window: None });
    let blocks = vec![BlockSpec { attention, mlp: Some(MlpSpec { d_ff: 64 }) }; 6];
    ModelSpec {
        family,
        blocks,
        tied_head,
        qk_norm: family == Family::Qwen3,
        qkv_bias: family == Family::Qwen2,
        ..example()
    }
}

fn specs() -> impl Iterator<Item = ModelSpec> {
    let families = [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3];
    let shapes = [(2, true), (2, false), (4, true), (4, false)];
    families.into_iter().flat_map(move |family| shapes.map(|(kv, tied)| spec(family, kv, tied)))
}

fn spaces() -> Vec<SearchSpace> {
    let all = SearchSpace { channels_multiple: 8, least_blocks: 0.3, ..SearchSpace::default() };
    vec![
        all,
        SearchSpace { tied_depth: true, ..all },
        SearchSpace { groups: Some(true), ..all },
        SearchSpace { heads: false, groups: Some(false), ..all },
        SearchSpace { drop_mlp: false, ..all },
        SearchSpace { heads: false, drop_attention: false, ..all },
    ]
}

/// As saved: blocks without halves are dropped.
fn saved(spec: &ModelSpec, arch: &Architecture) -> ModelSpec {
    let mut cut = arch.apply(spec).unwrap();
    cut.blocks.retain(|block| block.attention.is_some() || block.mlp.is_some());
    cut
}

#[test]
fn whatever_a_narrowed_space_holds_its_engines_load() {
    let targets: Vec<Target> = ["vllm", "llama.cpp", "transformers"].map(|name| name.parse().unwrap()).into();
    let (mut drawn, mut refused_before) = (0, 0);
    for spec in specs() {
        for space in spaces() {
            for chosen in [&targets[..], &targets[..1], &targets[1..2]] {
                let mut narrow = space;
                for target in chosen {
                    target.narrow(&mut narrow, &spec).unwrap();
                }
                narrow.validate().unwrap();
                for seed in 0..12 {
                    let range = BudgetRange { counted: Default::default(), least: 0, most: u64::MAX };
                    let mut rng = stream(seed, "narrowed", 0, 0);
                    let arch = narrow.random(&spec, range, &mut rng).unwrap();
                    narrow.contains(&spec, &arch).unwrap();
                    space.contains(&spec, &arch).unwrap();
                    let loads = |target: &Target| target.check(&saved(&spec, &arch), &Value::Null);
                    chosen.iter().for_each(|target| loads(target).unwrap());
                    drawn += 1;
                    let free = space.random(&spec, range, &mut stream(seed, "free", 0, 0)).unwrap();
                    let free = saved(&spec, &free);
                    let padded = crate::pad::padded(&free);
                    targets.iter().for_each(|target| target.check(&padded, &Value::Null).unwrap());
                    refused_before += usize::from(chosen.iter().any(|t| t.check(&free, &Value::Null).is_err()));
                }
            }
        }
    }
    assert!(drawn == 16 * 6 * 3 * 12 && refused_before > drawn / 10, "{refused_before} of {drawn}");
}

#[test]
fn what_is_taken_away_is_told_once() {
    let told = |target: &str, spec: &ModelSpec, mut space: SearchSpace| -> Vec<&'static str> {
        let target: Target = target.parse().unwrap();
        let first = target.narrow(&mut space, spec).unwrap();
        assert_eq!(target.narrow(&mut space, spec).unwrap(), []);
        first.into_iter().map(|narrowed| narrowed.set).collect()
    };
    let (all, none) = (SearchSpace::default(), [""; 0]);
    let depth = SearchSpace { heads: false, ..all };
    let (llama, tied, untied) =
        (spec(Family::Llama, 2, false), spec(Family::Qwen3, 2, true), spec(Family::Qwen3, 2, false));
    assert_eq!(told("transformers", &llama, all), none);
    assert_eq!(told("llama.cpp", &llama, all), ["drop_first_attention: false"]);
    assert_eq!(told("llama.cpp", &tied, all), ["drop_attention: false"]);
    assert_eq!(told("gguf:q4_k_m", &untied, all), ["heads: false", "width: false", "tied_depth: true"]);
    assert_eq!(told("vllm", &llama, all), ["drop_attention: false"]);
    assert_eq!(told("vllm", &llama, depth), ["drop_first_attention: false"]);
    assert_eq!(told("vllm", &tied, depth), ["drop_attention: false"]);
    assert_eq!(told("vllm", &llama, SearchSpace { tied_depth: true, ..all }), none);
    let mut cut = llama.clone();
    cut.blocks[3].attention = None;
    assert_eq!(told("vllm", &cut, all), ["heads: false", "drop_first_attention: false"]);
}

#[test]
fn a_model_that_the_engine_cannot_hold_at_all_is_refused() {
    let mut windowed = spec(Family::Mistral, 2, false);
    windowed.blocks[1].attention = Some(AttentionSpec { n_heads: 4, n_kv_heads: 2, window: Some(8) });
    let target: Target = "gguf:f16".parse().unwrap();
    let refusal = target.narrow(&mut SearchSpace::default(), &windowed).unwrap_err().to_string();
    assert!(refusal.starts_with("llama.cpp cannot hold this model: block 1 sees a window"), "{refusal}");
    assert!("trt".parse::<Target>().unwrap_err().contains("known: onnx, transformers, vllm, gguf:bf16"));
    let refusal = Target::Onnx.narrow(&mut SearchSpace::default(), &spec(Family::Llama, 2, true)).unwrap_err();
    assert!(refusal.to_string().starts_with("ONNX cannot hold this model: only classifiers of images"), "{refusal}");
}
