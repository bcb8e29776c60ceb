//! `attention` on arrays whose leading dimensions broadcast. The kernel is in `ops::attention`.

use std::format;
use std::vec::Vec;

use numpy::npyffi::npy_intp;
use pyo3::exceptions::{PyMemoryError, PyValueError};
use pyo3::prelude::*;

use super::arguments::number;
use super::arrays::{MaskArray, NdArray, for_dtype, take_all, take_mask};
use super::errors::Shape;
use super::layout::Block;
use super::matmul::broadcast;
use super::modern::{Object, Returned};
use super::output::Output;
use super::products::{COST, Dims};
use super::rowwise::{KEEP_GIL, released};
use crate::float::{Compute, Float};
use crate::ops::attention::{AttentionMask, AttentionOptions, attention_batch};

const OP: &str = "attention";

/// Where the operands of one head lie: q, k, v, the mask, the result.
type Places = [Block; 5];

/// What the heads of a call have in common.
#[derive(Clone, Copy)]
struct Common {
    mask: Option<Kind>,
    causal: bool,
    scale: Option<f64>,
}

#[derive(Clone, Copy)]
enum Kind {
    Select,
    Add,
}

impl Common {
    /// # Safety
    ///
    /// The block lies in a live mask of this kind, of the dtype `T` where it is added.
    unsafe fn options<'a, T: Float>(&self, mask: &Block) -> AttentionOptions<'a, T> {
        let mut options = AttentionOptions::new().causal(self.causal);
        options.scale = self.scale.map(T::Acc::from_f64);
        // SAFETY: the caller's promise.
        options.mask = unsafe {
            match self.mask {
                None => AttentionMask::None,
                Some(Kind::Select) => AttentionMask::Select(mask.matrix::<u8>()),
                Some(Kind::Add) => AttentionMask::Add(mask.matrix::<T>()),
            }
        };
        options
    }
}

/// An array of matrices, its shape and strides cut in two.
struct Stack<'a> {
    batch: &'a [npy_intp],
    steps: &'a [npy_intp],
    /// One of them.
    block: Block,
}

impl<'a> Stack<'a> {
    fn new(name: &str, array: &'a NdArray<'_>) -> PyResult<Self> {
        match (array.shape(), array.strides()) {
            ([batch @ .., rows, cols], [steps @ .., row_stride, col_stride]) => {
                Ok(Self { batch, steps, block: block(array.data(), [*rows, *cols], [*row_stride, *col_stride]) })
            }
            (shape, _) => {
                let shape = Shape(shape);
                Err(PyValueError::new_err(format!("{OP}: {name} has shape {shape}, expected two dimensions or more")))
            }
        }
    }

    /// A mask, whose missing dimensions count as 1. A dimension of 1 does not move.
    fn of_mask(array: &'a NdArray<'_>) -> Self {
        let (shape, strides) = (array.shape(), array.strides());
        let last = |values: &[npy_intp], place: usize| values.len().checked_sub(place).map(|index| values[index]);
        let shape_of = |place| last(shape, place).unwrap_or(1);
        let stride_of = |place| last(strides, place).filter(|_| shape_of(place) != 1).unwrap_or(0);
        let leading = shape.len().saturating_sub(2);
        Self {
            batch: &shape[..leading],
            steps: &strides[..leading],
            block: block(array.data(), [shape_of(2), shape_of(1)], [stride_of(2), stride_of(1)]),
        }
    }

    /// How far each dimension of a batch that this one's broadcasts to moves.
    fn steps_in(&self, batch: &[npy_intp]) -> Vec<npy_intp> {
        let missing = batch.len() - self.batch.len();
        let step = |axis: usize| match axis.checked_sub(missing) {
            Some(own) if self.batch[own] != 1 => self.steps[own],
            _ => 0,
        };
        (0..batch.len()).map(step).collect()
    }
}

fn block(data: *mut u8, [rows, cols]: [npy_intp; 2], [row_stride, col_stride]: [npy_intp; 2]) -> Block {
    Block { data, rows: rows.unsigned_abs(), cols: cols.unsigned_abs(), row_stride, col_stride }
}

/// The places of all heads of a batch.
fn heads(batch: &[npy_intp], one: Places, steps: &[Vec<npy_intp>; 5]) -> PyResult<Vec<Places>> {
    let count = batch.iter().map(|dim| dim.unsigned_abs()).product();
    let mut all = Vec::new();
    all.try_reserve_exact(count).map_err(|_| PyMemoryError::new_err(format!("{OP}: {count} heads")))?;
    for index in 0..count {
        let (mut rest, mut places) = (index, one);
        for (axis, dim) in batch.iter().enumerate().rev() {
            let place = (rest % dim.unsigned_abs()).cast_signed();
            rest /= dim.unsigned_abs();
            for (block, steps) in places.iter_mut().zip(steps) {
                block.data = block.data.wrapping_offset(place * steps[axis]);
            }
        }
        all.push(places);
    }
    Ok(all)
}

/// Scaled dot-product attention: ``softmax(q @ k.T * scale + mask) @ v`` for each head.
///
/// Scores are not stored: memory grows with the number of queries and keys, not with their product.
///
/// Parameters
/// ----------
/// q, k, v : array_like
///     Of shapes (..., queries, size), (..., keys, size) and (..., keys, values), one dtype and any strides: float16,
///     bfloat16, float32 or float64. Leading dimensions, usually batch and heads, broadcast.
/// mask : array_like, optional
///     Broadcasts to (..., queries, keys). Bools and integers say which keys each query attends to: True where it does;
///     what a key holds that is hidden from it does not matter, were it NaN. Floats, of the dtype of `q`, are added.
/// causal : bool, default False
///     Whether query i attends to keys 0 to i alone.
/// scale : float, optional
///     What scores are multiplied by; ``1 / sqrt(size)`` where left out.
/// out : ndarray, optional
///     Where to write the result, of its shape and dtype.
///
/// Returns
/// -------
/// ndarray
///     Of shape (..., queries, values); `out` where that is given. float16 and bfloat16 are computed in float32 and
///     rounded once. A query that attends to no key becomes zeros; one with a score of NaN or +inf becomes NaN.
///
/// Raises
/// ------
/// TypeError
///     An argument is no array of floats, or they differ in dtype.
/// ValueError
///     Shapes do not fit, or `out` is read-only.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> q, k = np.zeros((1, 2)), np.ones((3, 2))
/// >>> pb.attention(q, k, np.array([[1.0], [3.0], [np.nan]]), mask=[True, True, False])
/// array([[2.]])
#[pyfunction]
#[pyo3(signature = (q, k, v, *, mask=None, causal=false, scale=None, out=None))]
pub(super) fn attention<'py>(
    q: Object<'_, 'py>,
    k: Object<'_, 'py>,
    v: Object<'_, 'py>,
    mask: Option<Object<'_, 'py>>,
    causal: bool,
    scale: Option<Object<'_, 'py>>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let ([Some(q), Some(k), Some(v)], dtype) = take_all(OP, [("q", Some(q)), ("k", Some(k)), ("v", Some(v))])? else {
        return Err(PyValueError::new_err("an array is missing"));
    };
    let mask = mask.map(|mask| take_mask(OP, "mask", mask, dtype)).transpose()?;
    let kind = mask.as_ref().map(|mask| match mask {
        MaskArray::Selects(_) => Kind::Select,
        MaskArray::Multiplies(_) => Kind::Add,
    });
    let scale = scale.map(|scale| number(OP, "scale", scale)).transpose()?;
    let (py, item) = (q.py(), dtype.size().cast_signed());
    let stacks = [Stack::new("q", &q)?, Stack::new("k", &k)?, Stack::new("v", &v)?];
    let [queries, keys, values] = stacks.each_ref().map(|stack| stack.block);
    let misfit = |why: &str| {
        let (q, k, v) = (Shape(q.shape()), Shape(k.shape()), Shape(v.shape()));
        PyValueError::new_err(format!("{OP}: q has shape {q}, k has shape {k} and v has shape {v}: {why}"))
    };
    if queries.cols != keys.cols {
        return Err(misfit("the last dimensions of q and k must be the same"));
    }
    if keys.rows != values.rows {
        return Err(misfit("k and v must have as many rows"));
    }
    let Some(batch) = broadcast(stacks[0].batch, stacks[1].batch).and_then(|batch| broadcast(&batch, stacks[2].batch))
    else {
        return Err(misfit("their leading dimensions do not broadcast"));
    };
    let masks = mask.as_ref().map(|mask| Stack::of_mask(mask));
    if let (Some(stack), Some(mask)) = (&masks, &mask) {
        let fits = |found: usize, wanted: usize| found == 1 || found == wanted;
        let whole = broadcast(stack.batch, &batch).is_some_and(|both| both == batch);
        if !(whole && fits(stack.block.rows, queries.rows) && fits(stack.block.cols, keys.rows)) {
            let face = [queries.rows.cast_signed(), keys.rows.cast_signed()];
            let (found, expected) = (Shape(mask.shape()), [&batch[..], &face].concat());
            let expected = Shape(&expected);
            return Err(PyValueError::new_err(format!(
                "{OP}: mask has shape {found}, which does not broadcast to {expected}, the shape of the scores"
            )));
        }
    }
    let face = [queries.rows.cast_signed(), values.cols.cast_signed()];
    let shape = Dims::new(OP, [&batch, &face, &[]])?;
    let mut output = match out {
        None => Output::fresh(py, dtype, &shape)?,
        Some(out) => {
            let inputs = [None, Some(&*q), Some(&*k), Some(&*v), mask.as_deref()];
            Output::given(OP, out, dtype, &shape, &inputs, Some(shape.len() - 1))?
        }
    };
    if output.target().len() == 0 {
        return output.finish();
    }
    let down = |target: &NdArray<'py>| target.strides()[shape.len() - 2];
    if queries.rows > 1 && (down(output.target()) < face[1] * item) {
        output.make_dense(dtype)?;
    }
    let target = output.target();
    let result = Stack::new("out", target)?;
    let places = [queries, keys, values, masks.as_ref().map_or(queries, |mask| mask.block), result.block];
    let [q_steps, k_steps, v_steps] = stacks.each_ref().map(|stack| stack.steps_in(&batch));
    let mask_steps = masks.as_ref().map_or_else(|| std::vec![0; batch.len()], |mask| mask.steps_in(&batch));
    let all = heads(&batch, places, &[q_steps, k_steps, v_steps, mask_steps, result.steps_in(&batch)])?;
    let common = Common { mask: kind, causal, scale };
    let work = queries.rows as f32 * keys.rows as f32 * (queries.cols + values.cols) as f32 * all.len() as f32;
    let run = move || {
        for_dtype!(dtype, T => attention_batch(all.len(), |index| {
            let [q, k, v, mask, out] = &all[index];
            // SAFETY: matrices within arrays of this dtype that are alive during the call; results are apart, and no
            // row of one overlaps another.
            unsafe {
                let out = out.matrix_mut::<T>();
                ([q.matrix::<T>(), k.matrix::<T>(), v.matrix::<T>()], common.options::<T>(mask), out)
            }
        }))
    };
    if work * COST < KEEP_GIL { run() } else { released(py, run) }?;
    output.finish()
}
