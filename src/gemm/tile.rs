//! The two inner loops. [`run_tiles`]: a few rows by a few panels of columns, their sums in registers over one block
//! of k, for products of many rows. [`add_steps`]: a few steps of k added to the sums of a panel, which lie in the
//! first-level cache, for products of few rows. Nothing here knows shapes or threads.

#[cfg(feature = "std")]
use fearless_simd::Select;
use fearless_simd::{Simd, SimdBase, SimdFloat};

use super::GROUP;
use crate::float::{Compute, Float};
#[cfg(feature = "std")]
use crate::simd::{self, dispatch};
#[cfg(feature = "std")]
use crate::view::{Matrix, MatrixMut, Strip};

/// The most rows of a tile at any CPU level.
#[cfg(feature = "std")]
const MAX_ROWS: usize = 8;

/// The panels of a wide tile.
#[cfg(feature = "std")]
const WIDE: usize = 3;

/// The left operand and the sums of a run of tiles over one strip of panels.
#[cfg(feature = "std")]
#[derive(Debug)]
pub(crate) struct Run<'a, C> {
    /// Rows of equal tiles, their elements side by side.
    pub(crate) x: Matrix<'a, C>,
    /// The panels from the first on: each so many numbers after the other.
    pub(crate) panels: &'a [C],
    pub(crate) panel_len: usize,
    /// The sums of these rows, each as long as the strip is wide.
    pub(crate) sums: &'a mut [C],
    /// Whether this is the first block of k; the sums of later blocks are added to what is there.
    pub(crate) first: bool,
    /// What is done to sums that are complete, where that is little enough to do it in registers.
    pub(crate) store: Option<Store<'a, C>>,
}

/// Where complete sums go from the registers.
#[cfg(feature = "std")]
#[derive(Debug)]
pub(crate) struct Store<'a, C> {
    /// As many as the strip has columns.
    pub(crate) bias: &'a [C],
    pub(crate) relu: bool,
    /// The rows and columns of the tiles.
    pub(crate) out: MatrixMut<'a, C>,
}

/// How a CPU level cuts products whose compute type is `C` into tiles.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct TileSize {
    /// The most rows of a tile.
    pub(crate) rows: usize,
    /// Tiles of so many panels or of one.
    pub(crate) panels: usize,
}

#[cfg(feature = "std")]
impl TileSize {
    pub(crate) fn at<C: Compute>(level: simd::Level) -> Self {
        #[inline(always)]
        fn size<S: Simd, C: Compute>(_: S) -> TileSize {
            let vectors = const { vectors::<S, C>() };
            let rows = max_rows(vectors);
            TileSize { rows, panels: if fits(rows, WIDE, vectors) { WIDE } else { 1 } }
        }
        dispatch!(level, simd => size::<_, C>(simd))
    }
}

/// Multiplies tiles of `rows` rows by a strip of `panels` panels, at a CPU level. The numbers are those that
/// [`TileSize`] tells; rows may be as few as half.
#[cfg(feature = "std")]
pub(crate) fn run_tiles<C: Compute>(level: simd::Level, rows: usize, panels: usize, run: Run<'_, C>) {
    #[inline(always)]
    fn by_vectors<S: Simd, C: Compute>(simd: S, rows: usize, panels: usize, run: Run<'_, C>) {
        if const { vectors::<S, C>() == 1 } {
            choose::<S, C, 1>(simd, rows, panels, run);
        } else if const { vectors::<S, C>() == 2 } {
            choose::<S, C, 2>(simd, rows, panels, run);
        } else {
            choose::<S, C, 4>(simd, rows, panels, run);
        }
    }
    dispatch!(level, simd => by_vectors(simd, rows, panels, run));
}

/// How many vectors a panel is wide.
pub(crate) const fn vectors<S: Simd, C: Compute>() -> usize {
    super::panel_width::<C>() / C::Lanes::<S>::LEN
}

/// Calls [`tiles`] for the number of rows and panels; only what a level uses is compiled for it.
#[cfg(feature = "std")]
#[inline(always)]
fn choose<S: Simd, C: Compute, const V: usize>(simd: S, rows: usize, panels: usize, run: Run<'_, C>) {
    macro_rules! among {
        ($(($r:literal, $g:literal))*) => {
            match (rows, panels) {
                $(($r, $g) if const { fits($r, $g, V) } => tiles::<S, C, $r, $g, V>(simd, run),)*
                _ => {}
            }
        };
    }
    among!((1, 1)(2, 1)(3, 1)(4, 1)(5, 1)(6, 1)(7, 1)(8, 1)(4, 3)(5, 3)(6, 3)(7, 3)(8, 3));
}

/// Whether a tile is one of those that a level with `vectors` vectors a panel uses.
#[cfg(feature = "std")]
const fn fits(rows: usize, panels: usize, vectors: usize) -> bool {
    let most = max_rows(vectors);
    rows <= most && rows >= most.div_ceil(2) && (panels == 1 || most * panels * vectors <= simd::accumulators(vectors))
}

/// The most rows of a tile.
#[cfg(feature = "std")]
const fn max_rows(vectors: usize) -> usize {
    let rows = simd::accumulators(vectors) / vectors;
    if rows < 1 {
        1
    } else if rows > MAX_ROWS {
        MAX_ROWS
    } else {
        rows
    }
}

/// A function of its own, so that its loop has all registers.
#[cfg(feature = "std")]
#[inline(never)]
fn tiles<S: Simd, C: Compute, const R: usize, const G: usize, const V: usize>(simd: S, run: Run<'_, C>) {
    simd.vectorize(
        #[inline(always)]
        || tiles_here::<S, C, R, G, V>(simd, run),
    );
}

#[cfg(feature = "std")]
#[inline(always)]
fn tiles_here<S: Simd, C: Compute, const R: usize, const G: usize, const V: usize>(simd: S, run: Run<'_, C>) {
    let Run { x, panels, panel_len, sums, first, mut store } = run;
    let lanes = C::Lanes::<S>::LEN;
    let width = V * lanes;
    let mut parts: [&[C]; G] = [&[]; G];
    for (index, part) in parts.iter_mut().enumerate() {
        *part = panels.get(index * panel_len..).unwrap_or(&[]);
    }
    let Some(strip) = Strip::packed(parts, x.cols(), width) else { return };
    let keep = store.is_none();
    for row in (0..x.rows()).step_by(R) {
        let mut tile = [[[C::Lanes::<S>::splat(simd, C::ZERO); V]; G]; R];
        let target = sums.get_mut(row * G * width..(row + R) * G * width);
        if !first && let Some(target) = &target {
            for line in target.chunks(64 / size_of::<C>()) {
                simd::prefetch(line.as_ptr());
            }
        }
        strip.for_each(
            x,
            row,
            width,
            #[inline(always)]
            |values, panels| step::<S, C, R, G, V>(simd, values, panels, &mut tile),
        );
        if !first || keep {
            let Some(target) = target else { return };
            for r in 0..R {
                for g in 0..G {
                    for v in 0..V {
                        let start = (r * G + g) * width + v * lanes;
                        let target = &mut target[start..start + lanes];
                        if !first {
                            tile[r][g][v] = C::load(simd, target) + tile[r][g][v];
                        }
                        if keep {
                            C::store::<S>(tile[r][g][v], target);
                        }
                    }
                }
            }
        }
        if let Some(Store { bias, relu, out }) = &mut store {
            let Some(bias) = bias.get(..G * width) else { return };
            let zero = C::Lanes::<S>::splat(simd, C::ZERO);
            for r in 0..R {
                let Some(target) = out.row_mut(row + r).and_then(|row| row.get_mut(..G * width)) else { return };
                for g in 0..G {
                    for v in 0..V {
                        let place = g * width + v * lanes..g * width + (v + 1) * lanes;
                        let value = tile[r][g][v] + C::load(simd, &bias[place.clone()]);
                        let value = if *relu { value.simd_le(zero).select(zero, value) } else { value };
                        C::store::<S>(value, &mut target[place]);
                    }
                }
            }
        }
    }
}

/// One step of k.
#[cfg(feature = "std")]
#[inline(always)]
fn step<S: Simd, C: Compute, const R: usize, const G: usize, const V: usize>(
    simd: S,
    values: [&C; R],
    panels: [&[C]; G],
    tile: &mut [[[C::Lanes<S>; V]; G]; R],
) {
    let lanes = C::Lanes::<S>::LEN;
    let mut columns = [[C::Lanes::<S>::splat(simd, C::ZERO); V]; G];
    for g in 0..G {
        for v in 0..V {
            columns[g][v] = C::load(simd, &panels[g][v * lanes..(v + 1) * lanes]);
        }
    }
    for r in 0..R {
        let value = C::Lanes::<S>::splat(simd, *values[r]);
        for g in 0..G {
            for v in 0..V {
                tile[r][g][v] = value.mul_add(columns[g][v], tile[r][g][v]);
            }
        }
    }
}

/// Adds up to [`GROUP`] steps of k to the sums of one panel, `V` vectors wide: `parts` are the steps' elements of the
/// panel, each exactly as long as it is wide, `values` each row's elements for these steps, and `sums` the rows' sums, one after the other.
#[inline(always)]
pub(crate) fn add_steps<S: Simd, C: Compute, W: Float<Acc = C>, const V: usize>(
    simd: S,
    parts: [&[W]; GROUP],
    count: usize,
    values: &[[C; GROUP]],
    sums: &mut [C],
) {
    // The columns of several steps stay in registers while rows pass: as many as 16 registers allow.
    match (count, V) {
        (GROUP, ..=2) => add::<S, C, W, GROUP, V>(simd, parts, 0, values, sums),
        (GROUP, _) => {
            add::<S, C, W, 2, V>(simd, parts, 0, values, sums);
            add::<S, C, W, 2, V>(simd, parts, 2, values, sums);
        }
        _ => {
            for step in 0..count {
                add::<S, C, W, 1, V>(simd, parts, step, values, sums);
            }
        }
    }
}

#[inline(always)]
fn add<S: Simd, C: Compute, W: Float<Acc = C>, const K: usize, const V: usize>(
    simd: S,
    parts: [&[W]; GROUP],
    start: usize,
    values: &[[C; GROUP]],
    sums: &mut [C],
) {
    let lanes = C::Lanes::<S>::LEN;
    let mut columns = [[C::Lanes::<S>::splat(simd, C::ZERO); V]; K];
    for (step, columns) in columns.iter_mut().enumerate() {
        let Some(part) = parts.get(start + step).and_then(|part| part.get(..V * lanes)) else { return };
        for v in 0..V {
            columns[v] = W::load(simd, &part[v * lanes..(v + 1) * lanes]);
        }
    }
    // Several rows in step, so that multiplications need not wait for each other.
    let together = (4 / V).max(1);
    let mut rows = values.chunks_exact(together);
    let mut targets = sums.chunks_exact_mut(together * V * lanes);
    for (values, sums) in rows.by_ref().zip(targets.by_ref()) {
        add_to_rows::<S, C, K, V>(simd, &columns, start, together, values, sums);
    }
    for (values, sums) in rows.remainder().chunks_exact(1).zip(targets.into_remainder().chunks_exact_mut(V * lanes)) {
        add_to_rows::<S, C, K, V>(simd, &columns, start, 1, values, sums);
    }
}

/// The steps from `start` on of a group, for so many rows, at most 4.
#[inline(always)]
fn add_to_rows<S: Simd, C: Compute, const K: usize, const V: usize>(
    simd: S,
    columns: &[[C::Lanes<S>; V]; K],
    start: usize,
    rows: usize,
    values: &[[C; GROUP]],
    sums: &mut [C],
) {
    let lanes = C::Lanes::<S>::LEN;
    let mut tile = [[C::Lanes::<S>::splat(simd, C::ZERO); V]; 4];
    for row in 0..rows {
        for v in 0..V {
            tile[row][v] = C::load(simd, &sums[(row * V + v) * lanes..(row * V + v + 1) * lanes]);
        }
    }
    for step in 0..K {
        for row in 0..rows {
            let value = C::Lanes::<S>::splat(simd, values[row][start + step]);
            for v in 0..V {
                tile[row][v] = value.mul_add(columns[step][v], tile[row][v]);
            }
        }
    }
    for row in 0..rows {
        for v in 0..V {
            C::store::<S>(tile[row][v], &mut sums[(row * V + v) * lanes..(row * V + v + 1) * lanes]);
        }
    }
}
