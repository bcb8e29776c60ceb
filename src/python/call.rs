//! A call under way: what it was called by, and what was seen of its arrays before anything foreign could run. Arguments
//! are converted in `take` and `arguments`, results made in `out`, kernels run in `launch`.

use std::ops::Deref;
use std::vec::Vec;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::dtype::Dtype;
use super::errors::{out_of_memory, wrong_dtype};
use super::ndarray::{NdArray, Pins};
use super::take::Array;

/// An argument as Python hands it over.
pub(super) type Object<'a, 'py> = &'a Bound<'py, PyAny>;
/// What a function returns to Python.
pub(super) type Returned<'py> = PyResult<Bound<'py, PyAny>>;

/// The name a function was called by, those of its first arrays, and whether it takes float32 only.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signature {
    pub(super) op: &'static str,
    pub(super) x: &'static str,
    pub(super) weight: &'static str,
    pub(super) only_f32: bool,
}

impl Signature {
    pub(super) const fn new(op: &'static str) -> Self {
        Self { op, x: "x", weight: "weight", only_f32: false }
    }

    /// Sees that a function for float32 got just that.
    #[inline]
    pub(super) fn check(self, dtype: Dtype) -> PyResult<()> {
        if self.only_f32 && dtype != Dtype::F32 {
            return Err(wrong_dtype(self.op, self.x, dtype.name(), "float32"));
        }
        Ok(())
    }
}

/// A call under way: what it was called by, and what was seen of its arrays before anything foreign could run.
#[derive(Debug)]
pub(super) struct Call<'py> {
    pub(super) signature: Signature,
    /// Empty where nothing foreign can run.
    seen: Vec<NdArray<'py>>,
    /// Keep those from being resized, and what they are views of.
    pins: Pins<'py>,
}

impl Deref for Call<'_> {
    type Target = Signature;

    #[inline]
    fn deref(&self) -> &Signature {
        &self.signature
    }
}

impl<'py> Call<'py> {
    /// Begins a call: looks at each argument that is an array, if converting some other may run Python code.
    #[inline(always)]
    pub(super) fn new<const N: usize>(
        signature: Signature,
        arguments: [(&'static str, Option<&Bound<'py, PyAny>>); N],
    ) -> PyResult<Self> {
        let mut call = Self { signature, seen: Vec::new(), pins: Pins::default() };
        if !arguments.iter().all(|(_, object)| object.is_none_or(NdArray::is_inert)) {
            call.look(&arguments)?;
        }
        Ok(call)
    }

    #[inline(always)]
    pub(super) fn take<'a>(&self, x: Object<'_, 'py>, slot: &'a mut Option<Array<'py>>) -> PyResult<&'a Array<'py>> {
        let x = super::take::take(self.op, self.x, x, slot).map_err(|error| self.blame(error))?;
        self.look_again()?;
        self.check(x.dtype())?;
        Ok(x)
    }

    #[cold]
    fn look(&mut self, arguments: &[(&'static str, Option<&Bound<'py, PyAny>>)]) -> PyResult<()> {
        for &(name, object) in arguments {
            let Some(object) = object else { continue };
            match object.cast_exact::<PyTuple>() {
                Ok(tuple) => tuple.iter().try_for_each(|item| self.look_at(name, &item))?,
                Err(_) => self.look_at(name, object)?,
            }
        }
        Ok(())
    }

    fn look_at(&mut self, name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<()> {
        self.pins.pin(object)?;
        if let Some(array) = NdArray::any(name, object)? {
            self.seen.try_reserve(1).map_err(|_| out_of_memory())?;
            self.seen.push(array);
        }
        Ok(())
    }

    /// What to say of a failed conversion: that an array was changed meanwhile, where one was.
    #[cold]
    pub(super) fn blame(&self, error: PyErr) -> PyErr {
        self.look_again().err().unwrap_or(error)
    }

    /// Sees that no array was changed since the call began.
    #[inline(always)]
    pub(super) fn look_again(&self) -> PyResult<()> {
        if self.seen.is_empty() { Ok(()) } else { self.look_at_each_again() }
    }

    #[cold]
    fn look_at_each_again(&self) -> PyResult<()> {
        self.seen.iter().try_for_each(|array| array.operand(self.op).map(drop))
    }
}
