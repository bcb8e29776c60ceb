//! From arguments to a kernel that runs: the one way in which a call looks at its arrays again, gives up the GIL and
//! comes back. Arguments are converted in `take` and `arguments`, results made in `out`.

use std::ops::Deref;
use std::vec::Vec;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::dtype::Dtype;
use super::errors::{out_of_memory, wrong_dtype};
use super::ndarray::{NdArray, Operand, Pins, Target};
use super::out::Output;
use super::take::Array;
use crate::trace::{Event, note};

/// An argument as Python hands it over.
pub(super) type Object<'a, 'py> = &'a Bound<'py, PyAny>;
/// What a function returns to Python.
pub(super) type Returned<'py> = PyResult<Bound<'py, PyAny>>;

/// Work below this many nanoseconds is done without giving up the GIL, which itself costs some 50.
const KEEP_GIL: f32 = 10_000.0;

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
        self.seen.iter().try_for_each(|array| array.operand(self.op).map(drop))
    }
}

/// The arrays that a kernel reads.
pub(super) trait Inputs<'a, 'py> {
    /// What it reads them through.
    type Operands: Send;

    /// Keeps them where they are.
    fn pin(&self, pins: &mut Pins<'py>) -> PyResult<()>;

    /// Looks at them again.
    fn operands(self, op: &str) -> PyResult<Self::Operands>;
}

impl<'a, 'py, const N: usize> Inputs<'a, 'py> for [Option<&'a NdArray<'py>>; N] {
    type Operands = [Option<Operand<'a>>; N];

    fn pin(&self, pins: &mut Pins<'py>) -> PyResult<()> {
        self.iter().flatten().try_for_each(|array| array.pin(pins))
    }

    #[inline(always)]
    fn operands(self, op: &str) -> PyResult<Self::Operands> {
        let mut operands = [const { None }; N];
        for (operand, array) in operands.iter_mut().zip(self) {
            if let Some(array) = array {
                *operand = Some(array.operand(op)?);
            }
        }
        Ok(operands)
    }
}

impl<'a, 'py> Inputs<'a, 'py> for &'a [Array<'py>] {
    type Operands = Vec<Operand<'a>>;

    fn pin(&self, pins: &mut Pins<'py>) -> PyResult<()> {
        self.iter().try_for_each(|array| array.pin(pins))
    }

    fn operands(self, op: &str) -> PyResult<Self::Operands> {
        let mut operands = Vec::new();
        operands.try_reserve_exact(self.len()).map_err(|_| out_of_memory())?;
        for array in self {
            operands.push(array.operand(op)?);
        }
        Ok(operands)
    }
}

/// Runs a kernel that takes about so many nanoseconds, and returns its result to Python.
///
/// Whatever may run Python code comes before this: here each array is looked at a second time, and from then on the
/// kernel goes by what was seen. Without the GIL other threads run: what they could do to the memory of `inputs` and of
/// the result, NumPy is kept from.
#[inline(always)]
pub(super) fn run<'a, 'py: 'a, I: Inputs<'a, 'py>, E: Send>(
    call: &Call<'py>,
    inputs: I,
    output: Output<'_, 'py>,
    nanoseconds: f32,
    kernel: impl FnOnce(I::Operands, Target<'_>) -> Result<(), E> + Send,
) -> Returned<'py>
where
    PyErr: From<E>,
{
    let (py, op) = (output.py(), call.op);
    let releases = nanoseconds >= KEEP_GIL;
    // Pins are objects, whose making may run the finalisers of others: so they come before the second look.
    let mut pins = Pins::default();
    if releases {
        inputs.pin(&mut pins)?;
    }
    if releases || output.is_copied() {
        output.pin(&mut pins)?;
    }
    call.look_again()?;
    let operands = inputs.operands(op)?;
    let target = output.target(op)?;
    if releases {
        released(py, || kernel(operands, target))?;
    } else {
        kernel(operands, target)?;
    }
    output.finish(op)
}

/// Runs a kernel that writes nothing that Python sees, as [`run`] does.
pub(super) fn read<'a, 'py: 'a, I: Inputs<'a, 'py>, R: Send>(
    call: &Call<'py>,
    py: Python<'py>,
    inputs: I,
    nanoseconds: f32,
    kernel: impl FnOnce(I::Operands) -> R + Send,
) -> PyResult<R> {
    let op = call.op;
    if nanoseconds < KEEP_GIL {
        call.look_again()?;
        return Ok(kernel(inputs.operands(op)?));
    }
    let mut pins = Pins::default();
    inputs.pin(&mut pins)?;
    call.look_again()?;
    let operands = inputs.operands(op)?;
    Ok(released(py, || kernel(operands)))
}

/// Runs `work` without the GIL.
fn released<R: Send>(py: Python<'_>, work: impl FnOnce() -> R + Send) -> R {
    note(|| Event::Released);
    py.detach(work)
}
