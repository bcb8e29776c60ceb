//! What a product is: its operands, what is done to its sums, and what it costs. How it is computed is told elsewhere.

use core::ops::Range;

use crate::error::Shape;
use crate::float::Float;
use crate::macros::bug;
use crate::math::activation::Activation;
use crate::view::Matrix;

/// The right operand of a product.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weight<'a, W> {
    /// As the caller has it, in any strides.
    Matrix(Matrix<'a, W>),
    /// In panels: for each panel of columns, its rows one after the other, zeros past the last column.
    Packed { panels: &'a [W], shape: Shape },
}

impl<W: Float> Weight<'_, W> {
    pub(crate) fn shape(&self) -> Shape {
        match self {
            Self::Matrix(matrix) => matrix.shape(),
            Self::Packed { shape, .. } => *shape,
        }
    }
}

/// One value a column, added to each row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bias<'a, T: Float> {
    None,
    Stored(&'a [T]),
    Computed(&'a [T::Acc]),
    /// The same for each column.
    #[cfg(feature = "std")]
    Uniform(T::Acc),
}

/// What is added before the activation, element by element.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub enum Residual<'a, T> {
    /// Nothing.
    #[default]
    None,
    /// A matrix of the output's shape.
    Matrix(Matrix<'a, T>),
    /// What the output held before.
    Out,
}

/// What is done to sums before they are stored: `activation(sum + bias + residual)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FusedEpilogue<'a, T: Float> {
    pub(crate) bias: Bias<'a, T>,
    pub(crate) residual: Residual<'a, T>,
    pub(crate) activation: Activation,
    /// What applies it.
    #[cfg(not(feature = "std"))]
    pub(crate) code: crate::math::activation::code::Code<T::Acc>,
}

/// A product with its epilogue: `activation(x @ weight + bias + residual)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product<'a, T: Float, W> {
    pub(crate) x: Matrix<'a, T>,
    pub(crate) weight: Weight<'a, W>,
    pub(crate) epilogue: FusedEpilogue<'a, T>,
}

/// Packed panels of one block of k.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackedPanels<'a, C> {
    pub(crate) numbers: &'a [C],
    /// From a panel to the next.
    pub(crate) len: usize,
}

/// What the sums are multiplied by before a product is added, as in BLAS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beta {
    /// They are overwritten: this is the first block of k.
    Zero,
    /// They are added to.
    One,
}

/// The multiply-adds of `x` times a weight of `cols` columns.
pub(crate) fn work<T: Float>(x: &Matrix<'_, T>, cols: usize) -> usize {
    x.rows().saturating_mul(x.cols().max(1)).saturating_mul(cols)
}

/// About how long `work` multiply-adds take on one core.
pub(crate) fn nanoseconds<C>(work: usize) -> f32 {
    work as f32 * (size_of::<C>() as f32 / (4.0 * 50.0))
}

/// About how long it takes one core to read `bytes` that are not in its cache.
pub(crate) fn reading(bytes: usize) -> f32 {
    bytes as f32 / 25.0
}

impl<'a, W: Float> Weight<'a, W> {
    /// The columns `cols` of a weight of `k` rows; the first of them begins a panel. Of no numbers it has the shape.
    pub(super) fn part(self, k: usize, cols: Range<usize>) -> Self {
        match self {
            Self::Matrix(matrix) => Self::Matrix(matrix.block(0..k, cols)),
            Self::Packed { panels, .. } => {
                Self::Packed { panels: panels.get(cols.start * k..).unwrap_or(&[]), shape: (k, cols.len()) }
            }
        }
    }
}

impl<T: Float> FusedEpilogue<'_, T> {
    /// What is done to these rows and columns.
    pub(super) fn part(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        let bias = match self.bias {
            Bias::Stored(values) => Bias::Stored(values.get(cols.clone()).unwrap_or_else(|| bug!(&[]))),
            Bias::Computed(values) => Bias::Computed(values.get(cols.clone()).unwrap_or_else(|| bug!(&[]))),
            Bias::None => Bias::None,
            #[cfg(feature = "std")]
            Bias::Uniform(value) => Bias::Uniform(value),
        };
        let residual = match self.residual {
            Residual::Matrix(matrix) => Residual::Matrix(matrix.block(rows, cols)),
            other => other,
        };
        Self { bias, residual, ..self }
    }
}

/// How many parts of at most `most` rows are cut, as even as can be: twice (parts, rows of each), the longer ones
/// first.
#[inline(always)]
pub(crate) fn even_parts(rows: usize, most: usize) -> [(usize, usize); 2] {
    let count = rows.div_ceil(most).max(1);
    let (len, longer) = (rows / count, rows % count);
    [(longer, len + 1), (count - longer, len)]
}

/// The rows of each of these parts.
#[inline(always)]
pub(crate) fn even_split(rows: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let [(longer, _), (shorter, len)] = even_parts(rows, most);
    let start = move |part: usize| part * len + part.min(longer);
    (0..longer + shorter).map(move |part| start(part)..start(part + 1))
}
