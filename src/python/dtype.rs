//! The dtypes that kernels take, the one way in which Rust types are picked by them, and NumPy's own objects for them and for
//! arrays, which are looked up once.

use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use numpy::npyffi::{self, NPY_TYPES, NpyTypes, PY_ARRAY_API, PyArray_Descr};
use pyo3::ffi::PyTypeObject;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::errors::type_error;
use super::list::{attribute, imported};
use crate::float::Float;

/// How the four are named together in messages.
pub(super) const FLOATS: &str = "float16, bfloat16, float32 or float64";

/// A dtype that kernels take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dtype {
    F16,
    Bf16,
    F32,
    F64,
}

/// The Rust type of a dtype.
pub(super) trait Element: Float {
    const DTYPE: Dtype;
}

impl Element for half::f16 {
    const DTYPE: Dtype = Dtype::F16;
}

impl Element for half::bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
}

impl Element for f64 {
    const DTYPE: Dtype = Dtype::F64;
}

/// Runs a generic expression with `$T` standing for the Rust type of a [`Dtype`].
macro_rules! for_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::python::dtype::Dtype::F16 => {
                type $T = half::f16;
                $body
            }
            $crate::python::dtype::Dtype::Bf16 => {
                type $T = half::bf16;
                $body
            }
            $crate::python::dtype::Dtype::F32 => {
                type $T = f32;
                $body
            }
            $crate::python::dtype::Dtype::F64 => {
                type $T = f64;
                $body
            }
        }
    };
}
pub(super) use for_dtype;

/// The number that NumPy gave to `ml_dtypes.bfloat16` when that was imported, once an array of it has been seen.
static BFLOAT16: AtomicI32 = AtomicI32::new(-1);

/// NumPy's own descriptors, in the order of [`Dtype`], once they were asked for: that takes as long as a small kernel. That
/// of bfloat16, which is another package's and may be changed, is not among them.
static OWN: [AtomicPtr<PyArray_Descr>; 4] = [const { AtomicPtr::new(ptr::null_mut()) }; 4];

impl Dtype {
    pub(super) const ALL: [Self; 4] = [Self::F16, Self::Bf16, Self::F32, Self::F64];

    /// The dtype of a descriptor, whatever its byte order, where it is one of NumPy's own.
    ///
    /// # Safety
    ///
    /// `descr` is the descriptor of a live array, or one that the caller holds a reference to.
    #[inline]
    pub(super) unsafe fn builtin(descr: *mut PyArray_Descr) -> Option<Self> {
        const HALF: i32 = NPY_TYPES::NPY_HALF as i32;
        const FLOAT: i32 = NPY_TYPES::NPY_FLOAT as i32;
        const DOUBLE: i32 = NPY_TYPES::NPY_DOUBLE as i32;
        // SAFETY: the caller's promise.
        match unsafe { (*npyffi::_PyDataType_GET_ITEM_DATA(descr)).type_num } {
            FLOAT => Some(Self::F32),
            DOUBLE => Some(Self::F64),
            HALF => Some(Self::F16),
            _ => None,
        }
    }

    /// Whether a descriptor is one of bools, numbers or strings of NumPy's own, or of bfloat16.
    ///
    /// # Safety
    ///
    /// As for [`builtin`](Dtype::builtin).
    pub(super) unsafe fn is_simple(descr: *mut PyArray_Descr) -> bool {
        const OBJECT: i32 = NPY_TYPES::NPY_OBJECT as i32;
        // SAFETY: the caller's promise.
        let number = unsafe { (*npyffi::_PyDataType_GET_ITEM_DATA(descr)).type_num };
        let own = (0..NPY_TYPES::NPY_NTYPES_LEGACY as i32).contains(&number) && number != OBJECT;
        own || number == BFLOAT16.load(Ordering::Relaxed)
    }

    /// The dtype of a descriptor that another package has registered: `ml_dtypes.bfloat16` is known, and never imported
    /// from here.
    ///
    /// # Safety
    ///
    /// As for [`builtin`](Dtype::builtin).
    pub(super) unsafe fn registered(py: Python<'_>, descr: *mut PyArray_Descr) -> Option<Self> {
        // SAFETY: the caller's promise.
        let number = unsafe { (*npyffi::_PyDataType_GET_ITEM_DATA(descr)).type_num };
        if number < NPY_TYPES::NPY_USERDEF as i32 {
            return None;
        }
        if BFLOAT16.load(Ordering::Relaxed) == number {
            return Some(Self::Bf16);
        }
        // SAFETY: the caller's promise; a descriptor owns its scalar type, to which `scalar` is a reference of its own.
        let (scalar, size) = unsafe {
            let scalar = (*npyffi::_PyDataType_GET_ITEM_DATA(descr)).typeobj;
            (Bound::from_borrowed_ptr_or_opt(py, scalar.cast())?, npyffi::PyDataType_ELSIZE(py, descr))
        };
        let name = attribute(&scalar, "__name__").ok()?.cast_into::<PyString>().ok()?;
        if name.to_cow().ok()? != "bfloat16" || size != 2 {
            return None;
        }
        BFLOAT16.store(number, Ordering::Relaxed);
        Some(Self::Bf16)
    }

    /// The dtype of this name, for arguments that name one.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// The dtype that an argument of `op` names, as a string or as a NumPy dtype.
    pub(super) fn from_argument(op: &str, argument: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(name) = argument.cast::<PyString>()
            && let Some(dtype) = Self::from_name(&name.to_cow()?)
        {
            return Ok(dtype);
        }
        let found = imported(argument.py(), "numpy", "dtype")?.call1((argument,)).ok().filter(|found| {
            // Another byte order is another dtype.
            attribute(found, "isnative").and_then(|native| native.is_truthy()).unwrap_or(false)
        });
        let name = found.and_then(|found| attribute(&found, "name").ok()?.cast_into::<PyString>().ok());
        let named = name.as_ref().and_then(|name| Self::from_name(&name.to_cow().ok()?));
        named.ok_or_else(|| match argument.repr() {
            Ok(found) => type_error!("{op}: dtype must be {FLOATS}, not {found}"),
            Err(error) => error,
        })
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F32 => "float32",
            Self::F64 => "float64",
        }
    }

    #[inline]
    pub(super) const fn size(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// What is computed in.
    #[inline]
    pub(super) const fn compute(self) -> Self {
        match self {
            Self::F64 => Self::F64,
            _ => Self::F32,
        }
    }

    /// The native NumPy dtype object.
    pub(super) fn object(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        // SAFETY: a new reference to an object.
        Ok(unsafe { Bound::from_owned_ptr(py, self.descr(py)?.cast()) })
    }

    /// The native NumPy descriptor, a new reference.
    #[inline]
    pub(super) fn descr(self, py: Python<'_>) -> PyResult<*mut PyArray_Descr> {
        let known = OWN[self as usize].load(Ordering::Relaxed);
        if known.is_null() {
            return self.find_descr(py);
        }
        // SAFETY: one of NumPy's own descriptors, of which there is one each for as long as the process lives.
        unsafe { pyo3::ffi::Py_INCREF(known.cast()) };
        Ok(known)
    }

    #[cold]
    fn find_descr(self, py: Python<'_>) -> PyResult<*mut PyArray_Descr> {
        let number = match self {
            Self::F16 => NPY_TYPES::NPY_HALF as i32,
            Self::F32 => NPY_TYPES::NPY_FLOAT as i32,
            Self::F64 => NPY_TYPES::NPY_DOUBLE as i32,
            Self::Bf16 => match BFLOAT16.load(Ordering::Relaxed) {
                -1 => return bfloat16(py),
                number => number,
            },
        };
        // SAFETY: no more than the number is asked; where there were no such dtype, null comes back.
        let descr = unsafe { PY_ARRAY_API.PyArray_DescrFromType(py, number) };
        if descr.is_null() {
            return Err(PyErr::fetch(py));
        }
        // SAFETY: a descriptor, as it is not null.
        if self == Self::Bf16 && unsafe { npyffi::PyDataType_ELSIZE(py, descr) } != 2 {
            // SAFETY: the reference from above, given back.
            drop(unsafe { Bound::from_owned_ptr(py, descr.cast::<pyo3::ffi::PyObject>()) });
            return Err(type_error!("the dtype of ml_dtypes.bfloat16 was changed: an element no longer has two bytes"));
        }
        if self != Self::Bf16 {
            OWN[self as usize].store(descr, Ordering::Relaxed);
        }
        Ok(descr)
    }
}

/// The descriptor of bfloat16 where no array of it has been seen yet: a caller named it, so `ml_dtypes` is imported.
#[cold]
fn bfloat16(py: Python<'_>) -> PyResult<*mut PyArray_Descr> {
    let scalar = imported(py, "ml_dtypes", "bfloat16")?;
    let descr = imported(py, "numpy", "dtype")?.call1((&scalar,))?;
    // Anything may stand in for either module, and its dtype be of another size than what is written.
    // SAFETY: the object is alive. It is only taken for a descriptor where it is one, to which `descr` is a reference.
    let known = unsafe {
        let class = npyffi::get_type_object(py, NpyTypes::PyArrayDescr_Type);
        match pyo3::ffi::PyObject_TypeCheck(descr.as_ptr(), class) {
            0 => None,
            _ => Dtype::registered(py, descr.as_ptr().cast()),
        }
    };
    match known {
        // By its number, which is known by now: so that it is the native one.
        Some(dtype) => dtype.descr(py),
        None => Err(type_error!("ml_dtypes.bfloat16 is {scalar}, which is no bfloat16")),
    }
}

/// NumPy's type of arrays, once it was asked for: through its table of functions it takes longer to find.
static ARRAY_TYPE: AtomicPtr<PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// NumPy's type of arrays.
#[inline(always)]
pub(super) fn array_type(py: Python<'_>) -> *mut PyTypeObject {
    let known = ARRAY_TYPE.load(Ordering::Relaxed);
    if known.is_null() { find_array_type(py) } else { known }
}

#[cold]
fn find_array_type(py: Python<'_>) -> *mut PyTypeObject {
    // SAFETY: NumPy is there: its table was read when the module was made.
    let array = unsafe { npyffi::get_type_object(py, NpyTypes::PyArray_Type) };
    ARRAY_TYPE.store(array, Ordering::Relaxed);
    array
}
