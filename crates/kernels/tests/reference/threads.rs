//! The same bits whatever the number of threads.

use taper_kernels::cpu::{
    attention, attention_backward, column_square_sums, cross_entropy, geglu_backward, layer_norm_parameter_gradients,
    rms_norm_weight_gradient, scatter_rows, square_sum,
};
use taper_kernels::{Gelu, Heads, Moments, Sight};

use super::*;

fn bits() -> Vec<u64> {
    let (x, y, ids) = (random("x", 0, &[301, 96]), random("y", 0, &[301, 96]), [3_u32, 5, 3, 250].repeat(80));
    let heads = Heads {
        sequences: 7,
        tokens: 43,
        d_head: 8,
        kv_of: &[0, 0, 1, 2],
        n_kv_heads: 3,
        window: None,
        first: None,
        sight: Sight::Causal,
    };
    let (q, kv) = (x.narrow(1, 0, 32).unwrap(), y.narrow(1, 0, 24).unwrap());
    let (q, kv) = (q.contiguous().unwrap(), kv.contiguous().unwrap());
    let attended = attention(&q, &kv, &kv, heads).unwrap();
    let moments = Moments::of_rows(&x, &y, &(0..301).collect::<Vec<_>>()).unwrap();
    let (losses, hidden) = cross_entropy(&x, &y, &ids[..301], &[0.5; 301], None).unwrap();
    let mut tensors = vec![
        rms_norm_weight_gradient(&x, 1e-5, &y).unwrap(),
        layer_norm_parameter_gradients(&x, 1e-5, &y).unwrap().0,
        scatter_rows(&ids[..301], &x, 251).unwrap(),
        geglu_backward(&x, &y, &y, Gelu::Exact).unwrap().0,
        attended.out.clone(),
        hidden,
    ];
    tensors.extend(attention_backward([&q, &kv, &kv], heads, &attended, &q).unwrap());
    let mut values: Vec<f64> = tensors.iter().flat_map(wide).collect();
    values.extend(column_square_sums(&x).unwrap());
    values.extend(losses.into_iter().map(f64::from));
    values.extend([square_sum(&x).unwrap(), moments.x, moments.xx, moments.xy]);
    values.into_iter().map(f64::to_bits).collect()
}

#[test]
fn threads_change_no_bit() {
    let with = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(bits);
    let one = with(1);
    assert!(one == with(2) && one == with(5));
}
