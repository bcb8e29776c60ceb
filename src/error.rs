//! The errors that kernels return. They are plain values, made and printed without an allocator, and carry the shapes that
//! did not fit or the bytes that were missing. Nothing here knows about Python or about kernels.

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

/// Why a function that may need memory did not compute its result: shapes that do not fit, or memory that there is not.
///
/// Functions that need none return a [`ShapeError`]; `?` turns that into this. Without the feature `std` nothing is
/// allocated, and [`OutOfMemory`](Error::OutOfMemory) never made.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::{Epilogue, Error, Matrix, linear};
///
/// let weight = Matrix::new(&[1.0_f32, 2.0], 2, 1)?;
/// let error = linear(&[1.0, 2.0, 3.0], weight, Epilogue::new(), &mut [0.0]).unwrap_err();
/// assert!(matches!(error, Error::Shape(_)));
/// assert_eq!(error.to_string(), "linear: weight has shape (2, 1), expected (3, 1)");
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// An operand's shape does not fit.
    Shape(ShapeError),
    /// The allocator has not as much memory as the call needs beside its operands.
    OutOfMemory {
        /// The bytes that were asked for, [`usize::MAX`] where they are more than that.
        bytes: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(error) => error.fmt(f),
            Self::OutOfMemory { bytes } => write!(f, "out of memory: {bytes} bytes were asked for"),
        }
    }
}

impl core::error::Error for Error {}

impl From<ShapeError> for Error {
    fn from(error: ShapeError) -> Self {
        Self::Shape(error)
    }
}

/// An allocation that failed, on its way to an [`Error`]: small, so that kernels return it in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoMemory {
    /// As in [`Error::OutOfMemory`].
    pub(crate) bytes: usize,
}

impl From<NoMemory> for Error {
    fn from(NoMemory { bytes }: NoMemory) -> Self {
        Self::OutOfMemory { bytes }
    }
}
