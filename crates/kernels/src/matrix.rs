//! Products of matrices inside slices. `gemm` because candle's matmul runs on it too and knows the machine's vectors.

/// A matrix inside a slice.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    values: &'a [f32],
    shape: [usize; 2],
    strides: [usize; 2],
}

impl<'a> View<'a> {
    /// `shape` `[rows, columns]`, rows `stride` apart, from the start of `values`.
    pub(crate) fn new(values: &'a [f32], shape: [usize; 2], stride: usize) -> Self {
        Self { values, shape, strides: [stride, 1] }
    }

    pub(crate) fn t(self) -> Self {
        let ([rows, columns], [down, along]) = (self.shape, self.strides);
        Self { values: self.values, shape: [columns, rows], strides: [along, down] }
    }

    pub(crate) fn rows(&self) -> usize {
        self.shape[0]
    }

    /// All entries, row after row, of a matrix without gaps.
    pub(crate) fn values(&self) -> &'a [f32] {
        &self.values[..self.span()]
    }

    fn span(&self) -> usize {
        span(self.shape, self.strides)
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
    /// Whether the product is added to what is there.
    pub(crate) add: bool,
}

/// `out = scale · a · b`, or `out += …`, on this thread.
///
/// # Panics
/// If a matrix reaches beyond its slice or the shapes do not chain: a fault of the caller, not of the data.
pub(crate) fn multiply(out: Out<'_>, scale: f32, a: View<'_>, b: View<'_>) {
    run(out, scale, a, b, gemm::Parallelism::None);
}

/// [`multiply`] on all threads of the current pool. How many does not change a bit: each entry is summed by one thread.
pub(crate) fn multiply_wide(out: Out<'_>, a: View<'_>, b: View<'_>) {
    let threads = match rayon::current_num_threads() {
        1 => gemm::Parallelism::None,
        threads => gemm::Parallelism::Rayon(threads),
    };
    run(out, 1.0, a, b, threads);
}

fn run(out: Out<'_>, scale: f32, a: View<'_>, b: View<'_>, threads: gemm::Parallelism) {
    let Out { values: out, stride, add } = out;
    let ([m, k], [also_k, n]) = (a.shape, b.shape);
    assert_eq!(k, also_k, "inner dimensions");
    assert!(stride >= n && out.len() >= span([m, n], [stride, 1]), "out");
    assert!(a.values.len() >= a.span() && b.values.len() >= b.span(), "operands");
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
            a.strides[1] as isize,
            a.strides[0] as isize,
            b.values.as_ptr(),
            b.strides[1] as isize,
            b.strides[0] as isize,
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
        multiply(Out { values: &mut out, stride: 2, add: false }, 1.0, a, a);
        assert_eq!(out, [7.0, 10.0, 15.0, 22.0]);
        multiply(Out { values: &mut out, stride: 2, add: true }, 2.0, a, a.t());
        assert_eq!(out, [7.0 + 10.0, 10.0 + 22.0, 15.0 + 22.0, 22.0 + 50.0]);
    }

    #[test]
    #[should_panic(expected = "operands")]
    fn a_view_beyond_its_slice_is_refused() {
        let a = [0.0; 3];
        let a = View::new(&a, [2, 2], 2);
        multiply(Out { values: &mut [0.0; 4], stride: 2, add: false }, 1.0, a, a);
    }
}
