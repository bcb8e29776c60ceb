//! Results: fresh arrays, callers' `out=` arrays and the checks on them, and the detour through a buffer where a kernel
//! cannot write straight into what the caller gave. Nothing here computes.

use std::format;
use std::ptr;
use std::string::ToString;
use std::vec::Vec;

use numpy::npyffi::{
    self, NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE, NpyTypes, PY_ARRAY_API, npy_intp,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::arrays::{Array, Dtype, NdArray, refuse_masked};
use super::errors::{Shape, type_name, wrong_dtype};
use super::memory;
use crate::trace::{Event, note};

/// Where a call's result goes.
#[derive(Debug)]
pub(super) struct Output<'py> {
    /// What the caller gets back.
    array: NdArray<'py>,
    /// Where the kernel writes instead, to be copied at the end.
    detour: Option<NdArray<'py>>,
    /// The result takes the place of the first input.
    in_place: bool,
}

impl<'py> Output<'py> {
    /// A new result, uninitialised, in C order.
    #[inline]
    pub(super) fn fresh(py: Python<'py>, dtype: Dtype, shape: &[npy_intp]) -> PyResult<Self> {
        Ok(Self { array: empty(py, dtype, shape, None)?, detour: None, in_place: false })
    }

    /// A new result whose elements lie in the order of those of `model`, as NumPy's own functions give. `unit` as in
    /// [`given`](Output::given).
    pub(super) fn fresh_like(model: &Array<'py>, unit: Option<usize>) -> PyResult<Self> {
        let strides = order_of(model);
        let array = empty(model.py(), model.dtype(), model.shape(), strides.as_deref())?;
        let detour = (!has_unit_stride(&array, unit)).then(|| buffer(&array, model.dtype(), unit)).transpose()?;
        Ok(Self { array, detour, in_place: false })
    }

    /// The caller's `out`, checked. `inputs` are all arrays that the call reads, the first of which may be `out` itself
    /// where it is there. Where kernels could not write into `out`, or would overwrite what they read, they get a
    /// buffer. `unit` is the axis along which a kernel's rows lie, `None` where it goes element by element.
    pub(super) fn given(
        op: &str,
        out: &Bound<'py, PyAny>,
        dtype: Dtype,
        shape: &[npy_intp],
        inputs: &[Option<&NdArray<'py>>],
        unit: Option<usize>,
    ) -> PyResult<Self> {
        let array = check(op, out, dtype, shape)?;
        let mut same = false;
        let mut overlaps = false;
        for (number, input) in inputs.iter().enumerate() {
            let Some(input) = input else { continue };
            if array.may_overlap(input) {
                if number == 0 && array.is_same_view(input) {
                    same = true;
                } else {
                    overlaps = true;
                }
            }
        }
        let straight = has_unit_stride(&array, unit) && array.is_plain();
        let detour = (overlaps || !straight).then(|| buffer(&array, dtype, unit)).transpose()?;
        note(|| Event::Result {
            place: if same && detour.is_none() { "in place" } else { "out" },
            bytes: array.len() * array.itemsize(),
        });
        if detour.is_some() {
            note_detour(&array, if overlaps { "it shares memory with an input" } else { "it has no contiguous rows" });
        }
        Ok(Self { in_place: same && detour.is_none(), array, detour })
    }

    /// Makes the kernel write into an array in C order.
    pub(super) fn make_dense(&mut self, dtype: Dtype) -> PyResult<()> {
        if !self.target().is_c_contiguous() {
            note_detour(&self.array, "it has few rows side by side");
            self.detour = Some(empty(self.array.py(), dtype, self.array.shape(), None)?);
            self.in_place = false;
        }
        Ok(())
    }

    /// Where the kernel writes.
    #[inline]
    pub(super) fn target(&self) -> &NdArray<'py> {
        self.detour.as_ref().unwrap_or(&self.array)
    }

    #[inline]
    pub(super) fn in_place(&self) -> bool {
        self.in_place
    }

    /// The result, every element written.
    #[inline]
    pub(super) fn finish(self) -> PyResult<Bound<'py, PyAny>> {
        if let Some(detour) = self.detour {
            let py = self.array.py();
            // SAFETY: both are arrays of one shape.
            let status = unsafe { PY_ARRAY_API.PyArray_CopyInto(py, self.array.as_array_ptr(), detour.as_array_ptr()) };
            if status != 0 {
                return Err(PyErr::fetch(py));
            }
        }
        Ok(self.array.into_object())
    }
}

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
            npyffi::get_type_object(py, NpyTypes::PyArray_Type),
            descr,
            shape.len() as i32,
            shape.as_ptr().cast_mut(),
            strides,
            ptr::null_mut(),
            0,
            ptr::null_mut(),
        );
        NdArray::from_owned(py, array)
    }
}

/// The strides of a dense array whose elements lie in the order of those of `model`; `None` for C order.
fn order_of(model: &Array<'_>) -> Option<Vec<npy_intp>> {
    if model.is_c_contiguous() || model.len() == 0 {
        return None;
    }
    let (shape, strides) = (model.shape(), model.strides());
    let mut axes: Vec<usize> = (0..shape.len()).collect();
    // A repeated axis (stride 0) goes outside; the sort is stable.
    axes.sort_by_key(|&axis| {
        core::cmp::Reverse(match strides[axis] {
            0 => usize::MAX,
            stride => stride.unsigned_abs(),
        })
    });
    Some(dense_strides(shape, axes.into_iter(), model.dtype()))
}

/// Whether elements lie side by side along the axis `unit`, or along any where that is `None`.
fn has_unit_stride(array: &NdArray<'_>, unit: Option<usize>) -> bool {
    if array.is_c_contiguous() && unit.is_none_or(|axis| axis + 1 >= array.ndim()) {
        return true;
    }
    let item = array.itemsize().cast_signed();
    let mut dims = array.shape().iter().zip(array.strides());
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
    empty(array.py(), dtype, shape, Some(&dense_strides(shape, axes, dtype)))
}

/// Strides in bytes of a dense array that lies in memory in this order of its axes, the outermost first.
fn dense_strides(shape: &[npy_intp], axes: impl DoubleEndedIterator<Item = usize>, dtype: Dtype) -> Vec<npy_intp> {
    let mut strides = std::vec![0; shape.len()];
    let mut step = dtype.size().cast_signed();
    for axis in axes.rev() {
        strides[axis] = step;
        step *= shape[axis].max(1);
    }
    strides
}

/// Sees that `out` can take a result, before anything is written.
fn check<'py>(op: &str, out: &Bound<'py, PyAny>, dtype: Dtype, shape: &[npy_intp]) -> PyResult<NdArray<'py>> {
    let Some(array) = NdArray::any(out) else {
        return Err(PyTypeError::new_err(format!("{op}: out must be a numpy.ndarray, not {}", type_name(out))));
    };
    if NdArray::exact(out).is_none() {
        refuse_masked(op, "out", out)?;
    }
    let plain = NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED | NPY_ARRAY_WRITEABLE;
    if !array.is_dtype(dtype) {
        return Err(wrong_dtype(op, "out", &array.dtype_name(), dtype.name()));
    }
    if array.shape() != shape {
        let (found, expected) = (Shape(array.shape()).to_string(), Shape(shape).to_string());
        return Err(PyValueError::new_err(format!("{op}: out has shape {found}, the result has shape {expected}")));
    }
    if array.has(plain) {
        return Ok(array);
    }
    if !array.is_writeable() {
        return Err(PyValueError::new_err(format!("{op}: out is read-only")));
    }
    if overlaps_itself(&array) {
        let (shape, strides) = (Shape(array.shape()).to_string(), Shape(array.strides()).to_string());
        return Err(PyValueError::new_err(format!(
            "{op}: out of shape {shape} and strides {strides} has elements that share memory"
        )));
    }
    Ok(array)
}

/// Whether two elements of an array share memory.
fn overlaps_itself(array: &NdArray<'_>) -> bool {
    if array.len() <= 1 {
        return false;
    }
    let item = array.itemsize();
    let mut dims: Vec<(usize, usize)> = array
        .shape()
        .iter()
        .zip(array.strides())
        .filter(|&(&len, _)| len > 1)
        .map(|(&len, &stride)| (stride.unsigned_abs(), len.unsigned_abs()))
        .collect();
    dims.sort_unstable();
    let mut reach = item;
    let mut nested = true;
    for &(stride, len) in &dims {
        nested &= stride >= reach;
        reach += stride * (len - 1);
    }
    if nested {
        return false;
    }
    // Dimensions that reach over one another may still interleave. Small arrays are looked at element by element;
    // large ones of that kind are refused.
    if array.len() > 1 << 16 {
        return true;
    }
    let mut places = std::vec![0_usize];
    for &(stride, len) in &dims {
        places = places.iter().flat_map(|&place| (0..len).map(move |index| place + index * stride)).collect();
    }
    places.sort_unstable();
    places.windows(2).any(|pair| pair[1] - pair[0] < item)
}
