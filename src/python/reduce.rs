//! Sums over whole arrays of any layout.

use pyo3::prelude::*;

use super::arrays::{Array, for_dtype};
use super::layout::{Block, OPERANDS, Plan};
use super::modern::Call;
use super::rowwise::{KEEP_GIL, released};

/// What one element of a sum takes on one core, in nanoseconds, roughly.
const COST: f32 = 0.2;

/// The sum of squares of an array, whatever its layout: read in place where that is one block of rows.
pub(super) fn sum(call: Call, array: &Bound<'_, PyAny>) -> PyResult<f64> {
    let mut array = call.take(array)?;
    if array.len() == 0 {
        return Ok(0.0);
    }
    let block = if let Some(block) = one_block(&array) {
        block
    } else {
        array = array.contiguous()?;
        dense(&array)
    };
    let dtype = array.dtype();
    // SAFETY: the block lies in `array`, alive during this call.
    let work = move || for_dtype!(dtype, T => unsafe { crate::sum_of_squares(block.matrix::<T>()) });
    let small = array.len() as f32 * COST < KEEP_GIL;
    Ok(if small { work() } else { released(array.py(), work) })
}

fn dense(array: &Array<'_>) -> Block {
    let item = array.dtype().size().cast_signed();
    let len = array.len();
    Block { data: array.data(), rows: 1, cols: len, row_stride: len.cast_signed() * item, col_stride: item }
}

fn one_block(array: &Array<'_>) -> Option<Block> {
    if array.is_c_contiguous() {
        return Some(dense(array));
    }
    let plan = Plan::elements(array.shape(), &[array.strides()], 0, array.dtype().size());
    let mut found = None;
    if plan.blocks() == 1 {
        let _ = plan.for_each([array.data(); OPERANDS], |blocks| {
            found = Some(blocks[0]);
            Ok::<(), ()>(())
        });
    }
    found
}
