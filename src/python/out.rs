//! Results: fresh arrays, callers' `out=` arrays and the checks on them, and the detour through a buffer where a kernel
//! cannot write straight into what the caller gave. Nothing here computes.

use std::ops::Range;
use std::vec::Vec;
use std::{format, ptr};

use numpy::npyffi::{PY_ARRAY_API, npy_intp};
use pyo3::prelude::*;

use super::call::Call;
use super::dims::Dims;
use super::dtype::{Dtype, array_type};
use super::errors::{Shape, out_of_memory, type_error, type_name, value_error, wrong_dtype};
use super::memory;
use super::ndarray::{NdArray, Pins, Snapshot, Target, Usual, meet};
use super::take::{Array, refuse_masked};
use crate::trace::{Event, note};

/// A place on the stack of a call for its result, and for the caller's array where the kernel writes another.
#[derive(Debug, Default)]
pub(super) struct Slot<'py> {
    array: Option<NdArray<'py>>,
    caller: Option<NdArray<'py>>,
}

/// Where a call's result goes. Its array stays in a slot of the call's.
#[derive(Debug)]
pub(super) struct Output<'a, 'py> {
    /// What the kernel writes.
    array: &'a mut NdArray<'py>,
    /// What the caller gets back instead, to be copied to at the end.
    copied_to: &'a mut Option<NdArray<'py>>,
    /// The result takes the place of the first input.
    in_place: bool,
    /// What the kernel writes is the caller's.
    given: bool,
}

impl<'a, 'py> Output<'a, 'py> {
    /// A new result, uninitialised, in C order.
    #[inline(always)]
    pub(super) fn fresh(slot: &'a mut Slot<'py>, py: Python<'py>, dtype: Dtype, shape: &[npy_intp]) -> PyResult<Self> {
        let object = allocate(py, dtype, shape, None)?;
        // SAFETY: just made.
        let array = match unsafe { Usual::made(&object, dtype, shape) } {
            Some(seen) => slot.array.insert(seen.array("out", object)),
            None => NdArray::put("out", object, &mut slot.array)?,
        };
        Ok(Self { array, copied_to: &mut slot.caller, in_place: false, given: false })
    }

    /// A new result whose elements lie in the order of those of `model`, as NumPy's own functions give. `unit` as in
    /// [`given`](Output::given).
    pub(super) fn fresh_like(slot: &'a mut Slot<'py>, model: &Array<'py>, unit: Option<usize>) -> PyResult<Self> {
        let strides = order_of(model)?;
        let array = empty(model.py(), model.dtype(), model.shape(), strides.as_deref())?;
        let straight = has_unit_stride(&array, unit);
        let output =
            Self { array: slot.array.insert(array), copied_to: &mut slot.caller, in_place: false, given: false };
        if straight { Ok(output) } else { output.through(|array| buffer(array, model.dtype(), unit)) }
    }

    /// The caller's `out`, checked. `inputs` are all arrays that the call reads, the first of which may be `out` itself
    /// where it is there, and `also_read` the addresses of whatever else it reads. Where kernels could not write into
    /// `out`, or would overwrite what they read, they get a buffer. `unit` is the axis along which a kernel's rows lie,
    /// `None` where it goes element by element.
    pub(super) fn given(
        slot: &'a mut Slot<'py>,
        call: &Call<'py>,
        out: &Bound<'py, PyAny>,
        dtype: Dtype,
        shape: &[npy_intp],
        inputs: &[Option<&NdArray<'py>>],
        also_read: impl Iterator<Item = Range<usize>>,
        unit: Option<usize>,
    ) -> PyResult<Self> {
        // Before anything is said of an `out` that was changed meanwhile.
        call.look_again()?;
        let array = check(call.op, out, dtype, shape, &mut slot.array)?;
        let extent = array.extent();
        let mut same = false;
        let mut overlaps = also_read.into_iter().any(|read| meet(&extent, &read));
        for (number, input) in inputs.iter().enumerate() {
            let Some(input) = input else { continue };
            if meet(&extent, &input.extent()) {
                if number == 0 && array.is_same_view(input) {
                    same = true;
                } else {
                    overlaps = true;
                }
            }
        }
        let straight = has_unit_stride(array, unit) && array.is_plain();
        let in_place = same && straight && !overlaps;
        note(|| Event::Result {
            place: if in_place { "in place" } else { "out" },
            bytes: array.len() * array.itemsize(),
        });
        let output = Self { array, copied_to: &mut slot.caller, in_place, given: true };
        if straight && !overlaps {
            return Ok(output);
        }
        note_detour(
            output.array,
            if overlaps { "it shares memory with an input" } else { "it has no contiguous rows" },
        );
        output.through(|array| buffer(array, dtype, unit))
    }

    /// Makes the kernel write into an array in C order.
    pub(super) fn make_dense(&mut self, dtype: Dtype) -> PyResult<()> {
        if !self.array.is_c_contiguous() {
            note_detour(self.array, "it has few rows side by side");
            self.replace(|array| empty(array.py(), dtype, array.shape(), None))?;
        }
        Ok(())
    }

    /// Makes the kernel write into a buffer.
    fn replace(&mut self, buffer: impl FnOnce(&NdArray<'py>) -> PyResult<NdArray<'py>>) -> PyResult<()> {
        let buffer = buffer(self.array)?;
        let array = core::mem::replace(self.array, buffer);
        // A buffer that another takes the place of is of no use any more.
        self.copied_to.get_or_insert(array);
        (self.in_place, self.given) = (false, false);
        Ok(())
    }

    #[cold]
    fn through(mut self, buffer: impl FnOnce(&NdArray<'py>) -> PyResult<NdArray<'py>>) -> PyResult<Self> {
        self.replace(buffer)?;
        Ok(self)
    }

    pub(super) fn py(&self) -> Python<'py> {
        self.array.py()
    }

    /// The array that the kernel writes, to plan by.
    #[inline]
    pub(super) fn written(&self) -> &NdArray<'py> {
        self.array
    }

    /// The array that the kernel writes, after a second look.
    #[inline(always)]
    pub(super) fn target(&self, op: &str) -> PyResult<Target<'_>> {
        if let Some(caller) = &self.copied_to {
            caller.operand(op)?;
        }
        // SAFETY: `given` saw that `out` is writeable and that no two of its elements share memory, and it gives a
        // buffer where `out` shares memory with what is read, unless `in_place` says that it is the same view. Fresh
        // arrays are nobody else's. A call asks once.
        unsafe { if self.given { Target::new(self.array, op) } else { Ok(Target::fresh(self.array)) } }
    }

    /// Keeps a caller's array where it is; see [`NdArray::pin`].
    pub(super) fn pin(&self, pins: &mut Pins<'py>) -> PyResult<()> {
        match &self.copied_to {
            Some(caller) => caller.pin(pins),
            None if self.given => self.array.pin(pins),
            None => Ok(()),
        }
    }

    /// Whether the result is copied into the caller's array at the end. NumPy gives up the GIL for that.
    #[inline]
    pub(super) fn is_copied(&self) -> bool {
        self.copied_to.is_some()
    }

    #[inline]
    pub(super) fn in_place(&self) -> bool {
        self.in_place
    }

    /// The result, every element written. Where [`is_copied`](Output::is_copied), it is pinned until then.
    #[inline(always)]
    pub(super) fn finish(self, op: &str) -> PyResult<Bound<'py, PyAny>> {
        match self.copied_to {
            None => Ok(self.array.object().clone()),
            Some(caller) => {
                self.array.copy_over(op, caller)?;
                Ok(caller.object().clone())
            }
        }
    }
}

/// The most dimensions a NumPy array has.
const MOST_AXES: usize = 64;

fn note_detour(out: &NdArray<'_>, why: &str) {
    note(|| Event::Copy {
        what: format!("the result, from a buffer into out, as {why}"),
        bytes: out.len() * out.itemsize(),
    });
}

/// An uninitialised array: C order, or the strides given, which must cover a dense block.
fn empty<'py>(
    py: Python<'py>,
    dtype: Dtype,
    shape: &[npy_intp],
    strides: Option<&[npy_intp]>,
) -> PyResult<NdArray<'py>> {
    let mut slot = None;
    NdArray::put("out", allocate(py, dtype, shape, strides)?, &mut slot)?;
    slot.ok_or_else(out_of_memory)
}

/// An uninitialised array as an object.
#[inline]
fn allocate<'py>(
    py: Python<'py>,
    dtype: Dtype,
    shape: &[npy_intp],
    strides: Option<&[npy_intp]>,
) -> PyResult<Bound<'py, PyAny>> {
    let strides = strides.map_or(ptr::null_mut(), |strides| strides.as_ptr().cast_mut());
    let descr = dtype.descr(py)?;
    let bytes = shape.iter().try_fold(dtype.size(), |bytes, dim| bytes.checked_mul(dim.unsigned_abs()));
    note(|| Event::Result {
        place: if bytes.is_some_and(|bytes| bytes >= memory::LARGE) { "cache" } else { "new" },
        bytes: bytes.unwrap_or(0),
    });
    if let Some(bytes @ memory::LARGE..) = bytes {
        // SAFETY: a new reference; strides, where there are any, cover a dense block.
        return unsafe { memory::large(py, descr, shape, strides, bytes) };
    }
    // SAFETY: NumPy takes over the reference to the descriptor, reads `ndim` dimensions and strides, and allocates.
    unsafe {
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            array_type(py),
            descr,
            shape.len() as i32,
            shape.as_ptr().cast_mut(),
            strides,
            ptr::null_mut(),
            0,
            ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(py, array)
    }
}

/// The strides of a dense array whose elements lie in the order of those of `model`; `None` for C order.
fn order_of(model: &Array<'_>) -> PyResult<Option<Dims>> {
    if model.is_c_contiguous() || model.len() == 0 {
        return Ok(None);
    }
    let (shape, strides) = (model.shape(), model.strides());
    let mut axes = [0_u8; MOST_AXES];
    let axes = &mut axes[..shape.len()];
    axes.iter_mut().enumerate().for_each(|(number, axis)| *axis = number as u8);
    // A repeated axis (stride 0) goes outside; the number keeps the order of equal ones without a buffer.
    axes.sort_unstable_by_key(|&axis| match strides[usize::from(axis)] {
        0 => (core::cmp::Reverse(usize::MAX), axis),
        stride => (core::cmp::Reverse(stride.unsigned_abs()), axis),
    });
    dense_strides(shape, axes.iter().map(|&axis| usize::from(axis)), model.dtype()).map(Some)
}

/// Whether elements lie side by side along the axis `unit`, or along any where that is `None`.
fn has_unit_stride(array: &Snapshot, unit: Option<usize>) -> bool {
    if array.is_c_contiguous() && unit.is_none_or(|axis| axis + 1 >= array.ndim()) {
        return true;
    }
    let item = array.itemsize().cast_signed();
    let strides = array.strides();
    let mut dims = array.shape().iter().zip(&*strides);
    match unit {
        Some(axis) => dims.nth(axis).is_none_or(|(&len, &stride)| len <= 1 || stride == item),
        None => dims.any(|(&len, &stride)| len > 1 && stride == item),
    }
}

/// A buffer of the array's shape, dense, with elements side by side along the axis `unit`.
fn buffer<'py>(array: &NdArray<'py>, dtype: Dtype, unit: Option<usize>) -> PyResult<NdArray<'py>> {
    let shape = array.shape();
    // A 0-d array has no axis at all.
    let Some(unit) = unit.filter(|&axis| axis < shape.len()) else { return empty(array.py(), dtype, shape, None) };
    let axes = (0..shape.len()).filter(|&axis| axis != unit).chain([unit]);
    empty(array.py(), dtype, shape, Some(&dense_strides(shape, axes, dtype)?))
}

/// Strides in bytes of a dense array that lies in memory in this order of its axes, the outermost first.
fn dense_strides(shape: &[npy_intp], axes: impl DoubleEndedIterator<Item = usize>, dtype: Dtype) -> PyResult<Dims> {
    let mut strides = Dims::zeros(shape.len())?;
    let mut step = dtype.size().cast_signed();
    for axis in axes.rev() {
        strides[axis] = step;
        step = step.wrapping_mul(shape[axis].max(1));
    }
    Ok(strides)
}

/// Sees that `out` can take a result, before anything is written.
#[inline(always)]
fn check<'a, 'py>(
    op: &str,
    out: &Bound<'py, PyAny>,
    dtype: Dtype,
    shape: &[npy_intp],
    slot: &'a mut Option<NdArray<'py>>,
) -> PyResult<&'a mut NdArray<'py>> {
    match Usual::of(out) {
        Some(seen) if seen.is_writeable() && seen.dtype == dtype && seen.shape() == shape => {
            Ok(slot.insert(seen.array("out", out.clone())))
        }
        _ => Ok(slot.insert(check_other(op, out, dtype, shape)?)),
    }
}

#[cold]
fn check_other<'py>(op: &str, out: &Bound<'py, PyAny>, dtype: Dtype, shape: &[npy_intp]) -> PyResult<NdArray<'py>> {
    let Some(array) = NdArray::any("out", out)? else {
        return Err(type_error!("{op}: out must be a numpy.ndarray, not {}", type_name(out)));
    };
    refuse_masked(op, "out", out)?;
    if !array.is_dtype(dtype) {
        return Err(wrong_dtype(op, "out", &array.dtype_name()?, dtype.name()));
    }
    if array.shape() != shape {
        let (found, expected) = (Shape(array.shape()), Shape(shape));
        return Err(value_error!("{op}: out has shape {found}, the result has shape {expected}"));
    }
    if !array.is_writeable() {
        return Err(value_error!("{op}: out is read-only"));
    }
    if !array.is_c_contiguous() && overlaps_itself(&array)? {
        let (shape, strides) = (Shape(array.shape()), Shape(&array.strides()));
        return Err(value_error!("{op}: out of shape {shape} and strides {strides} has elements that share memory"));
    }
    Ok(array)
}

/// Arrays of more elements are not looked at one by one.
const MOST_LOOKED_AT: usize = 1 << 16;

/// Whether two elements of an array share memory.
fn overlaps_itself(array: &Snapshot) -> PyResult<bool> {
    if array.len() <= 1 {
        return Ok(false);
    }
    let item = array.itemsize();
    let mut dims = [(0, 0); MOST_AXES];
    let mut count = 0;
    for (&len, &stride) in array.shape().iter().zip(&*array.strides()).filter(|&(&len, _)| len > 1) {
        dims[count] = (stride.unsigned_abs(), len.unsigned_abs());
        count += 1;
    }
    let dims = &mut dims[..count];
    dims.sort_unstable();
    let mut reach = item;
    let mut nested = true;
    for &(stride, len) in &*dims {
        nested &= stride >= reach;
        reach = reach.saturating_add(stride.saturating_mul(len - 1));
    }
    if nested {
        return Ok(false);
    }
    // Dimensions that reach over one another may still interleave. Small arrays are looked at element by element;
    // large ones of that kind are refused.
    if array.len() > MOST_LOOKED_AT {
        return Ok(true);
    }
    let mut places = Vec::new();
    places.try_reserve_exact(array.len()).map_err(|_| out_of_memory())?;
    places.push(0_usize);
    for &(stride, len) in &*dims {
        let before = places.len();
        for index in 1..len {
            places.extend_from_within(..before);
            places[index * before..].iter_mut().for_each(|place| *place = place.wrapping_add(index * stride));
        }
    }
    places.sort_unstable();
    Ok(places.windows(2).any(|pair| pair[1] - pair[0] < item))
}
