//! Where operands lie in memory: strides, gaps, an offset from the start of the allocation; and guards that tell
//! whether anything but the result was written.

use arbitrary::Arbitrary;
use polyglot_bridge::{Matrix, MatrixMut};

use super::number::Number;

/// What is in memory before a result is written there, twice, so that each bit of it must change once.
pub(crate) const PATTERNS: [u64; 2] = [0xa5c3_96f0_3c5a_b4d2, !0xa5c3_96f0_3c5a_b4d2];

/// Strides and offsets of an operand and of a result.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) struct Placement {
    transposed: bool,
    row_gap: u8,
    col_step: u8,
    out_gap: u8,
    lead: u8,
    /// The row that is run alone as well.
    pub(crate) alone: u8,
}

impl Placement {
    /// The dense `values`, laid out.
    pub(crate) fn lay<T: Number>(&self, values: &[T], rows: usize, cols: usize) -> Laid<T> {
        let (outer, inner) = if self.transposed { (cols, rows) } else { (rows, cols) };
        let step = 1 + usize::from(self.col_step % 3);
        let stride = inner * step + usize::from(self.row_gap % 5);
        let lead = usize::from(self.lead % 9);
        let strides = if self.transposed { (step, stride) } else { (stride, step) };
        // To the last element and no further, so that a sanitizer sees a read behind it.
        let len = if outer * inner == 0 { 0 } else { lead + (outer - 1) * stride + (inner - 1) * step + 1 };
        let mut data = vec![T::from_raw(PATTERNS[0]); len];
        for (index, &value) in values.iter().enumerate() {
            data[lead + index / cols * strides.0 + index % cols * strides.1] = value;
        }
        Laid { data, lead, shape: (rows, cols), strides }
    }

    /// Room for a result, filled with `pattern`.
    pub(crate) fn room<T: Number>(&self, rows: usize, cols: usize, pattern: u64) -> Room<T> {
        let stride = cols + usize::from(self.out_gap % 5);
        let lead = usize::from(self.lead % 9);
        let len = if rows * cols == 0 { 0 } else { lead + (rows - 1) * stride + cols + lead };
        Room { data: vec![T::from_raw(pattern); len], lead, shape: (rows, cols), stride, pattern }
    }
}

/// A matrix to read.
pub(crate) struct Laid<T> {
    data: Vec<T>,
    lead: usize,
    shape: (usize, usize),
    strides: (usize, usize),
}

impl<T: Number> Laid<T> {
    pub(crate) fn matrix(&self) -> Matrix<'_, T> {
        let data = self.data.get(self.lead..).unwrap_or_default();
        Matrix::with_strides(data, self.shape.0, self.shape.1, self.strides.0, self.strides.1).expect("laid out")
    }

    /// Sees that the values and what lies between them are as they were.
    pub(crate) fn assert_untouched(&self, values: &[T]) {
        let mut data = self.data.clone();
        for (index, value) in values.iter().enumerate() {
            let cols = self.shape.1;
            let place = self.lead + index / cols * self.strides.0 + index % cols * self.strides.1;
            assert_eq!(data[place].raw(), value.raw(), "an operand was written");
            data[place] = T::from_raw(PATTERNS[0]);
        }
        assert!(
            data.iter().all(|value| value.raw() == T::from_raw(PATTERNS[0]).raw()),
            "beside an operand was written"
        );
    }
}

/// Where a result is written.
pub(crate) struct Room<T> {
    data: Vec<T>,
    lead: usize,
    shape: (usize, usize),
    stride: usize,
    pattern: u64,
}

impl<T: Number> Room<T> {
    pub(crate) fn matrix(&mut self) -> MatrixMut<'_, T> {
        let data = self.data.get_mut(self.lead..).unwrap_or_default();
        MatrixMut::with_stride(data, self.shape.0, self.shape.1, self.stride).expect("room")
    }

    /// Puts the dense `values` where the result will be, for operations in place.
    pub(crate) fn fill(&mut self, values: &[T]) {
        for (index, &value) in values.iter().enumerate() {
            self.data[self.lead + index / self.shape.1 * self.stride + index % self.shape.1] = value;
        }
    }

    /// The result, dense, once it is seen that nothing around it was written.
    pub(crate) fn finish(mut self) -> Vec<T> {
        let guard = T::from_raw(self.pattern);
        let (rows, cols) = self.shape;
        let mut result = Vec::with_capacity(rows * cols);
        for row in 0..if cols == 0 { 0 } else { rows } {
            let row = &mut self.data[self.lead + row * self.stride..][..cols];
            result.extend_from_slice(row);
            row.fill(guard);
        }
        assert!(self.data.iter().all(|value| value.raw() == guard.raw()), "wrote outside of the result");
        result
    }
}
