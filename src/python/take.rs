//! Takes in whatever callers pass as an array and gives NumPy arrays of one float dtype, native and aligned. The common
//! case, such an array already, costs a few loads; everything else goes through one cold path, where Python code may
//! run: `__array__`, `__dlpack__`, attributes. No kernel is called here.

use std::format;
use std::ops::Deref;
use std::ptr;

use numpy::npyffi::{self, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_ENSUREARRAY, NPY_TYPES, PY_ARRAY_API};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyComplex, PyFloat, PyInt, PyList, PyRange, PyTuple, PyType};

use super::dtype::{Dtype, FLOATS};
use super::errors::{Shape, type_error, type_name, wrong_dtype};
use super::list::{attribute, has_attribute, imported};
use super::ndarray::{NdArray, Pins, Usual, is_exact};
use crate::trace::{Event, note};

/// A NumPy array of a float dtype, native, aligned, its strides whole numbers of elements.
#[derive(Debug)]
pub(super) struct Array<'py> {
    array: NdArray<'py>,
    dtype: Dtype,
}

impl<'py> Deref for Array<'py> {
    type Target = NdArray<'py>;

    #[inline]
    fn deref(&self) -> &NdArray<'py> {
        &self.array
    }
}

impl<'py> Array<'py> {
    /// Puts the object into `slot` where it is such an array already; see [`Usual`].
    #[inline(always)]
    pub(super) fn put(slot: &mut Option<Self>, name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<()> {
        match Usual::of(object) {
            Some(seen) => {
                *slot = Some(Self { dtype: seen.dtype, array: seen.array(name, object.clone()) });
                Ok(())
            }
            None => Self::put_other(slot, name, object),
        }
    }

    fn put_other(slot: &mut Option<Self>, name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<()> {
        *slot = Self::ready(name, object)?;
        Ok(())
    }

    /// The object where it is such an array already.
    fn ready(name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<Option<Self>> {
        Ok(NdArray::exact(name, object)?.and_then(Self::from_ndarray))
    }

    fn from_ndarray(array: NdArray<'py>) -> Option<Self> {
        let dtype = array.float()?;
        array.is_plain().then_some(Self { array, dtype })
    }

    #[inline]
    pub(super) fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub(super) fn into_ndarray(self) -> NdArray<'py> {
        self.array
    }

    /// The array in another dtype: itself where it is of that.
    pub(super) fn cast_to(self, op: &str, dtype: Dtype) -> PyResult<Self> {
        if self.dtype == dtype {
            return Ok(self);
        }
        // SAFETY: a new reference to the descriptor.
        let array = unsafe { self.array.cast(op, dtype.descr(self.py())?, 0)? };
        Ok(Self { array, dtype })
    }

    /// The array with its elements side by side in C order: itself where they are, else a copy in `slot`.
    #[inline]
    pub(super) fn contiguous<'a>(&'a self, op: &str, slot: &'a mut Option<Self>) -> PyResult<&'a Self> {
        if self.is_c_contiguous() { Ok(self) } else { Ok(slot.insert(self.copied(op)?)) }
    }

    /// The array, or where its elements do not lie side by side in C order a copy.
    pub(super) fn into_contiguous(self, op: &str) -> PyResult<Self> {
        if self.is_c_contiguous() { Ok(self) } else { self.copied(op) }
    }

    #[cold]
    fn copied(&self, op: &str) -> PyResult<Self> {
        note(|| Event::Copy {
            what: format!("the operand of shape {}, to have its elements side by side", Shape(self.shape())),
            bytes: self.len() * self.itemsize(),
        });
        // SAFETY: a new reference to the descriptor.
        let array = unsafe { self.array.cast(op, self.dtype.descr(self.py())?, NPY_ARRAY_C_CONTIGUOUS)? };
        Ok(Self { array, dtype: self.dtype })
    }
}

/// Takes one argument that must be an array of floats, if it is not in its slot yet; what brings no float dtype becomes
/// float64.
#[inline(always)]
pub(super) fn take<'a, 'py>(
    op: &str,
    name: &'static str,
    object: &Bound<'py, PyAny>,
    slot: &'a mut Option<Array<'py>>,
) -> PyResult<&'a Array<'py>> {
    if slot.is_none() {
        Array::put(slot, name, object)?;
        if slot.is_none() {
            convert_one(op, name, object, slot)?;
        }
    }
    slot.as_ref().ok_or_else(|| missing(op, name))
}

#[cold]
fn convert_one<'py>(
    op: &str,
    name: &'static str,
    object: &Bound<'py, PyAny>,
    slot: &mut Option<Array<'py>>,
) -> PyResult<()> {
    let mut slots = [const { None }];
    convert(op, [(name, Some(object))], &mut slots)?;
    let [array] = slots;
    *slot = array;
    Ok(())
}

/// [`take`], for arguments that are kept or changed.
pub(super) fn take_own<'py>(op: &str, name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<Array<'py>> {
    let mut slot = None;
    take(op, name, object, &mut slot)?;
    slot.ok_or_else(|| missing(op, name))
}

/// Places for the arrays of a call.
pub(super) type Slots<'py, const N: usize> = [Option<Array<'py>>; N];

/// Places for N arrays, none of which is there yet.
#[inline(always)]
pub(super) const fn slots<'py, const N: usize>() -> Slots<'py, N> {
    [const { None }; N]
}

/// Takes all array arguments of a call that are not in their slots yet; they share one dtype. The first is there.
#[inline]
pub(super) fn take_all<'py, const N: usize>(
    op: &str,
    arguments: [(&'static str, Option<&Bound<'py, PyAny>>); N],
    slots: &mut Slots<'py, N>,
) -> PyResult<Dtype> {
    let mut common = None;
    let mut ready = true;
    for (slot, &(name, object)) in slots.iter_mut().zip(&arguments) {
        if let Some(object) = object {
            if slot.is_none() {
                Array::put(slot, name, object)?;
            }
            let dtype = slot.as_ref().map(Array::dtype);
            ready &= dtype.is_some() && (common.is_none() || common == dtype);
            common = common.or(dtype);
        }
    }
    if !ready {
        convert(op, arguments, slots)?;
        common = slots.iter().flatten().map(Array::dtype).next();
    }
    common.ok_or_else(|| missing(op, arguments[0].0))
}

#[cold]
fn missing(op: &str, name: &str) -> PyErr {
    type_error!("{op}: {name} must be an array, not None")
}

/// Takes one argument that must be an array of floats; what brings no float dtype of its own becomes `dtype`.
#[inline]
pub(super) fn take_as<'a, 'py>(
    op: &str,
    name: &'static str,
    object: &Bound<'py, PyAny>,
    dtype: Dtype,
    slot: &'a mut Option<Array<'py>>,
) -> PyResult<&'a Array<'py>> {
    if slot.is_none() {
        Array::put(slot, name, object)?;
    }
    if slot.is_none() {
        let candidate = Candidate::new(op, name, name, object)?;
        let dtype = candidate.array.float().filter(|_| candidate.strong).unwrap_or(dtype);
        *slot = Some(candidate.settle(op, dtype)?);
    }
    slot.as_ref().ok_or_else(|| missing(op, name))
}

/// Takes an array or a sequence of numbers of any real dtype as float64. `shown` is the argument's name in messages.
pub(super) fn take_f64<'py>(
    op: &str,
    name: &'static str,
    shown: &str,
    object: &Bound<'py, PyAny>,
) -> PyResult<Array<'py>> {
    Candidate::new(op, name, shown, object)?.settle(op, Dtype::F64)
}

/// An argument as an array, before its dtype is settled.
struct Candidate<'py> {
    name: &'static str,
    array: NdArray<'py>,
    /// Its dtype is its own: not a list or a Python number.
    strong: bool,
}

#[cold]
fn convert<'py, const N: usize>(
    op: &str,
    arguments: [(&'static str, Option<&Bound<'py, PyAny>>); N],
    slots: &mut Slots<'py, N>,
) -> PyResult<()> {
    let mut candidates = [const { None }; N];
    let mut leader: Option<(&str, Dtype)> = None;
    for (candidate, &(name, object)) in candidates.iter_mut().zip(&arguments) {
        let Some(object) = object else { continue };
        let found = Candidate::new(op, name, name, object)?;
        if let (true, Some(dtype)) = (found.strong, found.array.float()) {
            match leader {
                None => leader = Some((name, dtype)),
                Some((_, common)) if common == dtype => {}
                Some((first, common)) => {
                    let (common, dtype) = (common.name(), dtype.name());
                    return Err(type_error!(
                        "{op}: {first} has dtype {common} and {name} has dtype {dtype}; the arrays of a call share one \
                         dtype, convert one of them with .astype()"
                    ));
                }
            }
        }
        *candidate = Some(found);
    }
    let common = leader.map_or_else(
        || {
            // Lists alone: their numbers' own float dtype where they all agree on one, as NumPy finds it.
            let mut found = candidates.iter().flatten().map(|candidate| candidate.array.float());
            let first = found.next().flatten().unwrap_or(Dtype::F64);
            if found.all(|dtype| dtype == Some(first)) { first } else { Dtype::F64 }
        },
        |(_, dtype)| dtype,
    );
    // Where numbers are rounded NumPy may warn, and call what `numpy.seterrcall` names: it must not resize the others.
    let mut pins = Pins::default();
    candidates.iter().flatten().try_for_each(|candidate| candidate.array.pin(&mut pins))?;
    for (slot, candidate) in slots.iter_mut().zip(candidates) {
        *slot = candidate.map(|candidate| candidate.settle(op, common)).transpose()?;
    }
    Ok(())
}

impl<'py> Candidate<'py> {
    fn new(op: &str, name: &'static str, shown: &str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let (array, strong) = as_ndarray(op, name, shown, object)?;
        let dtype = array.float();
        if dtype.is_none() && !array.is_integral() {
            if array.kind() == b'O' && array.ndim() == 0 {
                let kind = type_name(object);
                return Err(type_error!("{op}: {shown} must be an array or a sequence of numbers, not {kind}"));
            }
            return Err(wrong_dtype(op, shown, &array.dtype_name()?, FLOATS));
        }
        Ok(Self { name, array, strong: strong && dtype.is_some() })
    }

    fn settle(self, op: &str, dtype: Dtype) -> PyResult<Array<'py>> {
        let Self { name, array, .. } = self;
        let array = if array.float() == Some(dtype) && array.is_plain() {
            array
        } else {
            note(|| {
                let reason = if array.float() != Some(dtype) {
                    format!("from {} to {}", array.dtype_name().unwrap_or_default(), dtype.name())
                } else if !array.is_native() {
                    "as its bytes are swapped".into()
                } else {
                    "as it is not aligned".into()
                };
                Event::Copy { what: format!("{name}, {reason}"), bytes: array.len() * dtype.size() }
            });
            // SAFETY: a new reference to the descriptor.
            unsafe { array.cast(op, dtype.descr(array.py())?, 0)? }
        };
        if array.is_plain() {
            return Ok(Array { array, dtype });
        }
        // Aligned and native, but its elements lie a fraction apart, as doubles on some 32-bit machines may.
        let copy = array.copied(op)?;
        Array::from_ndarray(copy).ok_or_else(|| type_error!("{op}: {} is not supported", dtype.name()))
    }
}

/// The object as an array that is no subclass, copied only where it is no array yet; and whether its dtype is its own.
fn as_ndarray<'py>(
    op: &str,
    name: &'static str,
    shown: &str,
    object: &Bound<'py, PyAny>,
) -> PyResult<(NdArray<'py>, bool)> {
    let py = object.py();
    if let Some(array) = NdArray::exact(name, object)? {
        return Ok((array, true));
    }
    if object.is_none() {
        return Err(missing(op, shown));
    }
    if NdArray::any(name, object)?.is_some() {
        refuse_masked(op, shown, object)?;
        return Ok((from_any(name, object)?, true));
    }
    let literal = object.is_instance_of::<PyList>()
        || object.is_instance_of::<PyTuple>()
        || object.is_instance_of::<PyRange>()
        || object.is_exact_instance_of::<PyFloat>()
        || object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyBool>()
        || object.is_exact_instance_of::<PyComplex>();
    if !literal && !has_attribute(object, "__array__")? && has_attribute(object, "__dlpack__")? {
        let array = imported(py, "numpy", "from_dlpack")?.call1((object,))?;
        return match NdArray::any(name, &array)? {
            Some(array) => Ok((array, true)),
            None => Err(type_error!("{op}: {shown} gives no array through __dlpack__")),
        };
    }
    let array = match from_any(name, object) {
        Err(_) if is_torch_bfloat16(object) => {
            let make = imported(py, "polyglot_bridge._tensors", "bfloat16_of_torch")?;
            return match NdArray::any(name, &make.call1((op, shown, object))?)? {
                Some(array) => Ok((array, true)),
                None => Err(type_error!("{op}: {shown} is no array")),
            };
        }
        array => array?,
    };
    if literal {
        // Objects are refused, and may hold themselves: all else is as deep as it has dimensions.
        if array.kind() != b'O' {
            refuse_masked_within(op, shown, object, array.ndim())?;
        }
        let bytes = || array.len() * array.itemsize();
        note(|| Event::Copy { what: format!("{shown}, from a {}", type_name(object)), bytes: bytes() });
    }
    Ok((array, !literal))
}

/// Whether PyTorch has refused to make an array of the object as NumPy has no such dtype of its own.
#[cold]
fn is_torch_bfloat16(object: &Bound<'_, PyAny>) -> bool {
    let dtype = attribute(object, "dtype").and_then(|dtype| dtype.str());
    dtype.is_ok_and(|dtype| dtype.to_cow().is_ok_and(|dtype| dtype == "torch.bfloat16"))
}

/// `numpy.asarray`
fn from_any<'py>(name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<NdArray<'py>> {
    let (py, null) = (object.py(), ptr::null_mut());
    // SAFETY: the object is alive; no dtype is asked for.
    unsafe {
        let array =
            PY_ARRAY_API.PyArray_FromAny(py, object.as_ptr(), ptr::null_mut(), 0, 0, NPY_ARRAY_ENSUREARRAY, null);
        NdArray::from_owned(name, py, array)
    }
}

/// A masked array would lose its mask without a word. Its type is asked, not its `__class__`.
pub(super) fn refuse_masked(op: &str, name: &str, object: &Bound<'_, PyAny>) -> PyResult<()> {
    if is_exact(object) {
        return Ok(());
    }
    let masked = imported(object.py(), "numpy.ma", "MaskedArray")?.cast_into::<PyType>()?;
    // SAFETY: both are types.
    if unsafe { pyo3::ffi::PyType_IsSubtype(object.get_type_ptr(), masked.as_type_ptr()) } != 0 {
        return Err(type_error!(
            "{op}: {name} is a masked array, whose mask would be ignored; pass {name}.filled(value) or {name}.data"
        ));
    }
    Ok(())
}

/// The same for what lists and tuples hold, so deep: NumPy makes an array of their data alone.
fn refuse_masked_within(op: &str, name: &str, object: &Bound<'_, PyAny>, depth: usize) -> PyResult<()> {
    let check = |item: Bound<'_, PyAny>| {
        // Most are numbers, and are passed by at the first look.
        if depth == 0 || item.is_exact_instance_of::<PyFloat>() || item.is_exact_instance_of::<PyInt>() {
            return Ok(());
        }
        // SAFETY: the object is alive.
        if unsafe { npyffi::PyArray_Check(item.py(), item.as_ptr()) } != 0 {
            return refuse_masked(op, name, &item);
        }
        refuse_masked_within(op, name, &item, depth - 1)
    };
    if let Ok(list) = object.cast::<PyList>() {
        list.iter().try_for_each(check)
    } else if let Ok(tuple) = object.cast::<PyTuple>() {
        tuple.iter().try_for_each(check)
    } else {
        Ok(())
    }
}

/// A mask: numbers of the call's dtype that multiply, or one byte an element that selects.
pub(super) enum MaskArray<'py> {
    Multiplies(Array<'py>),
    Selects(NdArray<'py>),
}

impl<'py> Deref for MaskArray<'py> {
    type Target = NdArray<'py>;

    fn deref(&self) -> &NdArray<'py> {
        match self {
            Self::Multiplies(array) => array,
            Self::Selects(array) => array,
        }
    }
}

/// Takes a mask beside arrays of `dtype`.
pub(super) fn take_mask<'py>(
    op: &str,
    name: &'static str,
    object: &Bound<'py, PyAny>,
    dtype: Dtype,
) -> PyResult<MaskArray<'py>> {
    let (array, strong) = as_ndarray(op, name, name, object)?;
    if array.is_integral() {
        return as_bytes(op, array, 0).map(MaskArray::Selects);
    }
    match array.float() {
        Some(found) if strong && found != dtype => {
            Err(wrong_dtype(op, name, found.name(), format_args!("{} as x has, bool or integers", dtype.name())))
        }
        Some(_) => Candidate { name, array, strong }.settle(op, dtype).map(MaskArray::Multiplies),
        None => Err(wrong_dtype(op, name, &array.dtype_name()?, format_args!("{}, bool or integers", dtype.name()))),
    }
}

/// A mask that can only select: of bools or integers, with its elements side by side.
pub(super) fn take_selection<'py>(op: &str, name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<NdArray<'py>> {
    let (array, _) = as_ndarray(op, name, name, object)?;
    if !array.is_integral() {
        return Err(wrong_dtype(op, name, &array.dtype_name()?, "bool or integers"));
    }
    as_bytes(op, array, NPY_ARRAY_C_CONTIGUOUS)
}

/// Bools or integers as one byte each: bools, but for integers of that size.
fn as_bytes<'py>(op: &str, array: NdArray<'py>, flags: i32) -> PyResult<NdArray<'py>> {
    if array.itemsize() == 1 && (flags == 0 || array.is_c_contiguous()) {
        return Ok(array);
    }
    // A byte of any value counts as True: so those of integers need not become bools.
    let number = if array.itemsize() == 1 { NPY_TYPES::NPY_UBYTE } else { NPY_TYPES::NPY_BOOL };
    let number = if array.kind() == b'b' { NPY_TYPES::NPY_BOOL } else { number };
    // SAFETY: NumPy's own dtypes are there, and the reference is new.
    unsafe {
        let descr = PY_ARRAY_API.PyArray_DescrFromType(array.py(), number as i32);
        array.cast(op, descr, flags)
    }
}

/// Numbers of rows: integers of 64 bits, signed where the array is, aligned, side by side.
pub(super) fn take_ids<'py>(op: &str, name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<NdArray<'py>> {
    let (array, _) = as_ndarray(op, name, name, object)?;
    if !matches!(array.kind(), b'i' | b'u') && array.len() > 0 {
        return Err(wrong_dtype(op, name, &array.dtype_name()?, "integers"));
    }
    let unsigned = array.kind() == b'u' && array.itemsize() == size_of::<u64>();
    let number = if unsigned { NPY_TYPES::NPY_ULONGLONG } else { NPY_TYPES::NPY_LONGLONG };
    // SAFETY: NumPy's own dtypes are there, and the reference is new.
    unsafe {
        let descr = PY_ARRAY_API.PyArray_DescrFromType(array.py(), number as i32);
        array.cast(op, descr, NPY_ARRAY_C_CONTIGUOUS)
    }
}
