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

    fn span(&self) -> usize {
        span(self.shape, self.strides)
    }
}

fn span([rows, columns]: [usize; 2], [down, along]: [usize; 2]) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * down + (columns - 1) * along + 1 }
}

/// `out = scale · a · b`, or `out += …` when `add`; `out`'s rows lie `stride` apart. One thread.
///
/// # Panics
/// If a matrix reaches beyond its slice or the shapes do not chain: a fault of the caller, not of the data.
pub(crate) fn multiply(out: &mut [f32], stride: usize, add: bool, scale: f32, a: View<'_>, b: View<'_>) {
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
            gemm::Parallelism::None,
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
        multiply(&mut out, 2, false, 1.0, a, a);
        assert_eq!(out, [7.0, 10.0, 15.0, 22.0]);
        multiply(&mut out, 2, true, 2.0, a, a.t());
        assert_eq!(out, [7.0 + 10.0, 10.0 + 22.0, 15.0 + 22.0, 22.0 + 50.0]);
    }

    #[test]
    #[should_panic(expected = "operands")]
    fn a_view_beyond_its_slice_is_refused() {
        let a = [0.0; 3];
        multiply(&mut [0.0; 4], 2, false, 1.0, View::new(&a, [2, 2], 2), View::new(&a, [2, 2], 2));
    }
}
