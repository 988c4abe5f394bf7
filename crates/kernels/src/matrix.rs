//! Products of matrices inside slices: those of few rows by `gemm`, all others by [`blocked`], which is faster there
//! (docs/performance.md).

use crate::{blocked, simd};

/// Rows from which on a product is worth packing.
const MANY: usize = 17;

/// A matrix inside a slice.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    values: &'a [f32],
    shape: [usize; 2],
    stride: usize,
    turned: bool,
}

impl<'a> View<'a> {
    /// `shape` `[rows, columns]`, rows `stride` apart, from the start of `values`.
    pub(crate) fn new(values: &'a [f32], shape: [usize; 2], stride: usize) -> Self {
        Self { values, shape, stride, turned: false }
    }

    pub(crate) fn t(self) -> Self {
        let [rows, columns] = self.shape;
        Self { shape: [columns, rows], turned: !self.turned, ..self }
    }

    pub(crate) fn rows(&self) -> usize {
        self.shape[0]
    }

    pub(crate) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Whether columns, not rows, lie in one piece.
    pub(crate) fn turned(&self) -> bool {
        self.turned
    }

    /// Row `index`, or column if turned, and all that follows it.
    pub(crate) fn line(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.stride..]
    }

    /// Has entry `at` of line `index` brought near, if there is one, to be read.
    #[inline(always)]
    pub(crate) fn fetch(&self, index: usize, at: usize) {
        simd::fetch::<false>(self.values, index * self.stride + at);
    }

    /// All entries, row after row, of a matrix without gaps.
    pub(crate) fn values(&self) -> &'a [f32] {
        &self.values[..self.span()]
    }

    /// From row to row, and from column to column.
    fn strides(&self) -> [usize; 2] {
        if self.turned { [1, self.stride] } else { [self.stride, 1] }
    }

    fn span(&self) -> usize {
        span(self.shape, self.strides())
    }
}

fn span([rows, columns]: [usize; 2], [down, along]: [usize; 2]) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * down + (columns - 1) * along + 1 }
}

/// Where a product goes.
pub(crate) struct Out<'a> {
    /// From its first entry on.
    pub(crate) values: &'a mut [f32],
    /// Its rows lie this far apart.
    pub(crate) stride: usize,
    /// What it is added to.
    pub(crate) onto: Onto<'a>,
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub(crate) enum Onto<'a> {
    /// Nothing; what is there is not read.
    Nothing,
    /// What is there.
    There,
    /// What is given; what is there is not read.
    Given(Given<'a>),
}

/// A value for each column, and a matrix whose rows lie as far apart as the product's.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) base: Option<&'a [f32]>,
}

impl Given<'_> {
    /// From entry `at` on of the base, and column `column` on of the bias.
    #[inline(always)]
    pub(crate) fn from(self, at: usize, column: usize) -> Self {
        Self { bias: self.bias.map(|bias| &bias[column..]), base: self.base.map(|base| &base[at..]) }
    }
}

impl Out<'_> {
    /// Writes what a product is added to, `[rows, columns]`.
    pub(crate) fn begin(&mut self, [rows, columns]: [usize; 2]) {
        let Onto::Given(given) = self.onto else {
            if matches!(self.onto, Onto::Nothing) {
                self.values.chunks_mut(self.stride.max(1)).take(rows).for_each(|row| row[..columns].fill(0.0));
            }
            return;
        };
        for (index, row) in self.values.chunks_mut(self.stride.max(1)).take(rows).enumerate() {
            let (row, Given { bias, base }) = (&mut row[..columns], given.from(index * self.stride, 0));
            match (bias, base) {
                (Some(bias), Some(base)) => {
                    row.iter_mut().zip(bias).zip(base).for_each(|((out, bias), base)| *out = bias + base);
                }
                (Some(only), None) | (None, Some(only)) => row.copy_from_slice(&only[..columns]),
                (None, None) => row.fill(0.0),
            }
        }
    }
}

/// `out = scale · a · b`, added to what `out` says, on this thread.
///
/// # Panics
/// If a matrix reaches beyond its slice or the shapes do not chain: a fault of the caller, not of the data.
pub(crate) fn multiply(out: Out<'_>, scale: f32, a: View<'_>, b: View<'_>) {
    if a.rows() >= MANY {
        check(&out, a, b);
        return blocked::multiply_alone(pulp::Arch::new(), out, scale, a, b);
    }
    small(out, scale, a, b, gemm::Parallelism::None);
}

/// `out = a · b`, added to what `out` says, on all threads of the current pool. How many does not change a bit: each entry is
/// summed by one thread.
///
/// # Panics
/// As [`multiply`].
pub(crate) fn multiply_wide(out: Out<'_>, a: View<'_>, b: View<'_>) {
    if a.rows() >= MANY {
        check(&out, a, b);
        return blocked::multiply(pulp::Arch::new(), out, a, b);
    }
    let threads = match rayon::current_num_threads() {
        1 => gemm::Parallelism::None,
        threads => gemm::Parallelism::Rayon(threads),
    };
    small(out, 1.0, a, b, threads);
}

fn check(out: &Out<'_>, a: View<'_>, b: View<'_>) {
    let ([m, k], [also_k, n]) = (a.shape, b.shape);
    assert_eq!(k, also_k, "inner dimensions");
    assert!(out.stride >= n && out.values.len() >= span([m, n], [out.stride, 1]), "out");
    assert!(a.values.len() >= a.span() && b.values.len() >= b.span(), "operands");
    if let Onto::Given(Given { bias, base }) = out.onto {
        assert!(bias.is_none_or(|bias| bias.len() >= n), "bias");
        assert!(base.is_none_or(|base| base.len() >= span([m, n], [out.stride, 1])), "base");
    }
}

fn small(mut out: Out<'_>, scale: f32, a: View<'_>, b: View<'_>, threads: gemm::Parallelism) {
    check(&out, a, b);
    let add = !matches!(out.onto, Onto::Nothing);
    if add {
        out.begin([a.rows(), b.shape[1]]);
    }
    let Out { values: out, stride, .. } = out;
    let ([m, k], n, [a_strides, b_strides]) = (a.shape, b.shape[1], [a.strides(), b.strides()]);
    #[expect(unsafe_code, reason = "gemm takes pointers")]
    // SAFETY: the spans just checked bound every element that the three shape-stride pairs reach, `out` is borrowed
    // mutably and its elements are distinct (stride >= n), and f32 is one of gemm's types.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride as isize,
            add,
            a.values.as_ptr(),
            a_strides[1] as isize,
            a_strides[0] as isize,
            b.values.as_ptr(),
            b_strides[1] as isize,
            b_strides[0] as isize,
            1.0,
            scale,
            false,
            false,
            false,
            threads,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_with_strides_and_transposes_match_by_hand() {
        let a = [1.0, 2.0, 9.0, 3.0, 4.0, 9.0]; // [[1, 2], [3, 4]], rows 3 apart
        let a = View::new(&a, [2, 2], 3);
        let mut out = [1.0; 4];
        multiply(Out { values: &mut out, stride: 2, onto: Onto::Nothing }, 1.0, a, a);
        assert_eq!(out, [7.0, 10.0, 15.0, 22.0]);
        multiply(Out { values: &mut out, stride: 2, onto: Onto::There }, 2.0, a, a.t());
        assert_eq!(out, [7.0 + 10.0, 10.0 + 22.0, 15.0 + 22.0, 22.0 + 50.0]);
    }

    #[test]
    #[should_panic(expected = "operands")]
    fn a_view_beyond_its_slice_is_refused() {
        let a = [0.0; 3];
        let a = View::new(&a, [2, 2], 2);
        multiply(Out { values: &mut [0.0; 4], stride: 2, onto: Onto::Nothing }, 1.0, a, a);
    }
}
