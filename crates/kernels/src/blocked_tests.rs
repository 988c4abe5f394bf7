use taper_base::rng::{normal, stream};

use super::*;

/// `rows · columns` values in lines that lie a little apart, and that distance.
fn random(rows: usize, columns: usize, name: &str) -> (Vec<f32>, usize) {
    let stride = columns + 3;
    let mut rng = stream(9, name, rows as u64, columns as u64);
    ((0..rows * stride).map(|_| normal(&mut rng) as f32).collect(), stride)
}

/// Every vector there is here, and none.
fn machines() -> Vec<Arch> {
    let mut all = vec![Arch::new(), Arch::Scalar];
    #[cfg(target_arch = "x86_64")]
    all.extend(pulp::x86::V3::try_new().map(Arch::V3));
    all
}

/// Rows, terms, columns: less than a tile, whole tiles, one more; one block of terms and several; more columns than are
/// packed at once.
const SHAPES: [[usize; 3]; 9] = [
    [1, 1, 1],
    [14, 4, 32],
    [15, 5, 33],
    [13, DEPTH, 31],
    [29, DEPTH + 1, 3],
    [3, 2 * DEPTH + 7, 70],
    [57, 30, COLUMNS + 5],
    [130, 19, NEAR + 1],
    [2, 0, 5],
];

#[test]
fn every_way_round_is_the_sum_of_products() {
    for [m, k, n] in SHAPES {
        for (turn_a, turn_b, add) in
            [(false, false, false), (false, true, true), (true, false, true), (true, true, false)]
        {
            let side = |turned: bool, rows, columns, name| match turned {
                true => random(columns, rows, name),
                false => random(rows, columns, name),
            };
            let ((a, a_stride), (b, b_stride)) = (side(turn_a, m, k, "a"), side(turn_b, k, n, "b"));
            let (before, stride) = random(m, n, "out");
            let mut out = before.clone();
            let (a_view, b_view) = (
                if turn_a { View::new(&a, [k, m], a_stride).t() } else { View::new(&a, [m, k], a_stride) },
                if turn_b { View::new(&b, [n, k], b_stride).t() } else { View::new(&b, [k, n], b_stride) },
            );
            let onto = if add { Onto::There } else { Onto::Nothing };
            multiply(Arch::new(), Out { values: &mut out, stride, onto }, a_view, b_view);
            let mut alone = before.clone();
            multiply_alone(Arch::new(), Out { values: &mut alone, stride, onto }, 1.0, a_view, b_view);
            assert_eq!(alone, out, "{m} {k} {n}: on one thread");
            let entry = |row: usize, column: usize| {
                let of = |values: &[f32], stride, turned, row: usize, column: usize| {
                    f64::from(if turned { values[column * stride + row] } else { values[row * stride + column] })
                };
                let terms = (0..k).map(|i| of(&a, a_stride, turn_a, row, i) * of(&b, b_stride, turn_b, i, column));
                terms.sum::<f64>() + if add { f64::from(before[row * stride + column]) } else { 0.0 }
            };
            for (index, (got, before)) in out.iter().zip(&before).enumerate() {
                let (row, column) = (index / stride, index % stride);
                if column >= n {
                    assert_eq!(got, before, "{m} {k} {n}: beside row {row}");
                } else {
                    let want = entry(row, column);
                    let far = (f64::from(*got) - want).abs();
                    assert!(
                        far <= 2e-6 * (1.0 + k as f64).sqrt() * 4.0,
                        "{m} {k} {n} at {row} {column}: {got}, not {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn bits_depend_on_neither_vectors_nor_threads() {
    for [m, k, n] in SHAPES {
        let ((a, a_stride), (b, b_stride)) = (random(m, k, "a"), random(n, k, "b"));
        let run = |machine, threads| {
            let mut out = vec![0.5_f32; m * n];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (a, b) = (View::new(&a, [m, k], a_stride), View::new(&b, [n, k], b_stride).t());
                multiply(machine, Out { values: &mut out, stride: n, onto: Onto::There }, a, b);
            });
            out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let want = run(Arch::new(), 1);
        for machine in machines() {
            for threads in [1, 3] {
                assert_eq!(run(machine, threads), want, "{m} {k} {n} on {machine:?}, {threads} threads");
            }
        }
    }
}

/// A product onto something given is that something and then the product, whole tiles or not, several blocks of terms or none.
#[test]
fn a_product_is_added_to_what_is_given() {
    for [m, k, n] in SHAPES {
        let ((a, a_stride), (b, b_stride)) = (random(m, k, "a"), random(k, n, "b"));
        let ((base, stride), (bias, _)) = (random(m, n, "base"), random(1, n, "bias"));
        let (a, b) = (View::new(&a, [m, k], a_stride), View::new(&b, [k, n], b_stride));
        for (bias, base) in [(Some(&bias), None), (None, Some(&base)), (Some(&bias), Some(&base)), (None, None)] {
            let mut want = vec![0.0; m * stride];
            for (row, want) in want.chunks_mut(stride).enumerate() {
                for (column, want) in want.iter_mut().enumerate().take(n) {
                    let bias = bias.map(|bias| bias[column]);
                    let base = base.map(|base| base[row * stride + column]);
                    *want = bias.zip(base).map(|(bias, base)| bias + base).or(bias).or(base).unwrap_or(0.0);
                }
            }
            multiply(Arch::new(), Out { values: &mut want, stride, onto: Onto::There }, a, b);
            let onto = Onto::Given(Given { bias: bias.map(|bias| &bias[..n]), base: base.map(|base| &base[..]) });
            let (mut got, mut alone) = (vec![f32::NAN; m * stride], vec![f32::NAN; m * stride]);
            multiply(Arch::new(), Out { values: &mut got, stride, onto }, a, b);
            multiply_alone(Arch::new(), Out { values: &mut alone, stride, onto }, 1.0, a, b);
            for (row, want) in want.chunks(stride).enumerate() {
                let at = row * stride..row * stride + n;
                assert_eq!((&got[at.clone()], &alone[at]), (&want[..n], &want[..n]), "{m} {k} {n}: row {row}");
            }
        }
    }
}

#[test]
fn a_factor_multiplies_the_product_alone() {
    let ((a, a_stride), (b, b_stride)) = (random(20, 2 * DEPTH, "a"), random(2 * DEPTH, 40, "b"));
    let (a, b) = (View::new(&a, [20, 2 * DEPTH], a_stride), View::new(&b, [2 * DEPTH, 40], b_stride));
    let product = |scale| {
        let mut out = vec![3.0_f32; 20 * 40];
        multiply_alone(Arch::new(), Out { values: &mut out, stride: 40, onto: Onto::There }, scale, a, b);
        out
    };
    for (one, half) in product(1.0).iter().zip(product(0.5)) {
        assert!((0.5 * (one - 3.0) - (half - 3.0)).abs() < 1e-4, "{one} {half}");
    }
}
