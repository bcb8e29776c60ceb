//! Takes in whatever callers pass as an array and gives NumPy arrays of one float dtype, native and aligned. The common
//! case, such an array already, costs a few loads; everything else goes through one cold path. No kernel is called here.

use std::format;
use std::ops::Deref;
use std::ptr;
use std::slice;
use std::string::{String, ToString};
use std::sync::atomic::{AtomicI32, Ordering};

use numpy::npyffi::{
    self, NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_ENSUREARRAY, NPY_ARRAY_FORCECAST, NPY_ARRAY_NOTSWAPPED,
    NPY_ARRAY_WRITEABLE, NPY_TYPES, PY_ARRAY_API, PyArray_Descr, PyArrayObject, PyArrayObject_fields, npy_intp,
};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyComplex, PyFloat, PyInt, PyList, PyRange, PyTuple};

use super::errors::{Shape, type_name, wrong_dtype};
use crate::trace::{Event, note};

const FLOATS: &str = "float16, bfloat16, float32 or float64";

/// The dtypes that kernels take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dtype {
    F16,
    Bf16,
    F32,
    F64,
}

/// Runs a generic expression with `$T` standing for the Rust type of a [`Dtype`].
macro_rules! for_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::python::arrays::Dtype::F16 => {
                type $T = half::f16;
                $body
            }
            $crate::python::arrays::Dtype::Bf16 => {
                type $T = half::bf16;
                $body
            }
            $crate::python::arrays::Dtype::F32 => {
                type $T = f32;
                $body
            }
            $crate::python::arrays::Dtype::F64 => {
                type $T = f64;
                $body
            }
        }
    };
}
pub(super) use for_dtype;

/// The number that NumPy gave to `ml_dtypes.bfloat16` when that was imported, once an array of it has been seen.
static BFLOAT16: AtomicI32 = AtomicI32::new(-1);

impl Dtype {
    pub(super) const ALL: [Self; 4] = [Self::F16, Self::Bf16, Self::F32, Self::F64];

    /// The dtype of a descriptor, whatever its byte order.
    #[inline]
    fn of(py: Python<'_>, descr: *mut PyArray_Descr) -> Option<Self> {
        const HALF: i32 = NPY_TYPES::NPY_HALF as i32;
        const FLOAT: i32 = NPY_TYPES::NPY_FLOAT as i32;
        const DOUBLE: i32 = NPY_TYPES::NPY_DOUBLE as i32;
        // SAFETY: callers pass the descriptor of a live array.
        let number = unsafe { (*npyffi::_PyDataType_GET_ITEM_DATA(descr)).type_num };
        match number {
            FLOAT => Some(Self::F32),
            DOUBLE => Some(Self::F64),
            HALF => Some(Self::F16),
            number if number >= NPY_TYPES::NPY_USERDEF as i32 => Self::registered(py, descr, number),
            _ => None,
        }
    }

    /// A dtype that another package has registered: `ml_dtypes.bfloat16` is known, and never imported from here.
    fn registered(py: Python<'_>, descr: *mut PyArray_Descr, number: i32) -> Option<Self> {
        if BFLOAT16.load(Ordering::Relaxed) == number {
            return Some(Self::Bf16);
        }
        // SAFETY: the descriptor is alive; it owns its scalar type.
        let scalar = unsafe {
            let scalar = (*npyffi::_PyDataType_GET_ITEM_DATA(descr)).typeobj;
            Bound::from_borrowed_ptr_or_opt(py, scalar.cast())?
        };
        let name = scalar.getattr("__name__").ok()?.extract::<String>().ok()?;
        // SAFETY: as above.
        if name != "bfloat16" || unsafe { npyffi::PyDataType_ELSIZE(py, descr) } != 2 {
            return None;
        }
        BFLOAT16.store(number, Ordering::Relaxed);
        Some(Self::Bf16)
    }

    /// The dtype of this name, for arguments that name one.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "float16" => Some(Self::F16),
            "bfloat16" => Some(Self::Bf16),
            "float32" => Some(Self::F32),
            "float64" => Some(Self::F64),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F32 => "float32",
            Self::F64 => "float64",
        }
    }

    pub(super) fn size(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// The native NumPy dtype object.
    pub(super) fn object(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        // SAFETY: a new reference to an object.
        Ok(unsafe { Bound::from_owned_ptr(py, self.descr(py)?.cast()) })
    }

    /// The native NumPy descriptor, a new reference.
    pub(super) fn descr(self, py: Python<'_>) -> PyResult<*mut PyArray_Descr> {
        let number = match self {
            Self::F16 => NPY_TYPES::NPY_HALF as i32,
            Self::F32 => NPY_TYPES::NPY_FLOAT as i32,
            Self::F64 => NPY_TYPES::NPY_DOUBLE as i32,
            Self::Bf16 => match BFLOAT16.load(Ordering::Relaxed) {
                -1 => return bfloat16(py),
                number => number,
            },
        };
        // SAFETY: the number of a dtype that is there.
        let descr = unsafe { PY_ARRAY_API.PyArray_DescrFromType(py, number) };
        if descr.is_null() { Err(PyErr::fetch(py)) } else { Ok(descr) }
    }
}

/// The descriptor of bfloat16 where no array of it has been seen yet: a caller named it, so `ml_dtypes` is imported.
#[cold]
fn bfloat16(py: Python<'_>) -> PyResult<*mut PyArray_Descr> {
    let scalar = py.import("ml_dtypes")?.getattr("bfloat16")?;
    let descr = py.import("numpy")?.getattr("dtype")?.call1((scalar,))?;
    let descr: *mut PyArray_Descr = descr.into_ptr().cast();
    Dtype::of(py, descr);
    Ok(descr)
}

/// Any NumPy array.
#[derive(Clone, Debug)]
pub(super) struct NdArray<'py>(Bound<'py, PyAny>);

impl<'py> NdArray<'py> {
    /// The object where it is an array and not of a subclass.
    #[inline]
    pub(super) fn exact(object: &Bound<'py, PyAny>) -> Option<Self> {
        // SAFETY: the object is alive.
        let exact = unsafe { npyffi::PyArray_CheckExact(object.py(), object.as_ptr()) } != 0;
        exact.then(|| Self(object.clone()))
    }

    /// The object where it is an array or of a subclass.
    pub(super) fn any(object: &Bound<'py, PyAny>) -> Option<Self> {
        // SAFETY: the object is alive.
        let array = unsafe { npyffi::PyArray_Check(object.py(), object.as_ptr()) } != 0;
        array.then(|| Self(object.clone()))
    }

    /// Takes over what a function of NumPy's C-API returned.
    ///
    /// # Safety
    ///
    /// `object` is null with an exception set, or a new reference to an array.
    pub(super) unsafe fn from_owned(py: Python<'py>, object: *mut pyo3::ffi::PyObject) -> PyResult<Self> {
        // SAFETY: the caller's promise.
        unsafe { Bound::from_owned_ptr_or_err(py, object) }.map(Self)
    }

    pub(super) fn py(&self) -> Python<'py> {
        self.0.py()
    }

    pub(super) fn into_object(self) -> Bound<'py, PyAny> {
        self.0
    }

    /// The array as an object, once more.
    pub(super) fn clone_object(&self) -> Bound<'py, PyAny> {
        self.0.clone()
    }

    pub(super) fn as_array_ptr(&self) -> *mut PyArrayObject {
        self.0.as_ptr().cast()
    }

    #[inline]
    fn fields(&self) -> &PyArrayObject_fields {
        // SAFETY: the object is an array, alive as long as `self`.
        unsafe { &*npyffi::_PyArray_GET_ITEM_DATA(self.as_array_ptr()) }
    }

    #[inline]
    pub(super) fn ndim(&self) -> usize {
        usize::try_from(self.fields().nd).unwrap_or(0)
    }

    #[inline]
    pub(super) fn shape(&self) -> &[npy_intp] {
        let fields = self.fields();
        // SAFETY: NumPy keeps `nd` dimensions there; the pointer may be null where nd is 0.
        if fields.nd <= 0 { &[] } else { unsafe { slice::from_raw_parts(fields.dimensions, self.ndim()) } }
    }

    /// Strides in bytes.
    #[inline]
    pub(super) fn strides(&self) -> &[npy_intp] {
        let fields = self.fields();
        // SAFETY: as for the shape.
        if fields.nd <= 0 { &[] } else { unsafe { slice::from_raw_parts(fields.strides, self.ndim()) } }
    }

    #[inline]
    pub(super) fn data(&self) -> *mut u8 {
        self.fields().data.cast()
    }

    pub(super) fn descr(&self) -> *mut PyArray_Descr {
        self.fields().descr
    }

    /// Whether all these NumPy flags are set.
    #[inline]
    pub(super) fn has(&self, flags: i32) -> bool {
        self.fields().flags & flags == flags
    }

    #[inline]
    pub(super) fn is_c_contiguous(&self) -> bool {
        self.has(NPY_ARRAY_C_CONTIGUOUS)
    }

    pub(super) fn is_writeable(&self) -> bool {
        self.has(NPY_ARRAY_WRITEABLE)
    }

    /// The number of elements.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.shape().iter().map(|&dim| dim.unsigned_abs()).product()
    }

    #[inline]
    pub(super) fn itemsize(&self) -> usize {
        // SAFETY: the descriptor of a live array.
        unsafe { npyffi::PyDataType_ELSIZE(self.py(), self.descr()) }.unsigned_abs()
    }

    /// The first address of the elements and the one past the last; equal where there are none.
    #[inline]
    pub(super) fn extent(&self) -> (usize, usize) {
        let (start, item) = (self.data() as usize, self.itemsize());
        if self.is_c_contiguous() {
            return (start, start + self.len() * item);
        }
        let (mut low, mut high) = (start, start + item);
        for (&dim, &stride) in self.shape().iter().zip(self.strides()) {
            if dim == 0 {
                return (start, start);
            }
            let reach = (dim - 1).unsigned_abs() * stride.unsigned_abs();
            if stride < 0 { low -= reach } else { high += reach }
        }
        (low, high)
    }

    /// Whether memory of `self` and of `other` might be shared: their extents meet.
    #[inline]
    pub(super) fn may_overlap(&self, other: &Self) -> bool {
        let ((low, high), (other_low, other_high)) = (self.extent(), other.extent());
        low < other_high && other_low < high
    }

    /// Whether both are the same elements in the same order.
    pub(super) fn is_same_view(&self, other: &Self) -> bool {
        self.data() == other.data()
            && self.shape() == other.shape()
            && (self.strides() == other.strides() || self.is_c_contiguous() && other.is_c_contiguous())
            && self.itemsize() == other.itemsize()
    }

    /// Whether elements are native, aligned, and a whole number of elements apart, as typed pointers need.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.is_native() && self.has(NPY_ARRAY_ALIGNED) && (self.is_c_contiguous() || self.has_whole_strides())
    }

    #[inline]
    fn is_native(&self) -> bool {
        // SAFETY: the descriptor of a live array.
        let order = unsafe { (*npyffi::_PyDataType_GET_ITEM_DATA(self.descr())).byteorder } as u8;
        order != if cfg!(target_endian = "little") { b'>' } else { b'<' }
    }

    fn has_whole_strides(&self) -> bool {
        let item = self.itemsize().cast_signed().max(1);
        self.shape().iter().zip(self.strides()).all(|(&dim, &stride)| dim <= 1 || stride % item == 0)
    }

    /// Whether the array is of this dtype in native byte order.
    pub(super) fn is_dtype(&self, dtype: Dtype) -> bool {
        Dtype::of(self.py(), self.descr()) == Some(dtype) && self.is_native()
    }

    /// The dtype as NumPy prints it.
    pub(super) fn dtype_name(&self) -> String {
        // SAFETY: the descriptor of a live array is an object.
        let descr = unsafe { Bound::from_borrowed_ptr(self.py(), self.descr().cast()) };
        descr.str().map_or_else(|_| "?".into(), |name| name.to_string())
    }

    fn kind(&self) -> u8 {
        // SAFETY: the descriptor of a live array.
        unsafe { (*npyffi::_PyDataType_GET_ITEM_DATA(self.descr())).kind as u8 }
    }

    /// The same values as another dtype, aligned and native, copied only where that is needed.
    ///
    /// # Safety
    ///
    /// `descr` is a new reference.
    unsafe fn cast(&self, descr: *mut PyArray_Descr, flags: i32) -> PyResult<Self> {
        let flags = flags | NPY_ARRAY_ALIGNED | NPY_ARRAY_NOTSWAPPED | NPY_ARRAY_FORCECAST | NPY_ARRAY_ENSUREARRAY;
        let py = self.py();
        // SAFETY: `self` is an array, and NumPy takes over the reference to the descriptor.
        unsafe { Self::from_owned(py, PY_ARRAY_API.PyArray_FromArray(py, self.as_array_ptr(), descr, flags)) }
    }
}

/// A NumPy array of a float dtype, native, aligned, its strides whole numbers of elements.
#[derive(Clone, Debug)]
pub(super) struct Array<'py> {
    array: NdArray<'py>,
    dtype: Dtype,
}

impl<'py> Deref for Array<'py> {
    type Target = NdArray<'py>;

    fn deref(&self) -> &NdArray<'py> {
        &self.array
    }
}

impl<'py> Array<'py> {
    /// The object where it is such an array already.
    #[inline]
    fn ready(object: &Bound<'py, PyAny>) -> Option<Self> {
        Self::from_ndarray(NdArray::exact(object)?)
    }

    #[inline]
    pub(super) fn from_ndarray(array: NdArray<'py>) -> Option<Self> {
        let dtype = Dtype::of(array.py(), array.descr())?;
        array.is_plain().then_some(Self { array, dtype })
    }

    pub(super) fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The array in another dtype: itself where it is of that.
    pub(super) fn cast_to(&self, dtype: Dtype) -> PyResult<Self> {
        if self.dtype == dtype {
            return Ok(self.clone());
        }
        // SAFETY: a new reference to the descriptor.
        let array = unsafe { self.array.cast(dtype.descr(self.py())?, 0)? };
        Ok(Self { array, dtype })
    }

    /// The array with its elements side by side in C order: itself where they are, else a copy.
    pub(super) fn contiguous(&self) -> PyResult<Self> {
        if self.is_c_contiguous() {
            return Ok(self.clone());
        }
        note(|| Event::Copy {
            what: format!("the operand of shape {}, to have its elements side by side", Shape(self.shape())),
            bytes: self.len() * self.itemsize(),
        });
        // SAFETY: a new reference to the descriptor.
        let array = unsafe { self.array.cast(self.dtype.descr(self.py())?, NPY_ARRAY_C_CONTIGUOUS)? };
        Ok(Self { array, dtype: self.dtype })
    }
}

/// Takes one argument that must be an array of floats; what brings no float dtype becomes float64.
#[inline]
pub(super) fn take<'py>(op: &str, name: &str, object: &Bound<'py, PyAny>) -> PyResult<Array<'py>> {
    if let Some(array) = Array::ready(object) {
        return Ok(array);
    }
    let [array] = convert(op, [(name, Some(object))])?;
    array.ok_or_else(|| missing(op, name))
}

/// Takes all array arguments of a call, which share one dtype. The first is there.
#[inline]
pub(super) fn take_all<'py, const N: usize>(
    op: &str,
    arguments: [(&str, Option<&Bound<'py, PyAny>>); N],
) -> PyResult<([Option<Array<'py>>; N], Dtype)> {
    let mut arrays = [const { None }; N];
    let mut common = None;
    let mut ready = true;
    for (array, (_, object)) in arrays.iter_mut().zip(&arguments) {
        if let Some(object) = object {
            *array = Array::ready(object);
            let dtype = array.as_ref().map(Array::dtype);
            ready &= dtype.is_some() && (common.is_none() || common == dtype);
            common = common.or(dtype);
        }
    }
    if !ready {
        arrays = convert(op, arguments)?;
        common = arrays.iter().flatten().map(Array::dtype).next();
    }
    match common {
        Some(dtype) => Ok((arrays, dtype)),
        None => Err(missing(op, arguments[0].0)),
    }
}

#[cold]
fn missing(op: &str, name: &str) -> PyErr {
    PyTypeError::new_err(format!("{op}: {name} must be an array, not None"))
}

/// Takes one argument that must be an array of floats; what brings no float dtype of its own becomes `dtype`.
#[inline]
pub(super) fn take_as<'py>(op: &str, name: &str, object: &Bound<'py, PyAny>, dtype: Dtype) -> PyResult<Array<'py>> {
    if let Some(array) = Array::ready(object) {
        return Ok(array);
    }
    let candidate = Candidate::new(op, name, object)?;
    let dtype = candidate.dtype.filter(|_| candidate.strong).unwrap_or(dtype);
    candidate.settle(op, name, dtype)
}

/// Takes an array or a sequence of numbers of any real dtype as float64.
pub(super) fn take_f64<'py>(op: &str, name: &str, object: &Bound<'py, PyAny>) -> PyResult<Array<'py>> {
    Candidate::new(op, name, object)?.settle(op, name, Dtype::F64)
}

/// An argument as an array, before its dtype is settled.
struct Candidate<'py> {
    array: NdArray<'py>,
    dtype: Option<Dtype>,
    /// Its dtype is its own: not a list or a Python number.
    strong: bool,
}

#[cold]
fn convert<'py, const N: usize>(
    op: &str,
    arguments: [(&str, Option<&Bound<'py, PyAny>>); N],
) -> PyResult<[Option<Array<'py>>; N]> {
    let mut candidates = [const { None }; N];
    let mut leader: Option<(&str, Dtype)> = None;
    for (candidate, &(name, object)) in candidates.iter_mut().zip(&arguments) {
        let Some(object) = object else { continue };
        let found = Candidate::new(op, name, object)?;
        if let (true, Some(dtype)) = (found.strong, found.dtype) {
            match leader {
                None => leader = Some((name, dtype)),
                Some((_, common)) if common == dtype => {}
                Some((first, common)) => {
                    let (common, dtype) = (common.name(), dtype.name());
                    return Err(PyTypeError::new_err(format!(
                        "{op}: {first} has dtype {common} and {name} has dtype {dtype}; the arrays of a call share one \
                         dtype, convert one of them with .astype()"
                    )));
                }
            }
        }
        *candidate = Some(found);
    }
    let common = leader.map_or_else(
        || {
            // Lists alone: their numbers' own float dtype where they all agree on one, as NumPy finds it.
            let mut found = candidates.iter().flatten().map(|candidate| candidate.dtype);
            let first = found.next().flatten().unwrap_or(Dtype::F64);
            if found.all(|dtype| dtype == Some(first)) { first } else { Dtype::F64 }
        },
        |(_, dtype)| dtype,
    );
    let mut arrays = [const { None }; N];
    for ((slot, candidate), (name, _)) in arrays.iter_mut().zip(candidates).zip(arguments) {
        if let Some(candidate) = candidate {
            *slot = Some(candidate.settle(op, name, common)?);
        }
    }
    Ok(arrays)
}

impl<'py> Candidate<'py> {
    fn new(op: &str, name: &str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let (array, strong) = as_ndarray(op, name, object)?;
        let dtype = Dtype::of(array.py(), array.descr());
        if dtype.is_none() && !matches!(array.kind(), b'b' | b'i' | b'u') {
            if array.kind() == b'O' && array.ndim() == 0 {
                let kind = type_name(object);
                return Err(PyTypeError::new_err(format!(
                    "{op}: {name} must be an array or a sequence of numbers, not {kind}"
                )));
            }
            return Err(wrong_dtype(op, name, &array.dtype_name(), FLOATS));
        }
        Ok(Self { array, dtype, strong: strong && dtype.is_some() })
    }

    /// Why the array cannot be used as it is.
    fn reason(&self, dtype: Dtype) -> String {
        if self.dtype != Some(dtype) {
            format!("from {} to {}", self.array.dtype_name(), dtype.name())
        } else if !self.array.is_native() {
            "as its bytes are swapped".into()
        } else {
            "as it is not aligned".into()
        }
    }

    fn settle(self, op: &str, name: &str, dtype: Dtype) -> PyResult<Array<'py>> {
        let array = if self.dtype == Some(dtype) && self.array.is_plain() {
            self.array
        } else {
            note(|| Event::Copy {
                what: format!("{name}, {}", self.reason(dtype)),
                bytes: self.array.len() * dtype.size(),
            });
            // SAFETY: a new reference to the descriptor.
            unsafe { self.array.cast(dtype.descr(self.array.py())?, 0)? }
        };
        if array.is_plain() {
            return Ok(Array { array, dtype });
        }
        // Aligned and native, but its elements lie a fraction apart, as doubles on some 32-bit machines may.
        let py = array.py();
        // SAFETY: `array` is one.
        let copy = unsafe {
            NdArray::from_owned(
                py,
                PY_ARRAY_API.PyArray_NewCopy(py, array.as_array_ptr(), npyffi::NPY_ORDER::NPY_CORDER),
            )?
        };
        Array::from_ndarray(copy)
            .ok_or_else(|| PyTypeError::new_err(format!("{op}: {} is not supported", dtype.name())))
    }
}

/// The object as an array that is no subclass, copied only where it is no array yet; and whether its dtype is its own.
fn as_ndarray<'py>(op: &str, name: &str, object: &Bound<'py, PyAny>) -> PyResult<(NdArray<'py>, bool)> {
    let py = object.py();
    if let Some(array) = NdArray::exact(object) {
        return Ok((array, true));
    }
    if object.is_none() {
        return Err(missing(op, name));
    }
    if NdArray::any(object).is_some() {
        refuse_masked(op, name, object)?;
        return Ok((from_any(object)?, true));
    }
    let literal = object.is_instance_of::<PyList>()
        || object.is_instance_of::<PyTuple>()
        || object.is_instance_of::<PyRange>()
        || object.is_exact_instance_of::<PyFloat>()
        || object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyBool>()
        || object.is_exact_instance_of::<PyComplex>();
    if !literal && !object.hasattr("__array__")? && object.hasattr("__dlpack__")? {
        let array = py.import("numpy")?.getattr("from_dlpack")?.call1((object,))?;
        return match NdArray::any(&array) {
            Some(array) => Ok((array, true)),
            None => Err(PyTypeError::new_err(format!("{op}: {name} gives no array through __dlpack__"))),
        };
    }
    let array = from_any(object)?;
    if literal {
        let bytes = || array.len() * array.itemsize();
        note(|| Event::Copy { what: format!("{name}, from a {}", type_name(object)), bytes: bytes() });
    }
    Ok((array, !literal))
}

/// `numpy.asarray`
fn from_any<'py>(object: &Bound<'py, PyAny>) -> PyResult<NdArray<'py>> {
    let (py, null) = (object.py(), ptr::null_mut());
    // SAFETY: the object is alive; no dtype is asked for.
    unsafe {
        NdArray::from_owned(
            py,
            PY_ARRAY_API.PyArray_FromAny(py, object.as_ptr(), ptr::null_mut(), 0, 0, NPY_ARRAY_ENSUREARRAY, null),
        )
    }
}

/// A masked array would lose its mask without a word.
pub(super) fn refuse_masked(op: &str, name: &str, object: &Bound<'_, PyAny>) -> PyResult<()> {
    let masked = object.py().import("numpy.ma")?.getattr("MaskedArray")?;
    if object.is_instance(&masked)? {
        return Err(PyTypeError::new_err(format!(
            "{op}: {name} is a masked array, whose mask would be ignored; pass {name}.filled(value) or {name}.data"
        )));
    }
    Ok(())
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
    name: &str,
    object: &Bound<'py, PyAny>,
    dtype: Dtype,
) -> PyResult<MaskArray<'py>> {
    let (array, strong) = as_ndarray(op, name, object)?;
    if matches!(array.kind(), b'b' | b'i' | b'u') {
        let py = array.py();
        if array.itemsize() == 1 {
            return Ok(MaskArray::Selects(array));
        }
        // SAFETY: NumPy's own dtypes are there, and the reference is new.
        return unsafe {
            let descr = PY_ARRAY_API.PyArray_DescrFromType(py, NPY_TYPES::NPY_BOOL as i32);
            array.cast(descr, 0).map(MaskArray::Selects)
        };
    }
    let found = Dtype::of(array.py(), array.descr());
    match found {
        Some(found) if strong && found != dtype => {
            let (found, expected) = (found.name(), dtype.name());
            Err(wrong_dtype(op, name, found, &format!("{expected} as x has, bool or integers")))
        }
        Some(found) => {
            Candidate { array, dtype: Some(found), strong }.settle(op, name, dtype).map(MaskArray::Multiplies)
        }
        None => Err(wrong_dtype(op, name, &array.dtype_name(), &format!("{}, bool or integers", dtype.name()))),
    }
}
