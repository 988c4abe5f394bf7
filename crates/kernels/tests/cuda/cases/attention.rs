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
    /// Where documents start, the same in each sequence.
    starts: &'static [u32],
    sight: Sight,
}

const fn case(kv_of: &'static [usize], n_kv_heads: usize, size: [usize; 3], window: Option<usize>) -> Case {
    Case { kv_of, n_kv_heads, size, window, starts: &[], sight: Sight::Causal }
}

const fn full(kv_of: &'static [usize], n_kv_heads: usize, size: [usize; 3]) -> Case {
    Case { sight: Sight::Full { queries: size[1] }, ..case(kv_of, n_kv_heads, size, None) }
}

const fn apart(starts: &'static [u32], case: Case) -> Case {
    Case { starts, ..case }
}

/// Tokens below, at and above the tiles (16, 32, 64, 128 rows); one token; one head; heads unevenly shared; a KV head that
/// nobody reads; windows inside a tile, over its edge, and as long as the sequence; documents of one token, that end inside
/// a tile and on its edge, with a window and without; widths of 16s beyond what one tile's registers hold.
const CASES: [Case; 16] = [
    case(&[0], 1, [1, 1, 16], None),
    case(&[0, 0, 1], 2, [2, 37, 16], None),
    case(&[1, 0], 2, [1, 130, 16], Some(50)),
    case(&[0], 1, [1, 64, 16], Some(1)),
    full(&[0, 1], 2, [1, 71, 16]),
    case(&[0, 2, 2], 3, [2, 19, 5], Some(8)),
    case(&[0, 0], 1, [1, 33, 64], Some(33)),
    case(&[0], 1, [1, 65, 128], None),
    case(&[0, 1, 1, 1], 2, [1, 259, 16], None),
    case(&[0, 0], 1, [1, 193, 64], Some(70)),
    full(&[0], 1, [1, 150, 80]),
    case(&[0], 1, [1, 70, 256], Some(40)),
    apart(&[1, 30, 64, 65, 128, 200], case(&[0, 1, 1], 2, [2, 210, 16], None)),
    apart(&[40, 100], case(&[0], 1, [1, 140, 16], Some(45))),
    apart(&[3, 17], case(&[0, 0], 1, [2, 40, 5], None)),
    apart(&[30], full(&[0], 1, [1, 70, 16])),
];

impl Case {
    /// The first token that each sees.
    fn first(&self) -> Option<Vec<u32>> {
        let [sequences, tokens, _] = self.size;
        let start = |token: u32| self.starts.iter().copied().rfind(|start| *start <= token).unwrap_or(0);
        (!self.starts.is_empty()).then(|| (0..sequences).flat_map(|_| (0..tokens as u32).map(start)).collect())
    }

    fn heads<'a>(&'a self, first: Option<&'a [u32]>) -> Heads<'a> {
        let [sequences, tokens, d_head] = self.size;
        Heads {
            sequences,
            tokens,
            d_head,
            kv_of: self.kv_of,
            n_kv_heads: self.n_kv_heads,
            window: self.window,
            first,
            sight: self.sight,
        }
    }

    fn given(&self, machine: &Gpu, name: &str, heads: usize, storage: Storage) -> Given {
        let [sequences, tokens, d_head] = self.size;
        given(machine, name, &[sequences * tokens, heads * d_head], storage)
    }

    fn name(&self) -> String {
        format!("{:?} {:?} {:?} {:?} {:?}", self.kv_of, self.size, self.window, self.starts, self.sight)
    }
}

/// Each case in both types, with its inputs and its reference.
fn each(machine: &Gpu, f: impl Fn(&Case, Storage, [&Given; 3], &Reference<'_>)) {
    for case in &CASES {
        for storage in super::BOTH {
            let (n, n_kv) = (case.kv_of.len(), case.n_kv_heads);
            let q = case.given(machine, "q", n, storage);
            let (k, v) = (case.given(machine, "k", n_kv, storage), case.given(machine, "v", n_kv, storage));
            let first = case.first();
            let reference = Reference { heads: case.heads(first.as_deref()), q: &q.values, k: &k.values, v: &v.values };
            f(case, storage, [&q, &k, &v], &reference);
        }
    }
}

pub fn forward(machine: &Gpu) {
    each(machine, |case, storage, [q, k, v], reference| {
        let got = attention(&q.array, &k.array, &v.array, reference.heads).unwrap();
        close(&format!("attention {}", case.name()), &got.out, &reference.forward(), storage);
    });
}

pub fn backward(machine: &Gpu) {
    each(machine, |case, storage, [q, k, v], reference| {
        let dout = case.given(machine, "dout", case.kv_of.len(), storage);
        let inputs = [&q.array, &k.array, &v.array];
        let attended = attention(inputs[0], inputs[1], inputs[2], reference.heads).unwrap();
        let got = attention_backward(inputs, reference.heads, &attended, &dout.array).unwrap();
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
    let first = |first: &[u32]| refusal(&x(2), Heads { first: Some(first), ..heads(&[0], 2) });
    assert_eq!(first(&[0, 0]), "attention: first has shape [2], wanted [3]");
    assert_eq!(first(&[0, 2, 2]), "attention: first has shape [2], wanted at most 1, the token that sees it");
    assert_eq!(first(&[0, 1, 0]), "attention: first has shape [0], wanted at least 1, that of the token before");
}
