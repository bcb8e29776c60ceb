//! Runs operations whose result has the shape of their input, element by element or row by row along an axis, on arrays
//! of any layout. The operations themselves are in `elementwise` and `rows`.

use pyo3::prelude::*;

use super::call::{Call, Object, Returned};
use super::dtype::{Dtype, Element, for_dtype};
use super::launch;
use super::ndarray::{Block, BlockMut, NdArray, Operand, Place};
use super::out::{Output, Slot};
use super::strides::Plan;
use super::take::Array;
use crate::error::Error;
use crate::view::{Matrix, MatrixMut};

/// The arrays that an operation reads.
#[derive(Clone, Copy)]
pub(super) struct Arrays<'a, 'py> {
    pub(super) x: &'a Array<'py>,
    /// Of the shape of x, like the mask.
    pub(super) residual: Option<&'a NdArray<'py>>,
    pub(super) mask: Option<&'a NdArray<'py>>,
    /// One number an element of a row, side by side, like the bias.
    pub(super) weight: Option<&'a NdArray<'py>>,
    pub(super) bias: Option<&'a NdArray<'py>>,
}

impl<'a, 'py> Arrays<'a, 'py> {
    #[inline]
    pub(super) fn of(x: &'a Array<'py>) -> Self {
        Self { x, residual: None, mask: None, weight: None, bias: None }
    }
}

/// What an operation reads for one block of the result.
pub(super) struct Inputs<'a> {
    /// x, the residual, the mask, the weight, the bias.
    operands: [Option<Operand<'a>>; 5],
    places: Places,
}

/// Where the block lies in x, the residual and the mask.
enum Places {
    /// So many rows and columns, which are all there is, side by side.
    Dense(usize, usize),
    Strided([Place; 3]),
}

impl<'a> Inputs<'a> {
    #[inline]
    fn block(&self, index: usize) -> Option<Block<'a>> {
        let operand = self.operands[index]?;
        Some(match &self.places {
            &Places::Dense(rows, cols) => operand.dense(rows, cols),
            Places::Strided(places) => operand.block(places[index]),
        })
    }

    #[inline(never)]
    fn matrix<T: Element>(&self, index: usize) -> Matrix<'a, T> {
        match (self.operands[index], &self.places) {
            (Some(operand), &Places::Dense(rows, cols)) => operand.dense_matrix(rows, cols),
            (Some(operand), Places::Strided(places)) => operand.block(places[index]).matrix(),
            (None, _) => Matrix::from(&[]),
        }
    }

    #[inline]
    pub(super) fn x<T: Element>(&self) -> Matrix<'a, T> {
        self.matrix(0)
    }

    /// The residual of an operation that has one.
    #[inline]
    pub(super) fn residual<T: Element>(&self) -> Matrix<'a, T> {
        self.matrix(1)
    }

    /// The mask of an operation that has one.
    #[inline]
    pub(super) fn mask(&self) -> Option<Block<'a>> {
        self.block(2)
    }

    #[inline]
    pub(super) fn weight<T: Element>(&self) -> Option<&'a [T]> {
        self.operands[3].map(|weight| weight.slice())
    }

    #[inline]
    pub(super) fn bias<T: Element>(&self) -> Option<&'a [T]> {
        self.operands[4].map(|bias| bias.slice())
    }
}

/// An operation whose operands and result have one shape.
pub(super) trait Operation: Send + Sync {
    /// What one element takes on one core, in nanoseconds, roughly.
    fn cost(&self) -> f32;

    /// Computes `out` from the inputs.
    fn run<T: Element>(&self, inputs: &Inputs<'_>, out: MatrixMut<'_, T>) -> Result<(), Error>;

    /// The same where `out` holds x.
    fn run_in_place<T: Element>(&self, inputs: &Inputs<'_>, out: MatrixMut<'_, T>) -> Result<(), Error>;
}

/// An operation on blocks whose type is known when it runs: what `run` needs, so that it is compiled once.
pub(super) trait OnBlocks: Send + Sync {
    fn cost(&self) -> f32;

    /// Computes one block of the result.
    fn on_block(&self, dtype: Dtype, inputs: &Inputs<'_>, out: BlockMut<'_>, in_place: bool) -> Result<(), Error>;
}

impl<O: Operation> OnBlocks for O {
    fn cost(&self) -> f32 {
        Operation::cost(self)
    }

    fn on_block(&self, dtype: Dtype, inputs: &Inputs<'_>, out: BlockMut<'_>, in_place: bool) -> Result<(), Error> {
        for_dtype!(dtype, T => {
            let out = out.matrix::<T>();
            if in_place { self.run_in_place(inputs, out) } else { Operation::run(self, inputs, out) }
        })
    }
}

/// Runs an operation. `axis` is the axis along which rows lie, `None` for element-wise operations.
pub(super) fn run<'py>(
    call: &Call<'py>,
    operation: &dyn OnBlocks,
    arrays: Arrays<'_, 'py>,
    axis: Option<usize>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let Arrays { x, residual, mask, weight, bias } = arrays;
    let (py, dtype) = (x.py(), x.dtype());
    let last = axis.is_none_or(|axis| axis + 1 >= x.ndim());
    let is_dense = |array: Option<&NdArray<'_>>| array.is_none_or(|array| array.is_c_contiguous());
    let dense = last && x.is_c_contiguous() && is_dense(residual) && is_dense(mask);
    let inputs = [Some(&**x), residual, mask, weight, bias];
    let mut slot = Slot::default();
    let output = match out {
        None if dense => Output::fresh(&mut slot, py, dtype, x.shape())?,
        None => Output::fresh_like(&mut slot, x, axis)?,
        Some(out) => Output::given(&mut slot, call, out, dtype, x.shape(), &inputs, core::iter::empty(), axis)?,
    };
    let len = x.len();
    if len == 0 {
        return output.finish(call.op);
    }
    let in_place = output.in_place();
    let nanoseconds = len as f32 * operation.cost();
    if !(dense && output.written().is_c_contiguous()) {
        return scattered(call, operation, arrays, output, axis, nanoseconds);
    }
    let cols = match axis {
        Some(axis) => x.shape().get(axis).map_or(1, |cols| cols.unsigned_abs()),
        None => len,
    };
    let rows = len / cols;
    launch::write(call, inputs, output, nanoseconds, move |operands, mut out| {
        let inputs = Inputs { operands, places: Places::Dense(rows, cols) };
        operation.on_block(dtype, &inputs, out.dense(rows, cols), in_place)
    })
}

/// Runs an operation where some array is not dense.
#[cold]
fn scattered<'py>(
    call: &Call<'py>,
    operation: &dyn OnBlocks,
    arrays: Arrays<'_, 'py>,
    output: Output<'_, 'py>,
    axis: Option<usize>,
    nanoseconds: f32,
) -> Returned<'py> {
    let Arrays { x, residual, mask, weight, bias } = arrays;
    let (dtype, in_place, plan) = (x.dtype(), output.in_place(), plan(arrays, &output, axis)?);
    let inputs = [Some(&**x), residual, mask, weight, bias];
    launch::write(call, inputs, output, nanoseconds, move |operands, mut out| {
        for index in 0..plan.blocks() {
            let [first, second, third, target] = plan.places(index);
            let inputs = Inputs { operands, places: Places::Strided([first, second, third]) };
            operation.on_block(dtype, &inputs, out.block(target), in_place)?;
        }
        Ok::<(), Error>(())
    })
}

/// The loop over blocks where some array is not dense: x, the residual, the mask, what is written.
#[cold]
fn plan(arrays: Arrays<'_, '_>, output: &Output<'_, '_>, axis: Option<usize>) -> PyResult<Plan<4>> {
    let Arrays { x, residual, mask, .. } = arrays;
    let strides = [Some(&**x), residual, mask, Some(output.written())];
    let strides = strides.map(|array| array.unwrap_or(x).strides());
    let strides = strides.each_ref().map(|strides| &**strides);
    let (shape, item) = (x.shape(), x.dtype().size());
    match axis {
        Some(axis) if x.ndim() > 0 => Plan::rows(shape, strides, axis, shape[axis].unsigned_abs(), 3, item),
        _ => Plan::elements(shape, strides, 3, item),
    }
}
