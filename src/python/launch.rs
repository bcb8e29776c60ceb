//! The one way in which a call runs its kernel: looks at its arrays again, gives up the GIL, comes back with the result.

use std::vec::Vec;

use pyo3::prelude::*;

use super::call::{Call, Returned};
use super::errors::out_of_memory;
use super::ndarray::{NdArray, Operand, Pins, Target};
use super::out::Output;
use super::take::Array;
use super::threads::limit;
use crate::trace::{Event, note};
use crate::with_threads;

/// Work below this many nanoseconds is done without giving up the GIL, which itself costs some 50.
const KEEP_GIL: f32 = 10_000.0;

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
pub(super) fn write<'a, 'py: 'a, I: Inputs<'a, 'py>, E: Send>(
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
    // To look for a limit, and to make pins, which are objects, may run finalisers: so they come before the second look.
    let threads = limit(py);
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
        released(py, threads, || kernel(operands, target))?;
    } else {
        with_threads(threads, || kernel(operands, target))?;
    }
    output.finish(op)
}

/// Runs a kernel that writes nothing that Python sees, as [`write`] does.
pub(super) fn read<'a, 'py: 'a, I: Inputs<'a, 'py>, R: Send>(
    call: &Call<'py>,
    py: Python<'py>,
    inputs: I,
    nanoseconds: f32,
    kernel: impl FnOnce(I::Operands) -> R + Send,
) -> PyResult<R> {
    let (op, threads) = (call.op, limit(py));
    if nanoseconds < KEEP_GIL {
        call.look_again()?;
        let operands = inputs.operands(op)?;
        return Ok(with_threads(threads, || kernel(operands)));
    }
    let mut pins = Pins::default();
    inputs.pin(&mut pins)?;
    call.look_again()?;
    let operands = inputs.operands(op)?;
    Ok(released(py, threads, || kernel(operands)))
}

/// Runs `work` without the GIL.
fn released<R: Send>(py: Python<'_>, threads: usize, work: impl FnOnce() -> R + Send) -> R {
    note(|| Event::Released);
    detach_with(py, threads, work)
}

/// Runs `work`, which may use threads, without the GIL.
pub(super) fn detach<R: Send>(py: Python<'_>, work: impl FnOnce() -> R + Send) -> R {
    detach_with(py, limit(py), work)
}

fn detach_with<R: Send>(py: Python<'_>, threads: usize, work: impl FnOnce() -> R + Send) -> R {
    with_threads(threads, || {
        // The first time this reads the environment, which other threads may change where they hold the GIL.
        crate::num_threads();
        py.detach(work)
    })
}
