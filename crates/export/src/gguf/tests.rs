use super::*;
use taper_arch::spec::example;
use taper_arch::{AttentionSpec, Family, MlpSpec};

#[test]
fn halves_become_pairs_in_each_head() {
    let rows: Vec<f32> = (0..16).map(|x| x as f32).collect(); // 2 heads of 4 rows of 2 values
    let wanted = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15];
    assert_eq!(pairs(&rows, 2, 4), wanted.map(|x| x as f32));
    assert_eq!(pairs(&[0.0, 1.0, 2.0, 3.0], 1, 4), [0.0, 2.0, 1.0, 3.0]);
}

#[test]
fn rules_say_which_architecture_holds_a_model_or_what_forbids_it() {
    let attention = |heads, kv| Some(AttentionSpec { n_heads: heads, n_kv_heads: kv, window: None });
    let block = |heads, kv, d_ff| BlockSpec { attention: attention(heads, kv), mlp: Some(MlpSpec { d_ff }) };
    let spec =
        |family, blocks: Vec<BlockSpec>| ModelSpec { family, blocks, qk_norm: family == Family::Qwen3, ..example() };
    let alike = vec![block(4, 2, 64); 3];
    let narrow = vec![block(2, 2, 64); 3];
    let mut differ = alike.clone();
    differ[1] = block(2, 1, 32);
    let mut headless = alike.clone();
    headless[0].attention = None;
    let mut later = alike.clone();
    later[1].attention = None;
    for (family, blocks, wanted) in [
        (Family::Llama, &alike, Ok(Arch::Llama)),
        (Family::Mistral, &alike, Ok(Arch::Llama)),
        (Family::Qwen2, &alike, Ok(Arch::Qwen2)),
        (Family::Qwen3, &alike, Ok(Arch::Qwen3)),
        (Family::Llama, &differ, Ok(Arch::Deci)),
        (Family::Qwen2, &differ, Ok(Arch::Deci)),
        (Family::Qwen2, &narrow, Ok(Arch::Deci)),
        (Family::Llama, &narrow, Ok(Arch::Llama)),
        (Family::Qwen3, &narrow, Ok(Arch::Qwen3)),
        (Family::Llama, &later, Ok(Arch::Deci)),
        (Family::Llama, &headless, Err("deci takes sizes from the first block's attention, and block 0 has none")),
        (Family::Qwen3, &differ, Err("openelm has no head of its own, and the model's is not tied")),
    ] {
        assert_eq!(Arch::of(&spec(family, blocks.clone())), wanted.map_err(str::to_owned), "{family:?}");
    }
    let tied = |blocks: &Vec<BlockSpec>| ModelSpec { tied_head: true, ..spec(Family::Qwen3, blocks.clone()) };
    assert_eq!(Arch::of(&tied(&differ)), Ok(Arch::OpenElm));
    let refusal = "openelm has an attention in every block, and block 1 has none";
    assert_eq!(Arch::of(&tied(&later)), Err(refusal.to_owned()));
    let mut windowed = alike;
    windowed[2].attention = Some(AttentionSpec { n_heads: 4, n_kv_heads: 2, window: Some(8) });
    assert!(Arch::of(&spec(Family::Mistral, windowed)).unwrap_err().starts_with("block 2 sees a window"));
}
