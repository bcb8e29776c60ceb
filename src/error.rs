//! The errors that kernels return. They are plain values, printable without an allocator, and carry the shapes that
//! did not fit. Nothing here knows about Python or about kernels.

use core::fmt;

/// Rows and columns of an operand. A slice counts as one row.
pub type Shape = (usize, usize);

/// An operand whose shape does not fit the call.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::{softmax, Matrix, MatrixMut};
///
/// let mut out = [0.0_f32; 4];
/// let error = softmax(Matrix::new(&[0.0; 6], 2, 3)?, MatrixMut::new(&mut out, 2, 2)?).unwrap_err();
/// assert_eq!(error.to_string(), "softmax: out has shape (2, 2), expected (2, 3)");
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShapeError {
    /// An operand has another shape than the other operands ask for.
    Mismatch {
        /// The operation that was called.
        op: &'static str,
        /// The argument's name.
        operand: &'static str,
        /// The shape it has.
        found: Shape,
        /// The shape it should have.
        expected: Shape,
    },
    /// A slice is too short for the rows, columns and strides given for it.
    TooShort {
        /// The shape that was asked for.
        shape: Shape,
        /// The elements that shape and strides need.
        needed: usize,
        /// The elements there are.
        len: usize,
    },
    /// An index beyond the rows of a table.
    OutOfRange {
        /// The operation that was called.
        op: &'static str,
        /// The argument's name.
        operand: &'static str,
        /// The index.
        index: usize,
        /// The rows there are.
        len: usize,
    },
    /// Rows, columns and strides whose product does not fit `usize`, or rows of a mutable view that would overlap.
    Unrepresentable {
        /// The shape that was asked for.
        shape: Shape,
        /// The distance between rows that was asked for, in elements.
        row_stride: usize,
    },
}

impl ShapeError {
    /// `Ok` where `found == expected`, else [`ShapeError::Mismatch`].
    pub(crate) fn check(op: &'static str, operand: &'static str, found: Shape, expected: Shape) -> Result<(), Self> {
        if found == expected { Ok(()) } else { Err(Self::Mismatch { op, operand, found, expected }) }
    }
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mismatch { op, operand, found, expected } => {
                write!(
                    f,
                    "{op}: {operand} has shape ({}, {}), expected ({}, {})",
                    found.0, found.1, expected.0, expected.1
                )
            }
            Self::TooShort { shape, needed, len } => {
                write!(f, "a view of shape ({}, {}) needs {needed} elements, the slice has {len}", shape.0, shape.1)
            }
            Self::OutOfRange { op, operand, index, len } => {
                write!(f, "{op}: {operand} has {index}, expected less than {len}")
            }
            Self::Unrepresentable { shape, row_stride } => {
                write!(
                    f,
                    "a view of shape ({}, {}) with row stride {row_stride} overlaps itself or is too large",
                    shape.0, shape.1
                )
            }
        }
    }
}

impl core::error::Error for ShapeError {}
