//! `attention` on arrays whose leading dimensions broadcast. The kernel is in `ops::attention`.

use numpy::npyffi::npy_intp;
use pyo3::prelude::*;

use super::arguments::{Optional, number};
use super::call::{Call, Object, Returned, Signature};
use super::dims::{Dims, Strides};
use super::dtype::{Element, for_dtype};
use super::errors::{Shape, value_error};
use super::launch;
use super::linear::COST;
use super::matmul::broadcast;
use super::ndarray::{Block, NdArray, Operand, Place, Target};
use super::out::{Output, Slot};
use super::strides::reach;
use super::take::{Array, MaskArray, slots, take_all, take_mask};
use crate::error::Error;
use crate::float::Compute;
use crate::ops::attention::{AttentionMask, AttentionOptions, attention_batch};

const OP: &str = "attention";

/// What the heads of a call have in common.
#[derive(Clone, Copy)]
struct Common {
    /// Whether a mask selects keys, or is added to the scores.
    selects: bool,
    causal: bool,
    scale: Option<f64>,
}

impl Common {
    fn options<'a, T: Element>(&self, mask: Option<Block<'a>>) -> AttentionOptions<'a, T> {
        let mut options = AttentionOptions::new().causal(self.causal);
        options.scale = self.scale.map(T::Acc::from_f64);
        options.mask = match mask {
            None => AttentionMask::None,
            Some(mask) if self.selects => AttentionMask::Select(mask.bytes()),
            Some(mask) => AttentionMask::Add(mask.matrix()),
        };
        options
    }
}

/// An array of matrices, its shape and strides cut in two.
struct Stack<'a> {
    batch: &'a [npy_intp],
    steps: Strides<'a>,
    /// The first of them.
    place: Place,
}

impl<'a> Stack<'a> {
    fn new(name: &str, array: &'a NdArray<'_>) -> PyResult<Self> {
        if array.ndim() < 2 {
            let shape = Shape(array.shape());
            return Err(value_error!("{OP}: {name} has shape {shape}, expected two dimensions or more"));
        }
        Ok(Self::of(array))
    }

    /// Dimensions that are missing count as 1. A dimension of 1 does not move.
    fn of(array: &'a NdArray<'_>) -> Self {
        let leading = array.ndim().saturating_sub(2);
        let mut place = Place::of(array);
        if place.rows == 1 {
            place.row_stride = 0;
        }
        if place.cols == 1 {
            place.col_stride = 0;
        }
        Self { batch: &array.shape()[..leading], steps: array.strides(), place }
    }

    /// How far each dimension of a batch that this one's broadcasts to moves.
    fn steps_in(&self, batch: &[npy_intp]) -> PyResult<Dims> {
        let missing = batch.len() - self.batch.len();
        let step = |axis: usize| match axis.checked_sub(missing) {
            Some(own) if self.batch[own] != 1 => self.steps[own],
            _ => 0,
        };
        Dims::collect(batch.len(), (0..batch.len()).map(step))
    }
}

/// How far the matrices of a head lie from those of the first, by the steps of their dimensions.
#[inline]
fn head<const N: usize>(index: usize, batch: &[npy_intp], steps: &[Dims; N]) -> [isize; N] {
    let (mut rest, mut offsets) = (index, [0_isize; N]);
    for (axis, dim) in batch.iter().map(|dim| dim.unsigned_abs()).enumerate().rev() {
        // The outermost dimension has no need of a division.
        let along = if axis == 0 || rest < dim { rest } else { rest % dim }.cast_signed();
        rest = if axis == 0 || rest < dim { 0 } else { rest / dim };
        for (offset, steps) in offsets.iter_mut().zip(steps) {
            *offset = offset.wrapping_add(along.wrapping_mul(steps[axis]));
        }
    }
    offsets
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
#[pyo3(
    signature = (q, k, v, *, mask=None, causal=Optional::Default, scale=None, out=None),
    text_signature = "(q, k, v, *, mask=None, causal=False, scale=None, out=None)"
)]
pub(super) fn attention<'py>(
    q: Object<'_, 'py>,
    k: Object<'_, 'py>,
    v: Object<'_, 'py>,
    mask: Option<Object<'_, 'py>>,
    causal: Optional<'_, 'py>,
    scale: Option<Object<'_, 'py>>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let (mut slots, arrays) = (slots(), [("q", Some(q)), ("k", Some(k)), ("v", Some(v))]);
    let others = [("mask", mask), ("causal", causal.object()), ("scale", scale), ("out", out)];
    let call = &Call::with(Signature::new(OP), arrays, others, &mut slots)?;
    let dtype = take_all(OP, arrays, &mut slots).map_err(|error| call.blame(error))?;
    let [Some(q), Some(k), Some(v)] = &slots else { return Err(value_error!("{OP}: an array is missing")) };
    let mask = mask.map(|mask| take_mask(OP, "mask", mask, dtype)).transpose().map_err(|error| call.blame(error))?;
    let scale = scale.map(|scale| number(OP, "scale", scale)).transpose()?;
    let causal = causal.object().map_or(Ok(false), |causal| causal.extract::<bool>());
    call.look_again()?;
    let causal = causal?;
    let common = Common { selects: matches!(mask, Some(MaskArray::Selects(_))), causal, scale };
    match (q.shape(), k.shape(), v.shape()) {
        ([batch @ .., queries, size], [k_batch @ .., keys, k_size], [v_batch @ .., v_keys, values])
            if mask.is_none()
                && out.is_none()
                && (size, keys) == (k_size, v_keys)
                && (batch, batch) == (k_batch, v_batch)
                && [q, k, v].iter().all(|array| array.is_c_contiguous()) =>
        {
            dense(call, [q, k, v], batch, [*queries, *keys, *size, *values], common)
        }
        _ => any(call, [q, k, v], mask, common, out),
    }
}

/// Heads that lie side by side in each array: what most calls want, in little code.
fn dense<'py>(
    call: &Call<'py>,
    [q, k, v]: [&Array<'py>; 3],
    batch: &[npy_intp],
    [queries, keys, size, values]: [npy_intp; 4],
    common: Common,
) -> Returned<'py> {
    let dtype = q.dtype();
    let shape = Dims::new(OP, &[batch, &[queries, values]])?;
    let mut slot = Slot::default();
    let output = Output::fresh(&mut slot, q.py(), dtype, &shape)?;
    if output.written().len() == 0 {
        return output.finish(OP);
    }
    let [queries, keys, size, values] = [queries, keys, size, values].map(npy_intp::unsigned_abs);
    let count = output.written().len() / (queries * values);
    let work = queries as f32 * keys as f32 * (size + values) as f32 * count as f32;
    launch::write(call, [Some(&**q), Some(&**k), Some(&**v)], output, work * COST, move |operands, out| {
        let [Some(q), Some(k), Some(v)] = operands else { return Ok(()) };
        for_dtype!(dtype, T => dense_heads::<T>(count, [q, k, v], [queries, keys, size, values], common, out))
    })
}

fn dense_heads<T: Element>(
    count: usize,
    [q, k, v]: [Operand<'_>; 3],
    [queries, keys, size, values]: [usize; 4],
    common: Common,
    mut out: Target<'_>,
) -> Result<(), Error> {
    if count == 1 {
        let (q, k, v) = (q.dense_matrix::<T>(queries, size), k.dense_matrix(keys, size), v.dense_matrix(keys, values));
        return crate::attention(q, k, v, common.options(None), out.dense(queries, values).matrix());
    }
    let [in_q, in_k, in_v, in_out] =
        [(queries, size), (keys, size), (keys, values), (queries, values)].map(|(rows, cols)| {
            let place = Place::dense(rows, cols, size_of::<T>());
            (place, place.row_stride.wrapping_mul(rows.cast_signed()))
        });
    let reach = |step: isize| 0..=step.wrapping_mul(count.cast_signed() - 1);
    let (q, k) = (q.matrices::<T>(in_q.0, reach(in_q.1)), k.matrices::<T>(in_k.0, reach(in_k.1)));
    let (v, out) = (v.matrices::<T>(in_v.0, reach(in_v.1)), out.matrices::<T>(in_out.0, reach(in_out.1)));
    attention_batch(count, |index| {
        let at = |step: isize| step.wrapping_mul(index.cast_signed());
        // SAFETY: heads lie one after the other in the result, and where `attention_batch` asks for a head on several
        // threads, each writes, and reads, other rows of it.
        let out = unsafe { out.at(at(in_out.1)) };
        ([q.at(at(in_q.1)), k.at(at(in_k.1)), v.at(at(in_v.1))], common.options::<T>(None), out)
    })
}

/// Arrays of any layout, whose leading dimensions broadcast.
#[inline(never)]
fn any<'py>(
    call: &Call<'py>,
    [q, k, v]: [&Array<'py>; 3],
    mask: Option<MaskArray<'py>>,
    common: Common,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let dtype = q.dtype();
    let (py, item) = (q.py(), dtype.size().cast_signed());
    let stacks = [Stack::new("q", q)?, Stack::new("k", k)?, Stack::new("v", v)?];
    let [queries, keys, values] = stacks.each_ref().map(|stack| stack.place);
    let misfit = |why: &str| {
        let (q, k, v) = (Shape(q.shape()), Shape(k.shape()), Shape(v.shape()));
        value_error!("{OP}: q has shape {q}, k has shape {k} and v has shape {v}: {why}")
    };
    if queries.cols != keys.cols {
        return Err(misfit("the last dimensions of q and k must be the same"));
    }
    if keys.rows != values.rows {
        return Err(misfit("k and v must have as many rows"));
    }
    let (mut scores, mut batch) = (Dims::EMPTY, Dims::EMPTY);
    if !(broadcast(OP, stacks[0].batch, stacks[1].batch, &mut scores)?
        && broadcast(OP, &scores, stacks[2].batch, &mut batch)?)
    {
        return Err(misfit("their leading dimensions do not broadcast"));
    }
    let masks = mask.as_ref().map(|mask| Stack::of(mask));
    if let (Some(stack), Some(mask)) = (&masks, &mask) {
        let fits = |found: usize, wanted: usize| found == 1 || found == wanted;
        let mut both = Dims::EMPTY;
        let whole = broadcast(OP, stack.batch, &batch, &mut both)? && *both == *batch;
        if !(whole && fits(stack.place.rows, queries.rows) && fits(stack.place.cols, keys.rows)) {
            let face = [queries.rows.cast_signed(), keys.rows.cast_signed()];
            let expected = Dims::new(OP, &[&batch, &face])?;
            let (found, expected) = (Shape(mask.shape()), Shape(&expected));
            return Err(value_error!(
                "{OP}: mask has shape {found}, which does not broadcast to {expected}, the shape of the scores"
            ));
        }
    }
    let face = [queries.rows.cast_signed(), values.cols.cast_signed()];
    let shape = Dims::new(OP, &[&batch, &face])?;
    let mut slot = Slot::default();
    let mut output = match out {
        None => Output::fresh(&mut slot, py, dtype, &shape)?,
        Some(out) => {
            let inputs = [None, Some(&**q), Some(&**k), Some(&**v), mask.as_deref()];
            Output::given(&mut slot, call, out, dtype, &shape, &inputs, core::iter::empty(), Some(shape.len() - 1))?
        }
    };
    if output.written().len() == 0 {
        return output.finish(call.op);
    }
    let down = |written: &NdArray<'py>| written.strides()[shape.len() - 2];
    if queries.rows > 1 && (down(output.written()) < face[1] * item) {
        output.make_dense(dtype)?;
    }
    let result = Stack::new("out", output.written())?;
    let result_place = Place { col_stride: item, ..Place::of(output.written()) };
    let mask_place = masks.as_ref().map_or(queries, |mask| mask.place);
    let [q_steps, k_steps, v_steps] = stacks.each_ref().map(|stack| stack.steps_in(&batch));
    let mask_steps = masks.as_ref().unwrap_or(&stacks[0]).steps_in(&batch)?;
    let steps = [q_steps?, k_steps?, v_steps?, mask_steps, result.steps_in(&batch)?];
    let count = batch.iter().map(|dim| dim.unsigned_abs()).product::<usize>();
    let work = queries.rows as f32 * keys.rows as f32 * (queries.cols + values.cols) as f32 * count as f32;
    let inputs = [Some(&**q), Some(&**k), Some(&**v), mask.as_deref()];
    launch::write(call, inputs, output, work * COST, move |operands, out| {
        let [Some(q), Some(k), Some(v), mask] = operands else { return Ok(()) };
        let lens = || batch.iter().map(|dim| dim.unsigned_abs());
        let [q_reach, k_reach, v_reach, _, out_reach] =
            steps.each_ref().map(|steps| reach(lens().zip(steps.iter().copied())));
        for_dtype!(dtype, T => {
            let (q, k) = (q.matrices::<T>(queries, q_reach), k.matrices::<T>(keys, k_reach));
            let (v, out) = (v.matrices::<T>(values, v_reach), out.matrices::<T>(result_place, out_reach));
            attention_batch(count, |index| {
                let [in_q, in_k, in_v, in_mask, in_out] = head(index, &batch, &steps);
                let mask = mask.as_ref().map(|mask| mask.block(Place { offset: in_mask, ..mask_place }));
                // SAFETY: heads have no element of the result in common, as `out` has none twice, and where
                // `attention_batch` asks for a head on several threads, each writes, and reads, other rows of it.
                let out = unsafe { out.at(in_out) };
                ([q.at(in_q), k.at(in_k), v.at(in_v)], common.options::<T>(mask), out)
            })
        })
    })
}
