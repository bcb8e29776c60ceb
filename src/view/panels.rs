//! Operands of the matrix product where they lie: panels for the register tile, squares for transposition.

use core::marker::PhantomData;
use core::ops::Range;
use core::slice;

use super::matrix::Matrix;
use crate::macros::bug;

/// As many elements of each of as many rows of a matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Square<'a, T> {
    start: *const T,
    stride: isize,
    side: usize,
    lifetime: PhantomData<&'a T>,
}

impl<'a, T: Copy> Matrix<'a, T> {
    /// The square that begins at a row and a column. `None` where it is not all in the matrix, or where rows are not
    /// contiguous.
    #[inline(always)]
    pub(crate) fn square(&self, row: usize, col: usize, side: usize) -> Option<Square<'a, T>> {
        let fits = row.checked_add(side)? <= self.rows && col.checked_add(side)? <= self.cols;
        (fits && self.has_contiguous_rows()).then(|| Square {
            start: self.offset(row, col),
            stride: self.row_stride,
            side,
            lifetime: PhantomData,
        })
    }
}

impl<'a, T> Square<'a, T> {
    /// One row. `side` must be the square's: it is passed again because here it is a constant.
    #[inline(always)]
    pub(crate) fn line(&self, index: usize, side: usize) -> &'a [T] {
        if index >= side || side != self.side {
            return bug!(&[]);
        }
        // SAFETY: `square` saw that so many elements of so many rows are in the matrix, side by side.
        unsafe { slice::from_raw_parts(self.start.offset(index as isize * self.stride), side) }
    }
}

/// The most rows of a tile that may read panels whose first or last is not in its place: see [`PanelGroup::of_rows`].
pub(crate) const MAX_MR_OVERLAPPING: usize = 4;

/// The right operand of a register tile: for each step of k, `width` elements side by side of each of `PANELS` panels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PanelGroup<'a, W> {
    start: *const W,
    panels: usize,
    steps: usize,
    /// The elements of a panel in a step.
    width: usize,
    /// From a panel to the next and from a step to the next.
    panel_stride: isize,
    step_stride: isize,
    /// How far behind its place the first panel begins, and how far before its own the last.
    overlap: (usize, usize),
    lifetime: PhantomData<&'a W>,
}

impl<'a, W: Copy> PanelGroup<'a, W> {
    /// Packed panels, each step's elements of which follow the former step's: (how many, from one to the next).
    /// `None` where there are not that many numbers.
    #[inline(always)]
    pub(crate) fn packed(
        numbers: &'a [W],
        (panels, panel_len): (usize, usize),
        steps: usize,
        width: usize,
    ) -> Option<Self> {
        let needed = panels.saturating_sub(1).checked_mul(panel_len)?.checked_add(steps.checked_mul(width)?)?;
        (panels > 0 && needed <= numbers.len()).then_some(Self {
            start: numbers.as_ptr(),
            panels,
            steps,
            width,
            panel_stride: panel_len as isize,
            step_stride: width as isize,
            overlap: (0, 0),
            lifetime: PhantomData,
        })
    }

    /// The rows of a matrix as steps, some of the panels of its columns, which begin `lead` columns before the first.
    /// Where that is none of the matrix a panel begins with the first, and where it would go beyond the last it ends
    /// with that. `None` where rows are not contiguous, or there are no such panels.
    #[inline(always)]
    pub(crate) fn of_rows(matrix: Matrix<'a, W>, width: usize, lead: usize, panels: Range<usize>) -> Option<Self> {
        let (begin, end) = (panels.start.checked_mul(width)?, panels.end.checked_mul(width)?);
        let begins_inside = lead < width && width <= matrix.cols && panels.start < panels.end;
        let ends_inside = end < matrix.cols.checked_add(lead)?.checked_add(width)?;
        (begins_inside && ends_inside && matrix.has_contiguous_rows()).then_some(Self {
            start: matrix.data.wrapping_add(begin).wrapping_sub(lead),
            panels: panels.len(),
            steps: matrix.rows,
            width,
            panel_stride: width as isize,
            step_stride: matrix.row_stride,
            overlap: (lead.saturating_sub(begin), end.saturating_sub(matrix.cols + lead)),
            lifetime: PhantomData,
        })
    }

    /// From a step's elements to those that will be needed soon, in bytes: `steps` later, or so many bytes in a packed
    /// panel.
    #[inline(always)]
    pub(crate) fn ahead(&self, steps: usize, bytes: isize) -> isize {
        if self.step_stride == self.width as isize {
            return bytes;
        }
        self.step_stride.wrapping_mul((steps * size_of::<W>()) as isize)
    }

    /// Where a panel's elements of the first step lie. It need not be one of the group's.
    #[inline(always)]
    pub(crate) fn address(&self, panel: usize) -> *const W {
        self.start.wrapping_offset(self.panel_stride.wrapping_mul(panel as isize))
    }

    /// Calls `body` for each step, in order, with the step's element of each of `MR` rows of `x`, from `row` on, the
    /// step's elements of each of the first `PANELS` panels, and `follow`, which goes on as their addresses do. False
    /// where it does not fit: too few rows or panels, another number of columns of `x` than there are steps, or rows
    /// that are not contiguous; for a group some of whose panels are not in their places, too, unless these are all of
    /// its panels and there are at most [`MAX_MR_OVERLAPPING`] rows. `width` must be the width that the group was made
    /// with: it is passed again because here it is a constant.
    #[inline(always)]
    pub(crate) fn for_each<'x, A: Copy, const MR: usize, const PANELS: usize>(
        self,
        x: Matrix<'x, A>,
        row: usize,
        width: usize,
        mut follow: *const W,
        mut body: impl FnMut([&'x A; MR], [&'a [W]; PANELS], *const W),
    ) -> bool {
        let may_overlap = MR <= MAX_MR_OVERLAPPING;
        let overlaps = self.overlap != (0, 0);
        if overlaps && !may_overlap {
            return false;
        }
        let is_whole = !may_overlap || PANELS == self.panels || !overlaps;
        // Without a sum, which may overflow.
        let has_rows = MR <= x.rows && row <= x.rows - MR;
        let fits = PANELS <= self.panels && is_whole && width == self.width && x.cols == self.steps && has_rows;
        if !fits || !x.has_contiguous_rows() {
            return false;
        }
        let mut rows = [x.data; MR];
        for (index, start) in rows.iter_mut().enumerate() {
            *start = x.offset(row + index, 0);
        }
        let mut start = self.start;
        // A single panel is the first and the last.
        let (first, last) = self.overlap;
        let (first, last) = if PANELS == 1 { (first.wrapping_sub(last), 0) } else { (first, last) };
        // Not a closure: one that changes `start` and `follow` keeps them in memory.
        macro_rules! each_step {
            ($first:expr, |$index:ident| $panel:expr) => {
                // Loops and not `map`, which is not always inlined.
                for step in 0..self.steps {
                    // SAFETY: the rows are among those of `x`, contiguous and as long as there are steps, as was just
                    // checked. The step's elements of each panel are among those that the constructor was given, as it
                    // saw: of `of_rows`, with their overlaps, which only panels side by side have.
                    unsafe {
                        let mut values = [&*rows[0].add(step); MR];
                        for index in 1..MR {
                            values[index] = &*rows[index].add(step);
                        }
                        let mut panels = [slice::from_raw_parts($first, width); PANELS];
                        for $index in 1..PANELS {
                            panels[$index] = slice::from_raw_parts($panel, width);
                        }
                        body(values, panels, follow);
                    }
                    start = start.wrapping_offset(self.step_stride);
                    follow = follow.wrapping_offset(self.step_stride);
                }
            };
        }
        // Many panels side by side: where each lies is then part of an instruction, and takes no register.
        if may_overlap && self.panel_stride == width as isize {
            each_step!(start.wrapping_add(first), |index| {
                start.wrapping_add(index * width).wrapping_sub(if index + 1 == PANELS { last } else { 0 })
            });
        } else {
            each_step!(start, |index| start.offset(index as isize * self.panel_stride));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_beyond_the_last_are_refused() {
        let (x, weight) = ([1.0_f32; 12], [1.0_f32; 4]);
        let x = Matrix::new(&x, 3, 4).unwrap();
        let group = PanelGroup::packed(&weight, (1, 4), 4, 1).unwrap();
        let steps = |row: usize| {
            let mut steps = 0;
            let fits = group.for_each::<_, 2, 1>(x, row, 1, weight.as_ptr(), |_, _, _| steps += 1);
            (fits, steps)
        };
        assert_eq!(steps(1), (true, 4));
        for row in [2, 3, usize::MAX - 2, usize::MAX - 1, usize::MAX] {
            assert_eq!(steps(row), (false, 0), "{row}");
        }
    }
}
