//! Products of large matrices, blocked for registers and caches as in Goto and van de Geijn, "Anatomy of
//! High-Performance Matrix Multiplication" (ACM TOMS 34(3), 2008), written once for all vectors by `pulp`.
//!
//! `b` is packed into panels, as wide as two vectors and [`DEPTH`] terms deep, and read from the second cache; of `a` a
//! few rows at a time are copied into the first. A tile of `out`, as many rows as the registers hold, is summed in
//! registers; while that runs, the tile itself and the next rows of `a` are fetched.
//!
//! An entry is the sum over blocks of terms, in order, each block summed term by term with fused multiply-adds. So its
//! bits depend on neither threads nor vectors nor its place.

use std::cell::RefCell;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::matrix::{Given, Onto, Out, View};
use crate::simd::{fetch, transposed};

/// Terms summed at once, at most.
const DEPTH: usize = 384;
/// Columns of `b` packed at once, at most.
const COLUMNS: usize = 1024;
/// Columns that some rows of `a` are multiplied with before the next rows: with [`DEPTH`], what the second cache holds.
const NEAR: usize = 512;
/// From one copied row of `a` to the next: no power of two, or all would want the same lines of the cache.
const STRIDE: usize = DEPTH + 16;
/// Vectors across a tile.
const VECTORS: usize = 2;
/// Rows of a tile, at most: with 32 registers, 28 sums, a row of `b` and an entry of `a`.
const HEIGHT: usize = 14;
/// The widest tile.
const WIDEST: usize = 2 * 16;
/// Values fetched at once.
const LINE: usize = 16;

/// Values that a product of many rows packs at once, at most.
pub const PACKED: usize = DEPTH * COLUMNS;

/// `out = a · b`, added to what `out` says, on all threads of the current pool. Shapes fit.
pub(crate) fn multiply(arch: Arch, mut out: Out<'_>, a: View<'_>, b: View<'_>) {
    let ([m, k], n) = (a.shape(), b.shape()[1]);
    if m == 0 || n == 0 || k == 0 {
        return out.begin([m, n]);
    }
    let Out { values, stride, onto } = out;
    let [height, width] = arch.dispatch(Tile);
    let deep = k.div_ceil(k.div_ceil(DEPTH));
    let threads = rayon::current_num_threads();
    let most = m.div_ceil(4 * threads).div_ceil(height).clamp(1, 8) * height; // rows of a task, before all get as many
    let tall = m.div_ceil(m.div_ceil(most).next_multiple_of(threads));
    let mut packed = vec![0.0; deep * n.min(COLUMNS).next_multiple_of(width)];
    for left in (0..n).step_by(COLUMNS) {
        let columns = COLUMNS.min(n - left);
        for start in (0..k).step_by(deep) {
            let depth = deep.min(k - start);
            let packed = &mut packed[..columns.next_multiple_of(width) * depth];
            packed.par_chunks_mut(width * depth).enumerate().for_each(|(panel, out)| {
                arch.dispatch(Panel { b, start, first: left + panel * width, width, out });
            });
            values.par_chunks_mut(tall * stride).take(m.div_ceil(tall)).enumerate().for_each(|(index, out)| {
                let top = index * tall;
                let onto = part_of(onto, start, top * stride);
                let rows = tall.min(m - top);
                let scale = 1.0;
                arch.dispatch(Strip { out, stride, onto, scale, a, top, rows, start, depth, packed, left, columns });
            });
        }
    }
}

thread_local! {
    /// What [`multiply_alone`] packs into.
    static ROOM: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `out = scale · a · b`, added to what `out` says, on this thread. Shapes fit.
pub(crate) fn multiply_alone(arch: Arch, mut out: Out<'_>, scale: f32, a: View<'_>, b: View<'_>) {
    let ([rows, k], n) = (a.shape(), b.shape()[1]);
    if rows == 0 || n == 0 || k == 0 {
        return out.begin([rows, n]);
    }
    let Out { values, stride, onto } = out;
    let [_, width] = arch.dispatch(Tile);
    let deep = k.div_ceil(k.div_ceil(DEPTH));
    ROOM.with_borrow_mut(|room| {
        let size = deep * n.min(COLUMNS).next_multiple_of(width);
        room.resize(room.len().max(size), 0.0);
        for left in (0..n).step_by(COLUMNS) {
            let columns = COLUMNS.min(n - left);
            for start in (0..k).step_by(deep) {
                let depth = deep.min(k - start);
                let packed = &mut room[..columns.next_multiple_of(width) * depth];
                for (panel, out) in packed.chunks_mut(width * depth).enumerate() {
                    arch.dispatch(Panel { b, start, first: left + panel * width, width, out });
                }
                let (onto, top, out) = (part_of(onto, start, 0), 0, &mut *values);
                arch.dispatch(Strip { out, stride, onto, scale, a, top, rows, start, depth, packed, left, columns });
            }
        }
    });
}

/// What the terms from `start` on are added to, in the rows from entry `at` on.
fn part_of(onto: Onto<'_>, start: usize, at: usize) -> Onto<'_> {
    match onto {
        _ if start > 0 => Onto::There,
        Onto::Given(given) => Onto::Given(given.from(at, 0)),
        other => other,
    }
}

/// Terms `start..` of the columns from `first` on as `[terms, width]`; columns that are not there are zero.
struct Panel<'a> {
    b: View<'a>,
    start: usize,
    first: usize,
    width: usize,
    out: &'a mut [f32],
}

impl WithSimd for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { b, start, first, width, out } = self;
        let here = width.min(b.shape()[1] - first);
        if here < width {
            out.fill(0.0);
        }
        if b.turned() {
            return turn(b, start, first..first + here, width, out);
        }
        for (term, out) in out.chunks_mut(width).enumerate() {
            let line = &b.line(start + term)[first..];
            match (out.first_chunk_mut::<WIDEST>(), line.first_chunk::<WIDEST>()) {
                (Some(out), Some(line)) if here == WIDEST => *out = *line, // without a call
                _ => out[..here].copy_from_slice(&line[..here]),
            }
        }
    }
}

/// Columns that lie in one piece each, into a panel: a few terms of all columns at a time, which the first cache holds.
#[inline(always)]
fn turn(b: View<'_>, start: usize, columns: std::ops::Range<usize>, width: usize, out: &mut [f32]) {
    const SIDE: usize = 4;
    let whole = columns.len() / SIDE * SIDE;
    for (part, out) in out.chunks_mut(LINE * width).enumerate() {
        let (start, depth) = (start + part * LINE, out.len() / width);
        let line = |column: usize| &b.line(columns.start + column)[start..start + depth];
        for column in (0..whole).step_by(SIDE) {
            (0..SIDE).for_each(|side| b.fetch(columns.start + width + column + side, start)); // the next panel's
            let lines: [&[f32]; SIDE] = std::array::from_fn(|side| line(column + side));
            let pieces = lines.map(|line| line.as_chunks::<SIDE>().0);
            for piece in 0..depth / SIDE {
                let block = &mut out[piece * SIDE * width + column..][..(SIDE - 1) * width + SIDE];
                for (row, values) in transposed(pieces.map(|pieces| pieces[piece])).into_iter().enumerate() {
                    block[row * width..][..SIDE].copy_from_slice(&values);
                }
            }
            for term in depth / SIDE * SIDE..depth {
                lines.iter().zip(&mut out[term * width + column..]).for_each(|(line, out)| *out = line[term]);
            }
        }
        for column in whole..columns.len() {
            line(column).iter().zip(out.chunks_mut(width)).for_each(|(x, out)| out[column] = *x);
        }
    }
}

/// Height and width of a tile.
struct Tile;

impl WithSimd for Tile {
    type Output = [usize; 2];

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> [usize; 2] {
        [height::<S>(), VECTORS * S::F32_LANES]
    }
}

#[inline(always)]
const fn height<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { HEIGHT } else { 6 }
}

/// Some rows of `out`, all packed columns, one block of terms.
struct Strip<'a> {
    /// From row `top` on.
    out: &'a mut [f32],
    stride: usize,
    onto: Onto<'a>,
    scale: f32,
    a: View<'a>,
    top: usize,
    rows: usize,
    /// The first term.
    start: usize,
    depth: usize,
    packed: &'a [f32],
    /// The first packed column.
    left: usize,
    columns: usize,
}

impl WithSimd for Strip<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut copy = [0.0; HEIGHT * STRIDE];
        let panels = self.rows.div_ceil(height::<S>());
        for left in (0..self.columns).step_by(NEAR) {
            let columns = left..self.columns.min(left + NEAR);
            for panel in 0..panels {
                let (row, end) = (panel * self.rows / panels, (panel + 1) * self.rows / panels);
                let (copy, columns) = (&mut copy, columns.clone());
                match end - row {
                    1 => self.panel::<S, 1>(simd, copy, row, columns),
                    2 => self.panel::<S, 2>(simd, copy, row, columns),
                    3 => self.panel::<S, 3>(simd, copy, row, columns),
                    4 => self.panel::<S, 4>(simd, copy, row, columns),
                    5 => self.panel::<S, 5>(simd, copy, row, columns),
                    6 => self.panel::<S, 6>(simd, copy, row, columns),
                    7 => self.panel::<S, 7>(simd, copy, row, columns),
                    8 => self.panel::<S, 8>(simd, copy, row, columns),
                    9 => self.panel::<S, 9>(simd, copy, row, columns),
                    10 => self.panel::<S, 10>(simd, copy, row, columns),
                    11 => self.panel::<S, 11>(simd, copy, row, columns),
                    12 => self.panel::<S, 12>(simd, copy, row, columns),
                    13 => self.panel::<S, 13>(simd, copy, row, columns),
                    _ => self.panel::<S, HEIGHT>(simd, copy, row, columns),
                }
            }
        }
    }
}

impl Strip<'_> {
    /// `M` rows from `row` on, times `columns`.
    #[inline(always)]
    fn panel<S: Simd, const M: usize>(
        &mut self,
        simd: S,
        copy: &mut [f32; HEIGHT * STRIDE],
        row: usize,
        columns: std::ops::Range<usize>,
    ) {
        if M > height::<S>() {
            return; // never: no machine's code for it is made
        }
        let (start, depth) = (self.start, self.depth);
        if self.a.turned() {
            let (copy, from) = (copy.as_chunks_mut::<HEIGHT>().0, self.top + row);
            for (term, out) in copy.iter_mut().take(depth).enumerate() {
                out[..M].copy_from_slice(&self.a.line(start + term)[from..from + M]);
            }
            self.tiles::<S, M>(simd, row, columns, |row, term| copy[term][row]);
        } else {
            let copy = copy.as_chunks_mut::<STRIDE>().0;
            for (out, line) in copy.iter_mut().zip(self.top + row..self.top + row + M) {
                out[..depth].copy_from_slice(&self.a.line(line)[start..start + depth]);
            }
            let Some(copy) = copy.first_chunk::<M>() else { return };
            self.tiles::<S, M>(simd, row, columns, |row, term| copy[row][term]);
        }
    }

    #[inline(always)]
    fn tiles<S: Simd, const M: usize>(
        &mut self,
        simd: S,
        row: usize,
        columns: std::ops::Range<usize>,
        a: impl Fn(usize, usize) -> f32,
    ) {
        let (width, stride, first) = (VECTORS * S::F32_LANES, self.stride, columns.start);
        for column in columns.clone().step_by(width) {
            let here = width.min(columns.end - column);
            let panel = &self.packed[column * self.depth..][..width * self.depth];
            let at = row * stride + self.left + column;
            let part = self.start + (column - first) / width * LINE; // every tile fetches a line of each of the next rows
            let ahead = |step: usize| {
                fetch::<true>(self.out, at + step * stride);
                fetch::<true>(self.out, at + step * stride + S::F32_LANES);
                if !self.a.turned() && part < self.start + self.depth {
                    self.a.fetch(self.top + row + M + step, part);
                }
            };
            let sums = tile::<S, M>(simd, self.depth, &a, panel, ahead);
            let (onto, scale) = (self.onto, simd.splat_f32s(self.scale));
            for ((row, sums), out) in sums.into_iter().enumerate().zip(self.out[at..].chunks_mut(stride)) {
                let sums = sums.map(|sum| simd.mul_f32s(sum, scale));
                let onto = match onto {
                    Onto::Given(given) => Onto::Given(given.from(at + row * stride, self.left + column)),
                    other => other,
                };
                put(simd, sums, &mut out[..here], onto);
            }
        }
    }
}

/// `Σ a(row, term) · b[term]`; `ahead` is called for each row, spread over the terms.
#[inline(always)]
fn tile<S: Simd, const M: usize>(
    simd: S,
    depth: usize,
    a: &impl Fn(usize, usize) -> f32,
    b: &[f32],
    ahead: impl Fn(usize),
) -> [[S::f32s; VECTORS]; M] {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; M];
    let b = &S::as_simd_f32s(b).0.as_chunks::<VECTORS>().0[..depth];
    let mut term = 0;
    for step in 0..=M {
        let end = if step < M { (step + 1) * (depth / M) } else { depth };
        if step < M {
            ahead(step);
        }
        while term < end {
            let b = b[term];
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = simd.splat_f32s(a(row, term));
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = simd.mul_add_f32s(a, b, *sum);
                }
            }
            term += 1;
        }
    }
    sums
}

/// A row of a tile into `out`, which may be narrower.
#[inline(always)]
fn put<S: Simd>(simd: S, sums: [S::f32s; VECTORS], out: &mut [f32], onto: Onto<'_>) {
    let here = out.len();
    if here == VECTORS * S::F32_LANES {
        let before = match onto {
            Onto::Nothing => None,
            Onto::There => Some(vectors(simd, out)),
            Onto::Given(Given { bias, base }) => {
                let [bias, base] = [bias, base].map(|given| given.map(|given| vectors(simd, &given[..here])));
                bias.zip(base).map(|(bias, base)| sum(simd, bias, base)).or(bias).or(base)
            }
        };
        let sums = before.map_or(sums, |before| sum(simd, before, sums));
        S::as_mut_simd_f32s(out).0.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum);
    } else {
        let mut row = [0.0; WIDEST];
        S::as_mut_simd_f32s(&mut row).0.iter_mut().zip(sums).for_each(|(row, sum)| *row = sum);
        match onto {
            Onto::Nothing => return out.copy_from_slice(&row[..here]),
            onto => Out { values: out, stride: here, onto }.begin([1, here]),
        }
        out.iter_mut().zip(row).for_each(|(out, sum)| *out += sum);
    }
}

#[inline(always)]
fn vectors<S: Simd>(simd: S, values: &[f32]) -> [S::f32s; VECTORS] {
    let values = S::as_simd_f32s(values).0;
    std::array::from_fn(|index| values.get(index).copied().unwrap_or(simd.splat_f32s(0.0)))
}

#[inline(always)]
fn sum<S: Simd>(simd: S, a: [S::f32s; VECTORS], b: [S::f32s; VECTORS]) -> [S::f32s; VECTORS] {
    std::array::from_fn(|index| simd.add_f32s(a[index], b[index]))
}

#[cfg(test)]
#[path = "blocked_tests.rs"]
mod tests;
