use super::{Given, Gpu, close, given};
use crate::definitions::attention::Reference;
use taper_kernels::cuda::{Array, Storage, attention, attention_backward};
use taper_kernels::{Heads, Sight};

struct Case {
    kv_of: &'static [usize],
    n_kv_heads: usize,
    /// Sequences, tokens, d_head.
    size: [usize; 3],
    window: Option<usize>,
    sight: Sight,
}

/// Tokens below, at and above the tiles (16, 32, 64 rows); one token; one head; heads unevenly shared; a KV head that
/// nobody reads; windows inside a tile, over its edge, and as long as the sequence.
const CASES: [Case; 9] = [
    Case { kv_of: &[0], n_kv_heads: 1, size: [1, 1, 16], window: None, sight: Sight::Causal },
    Case { kv_of: &[0, 0, 1], n_kv_heads: 2, size: [2, 37, 16], window: None, sight: Sight::Causal },
    Case { kv_of: &[1, 0], n_kv_heads: 2, size: [1, 130, 16], window: Some(50), sight: Sight::Causal },
    Case { kv_of: &[0], n_kv_heads: 1, size: [1, 64, 16], window: Some(1), sight: Sight::Causal },
    Case { kv_of: &[0, 1], n_kv_heads: 2, size: [1, 71, 16], window: None, sight: Sight::Full { queries: 71 } },
    Case { kv_of: &[0, 2, 2], n_kv_heads: 3, size: [2, 19, 5], window: Some(8), sight: Sight::Causal },
    Case { kv_of: &[0, 0], n_kv_heads: 1, size: [1, 33, 64], window: Some(33), sight: Sight::Causal },
    Case { kv_of: &[0], n_kv_heads: 1, size: [1, 70, 48], window: None, sight: Sight::Full { queries: 70 } },
    Case { kv_of: &[0], n_kv_heads: 1, size: [1, 65, 128], window: None, sight: Sight::Causal },
];

impl Case {
    fn heads(&self) -> Heads<'_> {
        let [sequences, tokens, d_head] = self.size;
        Heads {
            sequences,
            tokens,
            d_head,
            kv_of: self.kv_of,
            n_kv_heads: self.n_kv_heads,
            window: self.window,
            first: None,
            sight: self.sight,
        }
    }

    fn given(&self, machine: &Gpu, name: &str, heads: usize, storage: Storage) -> Given {
        let [sequences, tokens, d_head] = self.size;
        given(machine, name, &[sequences * tokens, heads * d_head], storage)
    }

    fn name(&self) -> String {
        format!("{:?} {:?} {:?} {:?}", self.kv_of, self.size, self.window, self.sight)
    }
}

/// Each case in both types, with its inputs and its reference.
fn each(machine: &Gpu, f: impl Fn(&Case, Storage, [&Given; 3], &Reference<'_>)) {
    for case in &CASES {
        for storage in super::BOTH {
            let (n, n_kv) = (case.kv_of.len(), case.n_kv_heads);
            let q = case.given(machine, "q", n, storage);
            let (k, v) = (case.given(machine, "k", n_kv, storage), case.given(machine, "v", n_kv, storage));
            let reference = Reference { heads: case.heads(), q: &q.values, k: &k.values, v: &v.values };
            f(case, storage, [&q, &k, &v], &reference);
        }
    }
}

pub fn forward(machine: &Gpu) {
    each(machine, |case, storage, [q, k, v], reference| {
        let got = attention(&q.array, &k.array, &v.array, case.heads()).unwrap();
        close(&format!("attention {}", case.name()), &got.out, &reference.forward(), storage);
    });
}

pub fn backward(machine: &Gpu) {
    each(machine, |case, storage, [q, k, v], reference| {
        let dout = case.given(machine, "dout", case.kv_of.len(), storage);
        let inputs = [&q.array, &k.array, &v.array];
        let attended = attention(inputs[0], inputs[1], inputs[2], case.heads()).unwrap();
        let got = attention_backward(inputs, case.heads(), &attended, &dout.array).unwrap();
        let want = reference.backward(&dout.values);
        for ((name, got), want) in ["dq", "dk", "dv"].into_iter().zip(&got).zip(&want) {
            let what = format!("{name} {}", case.name());
            if want.iter().all(|x| *x == 0.0) || case.window == Some(1) || case.size[1] == 1 {
                // One key: the weights are 1, and do not move with q and k.
                if name != "dv" {
                    let most = got.to_host().unwrap().into_iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                    assert!(most < if storage == Storage::F32 { 1e-5 } else { 0.1 }, "{what}: {most}");
                    continue;
                }
            }
            close(&what, got, want, storage);
        }
    });
}

pub fn arguments_are_checked(machine: &Gpu) {
    let x = |columns| Array::of(machine, &vec![0.0; 3 * columns], &[3, columns], Storage::F32).unwrap();
    let heads = |kv_of, d_head| Heads {
        sequences: 1,
        tokens: 3,
        d_head,
        kv_of,
        n_kv_heads: 1,
        window: None,
        first: None,
        sight: Sight::Causal,
    };
    let refusal = |q: &Array, heads: Heads<'_>| {
        let k = x(heads.d_head);
        attention(q, &k, &k, heads).unwrap_err().to_string()
    };
    assert_eq!(refusal(&x(4), heads(&[0], 2)), "attention: q has shape [3, 4], wanted [3, 2]");
    assert_eq!(refusal(&x(4), heads(&[0, 1], 2)), "attention: kv_of has shape [1], wanted KV heads below 1");
    assert_eq!(refusal(&x(300), heads(&[0], 300)), "attention: 300 is more than the 256 that d_head may be");
}
