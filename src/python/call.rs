//! A call under way: what it was called by, and what was seen of its arrays before anything foreign could run. Arguments
//! are converted in `take` and `arguments`, results made in `out`, kernels run in `launch`.

use std::boxed::Box;
use std::ops::Deref;
use std::vec::Vec;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::dtype::Dtype;
use super::errors::{out_of_memory, wrong_dtype};
use super::list::boxed;
use super::ndarray::{NdArray, Pins};
use super::take::{Array, Slots};

/// An argument as Python hands it over.
pub(super) type Object<'a, 'py> = &'a Bound<'py, PyAny>;
/// An argument with its name, where it is there.
pub(super) type Named<'a, 'py> = (&'static str, Option<Object<'a, 'py>>);
/// What a function returns to Python.
pub(super) type Returned<'py> = PyResult<Bound<'py, PyAny>>;

/// What functions call their first arrays, and whether they take float32 only.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) x: &'static str,
    pub(super) weight: &'static str,
    pub(super) only_f32: bool,
}

impl Names {
    /// Those of all but functions of former versions.
    pub(super) const USUAL: Self = Self { x: "x", weight: "weight", only_f32: false };
}

/// The name a function was called by, and those of its arrays.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signature {
    pub(super) op: &'static str,
    names: &'static Names,
}

impl Deref for Signature {
    type Target = Names;

    #[inline]
    fn deref(&self) -> &Names {
        self.names
    }
}

impl Signature {
    pub(super) const fn new(op: &'static str) -> Self {
        Self::named(op, &Names::USUAL)
    }

    pub(super) const fn named(op: &'static str, names: &'static Names) -> Self {
        Self { op, names }
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
    /// `None` where nothing foreign can run.
    looked: Option<Box<Looked<'py>>>,
}

/// What was seen of the arrays of a call.
#[derive(Debug, Default)]
struct Looked<'py> {
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
    pub(super) fn new<const N: usize>(signature: Signature, arguments: [Named<'_, 'py>; N]) -> PyResult<Self> {
        Self::with(signature, [], arguments, &mut [])
    }

    /// [`new`](Call::new), where the first arguments are arrays: those that need no conversion are taken at once, which
    /// shows that nothing foreign can run when they are.
    #[inline(always)]
    pub(super) fn with<const N: usize, const M: usize>(
        signature: Signature,
        arrays: [Named<'_, 'py>; N],
        others: [Named<'_, 'py>; M],
        slots: &mut Slots<'py, N>,
    ) -> PyResult<Self> {
        let mut inert = true;
        for (slot, (name, object)) in slots.iter_mut().zip(arrays) {
            if let Some(object) = object {
                Array::put(slot, name, object)?;
                inert &= slot.is_some() || NdArray::is_inert(object);
            }
        }
        let inert = inert && others.iter().all(|(_, object)| object.is_none_or(NdArray::is_inert));
        let looked = if inert { None } else { Some(Looked::new(&[&arrays, &others])?) };
        Ok(Self { signature, looked })
    }

    /// Takes the one array of a call.
    #[inline(always)]
    pub(super) fn take<'a>(&self, x: Object<'_, 'py>, slot: &'a mut Option<Array<'py>>) -> PyResult<&'a Array<'py>> {
        let x = super::take::take(self.op, self.x, x, slot).map_err(|error| self.blame(error))?;
        self.look_again()?;
        self.check(x.dtype())?;
        Ok(x)
    }

    /// What to say of a failed conversion: that an array was changed meanwhile, where one was.
    #[cold]
    pub(super) fn blame(&self, error: PyErr) -> PyErr {
        self.look_again().err().unwrap_or(error)
    }

    /// Sees that no array was changed since the call began.
    #[inline(always)]
    pub(super) fn look_again(&self) -> PyResult<()> {
        self.looked.as_ref().map_or(Ok(()), |looked| looked.again(self.op))
    }
}

impl<'py> Looked<'py> {
    #[cold]
    fn new(arguments: &[&[Named<'_, 'py>]]) -> PyResult<Box<Self>> {
        let mut looked = boxed(Self::default()).map_err(|_| out_of_memory())?;
        for &(name, object) in arguments.iter().copied().flatten() {
            let Some(object) = object else { continue };
            match object.cast_exact::<PyTuple>() {
                Ok(tuple) => tuple.iter().try_for_each(|item| looked.look_at(name, &item))?,
                Err(_) => looked.look_at(name, object)?,
            }
        }
        Ok(looked)
    }

    fn look_at(&mut self, name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<()> {
        self.pins.pin(object)?;
        if let Some(array) = NdArray::any(name, object)? {
            self.seen.try_reserve(1).map_err(|_| out_of_memory())?;
            self.seen.push(array);
        }
        Ok(())
    }

    #[cold]
    fn again(&self, op: &str) -> PyResult<()> {
        self.seen.iter().try_for_each(|array| array.operand(op).map(drop))
    }
}
