//! A small stack of layers run block of rows by block of rows, so that what one layer leaves is still in the cache when
//! the next reads it. The layers themselves live in their own files.

use core::fmt;
use std::boxed::Box;
use std::sync::Mutex;
use std::vec::Vec;

use crate::error::{Error, NoMemory, ShapeError};
use crate::float::Float;
use crate::gemm::partition::max_workspace;
use crate::gemm::problem::{Residual, nanoseconds};
use crate::math::activation::Activation;
use crate::ops::activation::activate;
use crate::ops::layer_norm::{layer_norm, rms_norm};
use crate::ops::packed_linear::PackedLinear;
use crate::ops::softmax::{log_softmax, softmax};
use crate::parallel;
use crate::view::{Matrix, MatrixMut};
use crate::workspace::Reserved;

/// Something that turns each row into a row, whatever the other rows are: what a [`Sequential`] is made of.
pub trait Layer<T: Float>: Send + Sync {
    /// How many columns x must have; `None` where any number will do.
    fn in_features(&self) -> Option<usize>;

    /// How many columns come out where `in_features` go in.
    fn out_features(&self, in_features: usize) -> usize;

    /// Computes `out`, which has as many rows as `x` and the columns that [`out_features`](Layer::out_features) tells.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] where the shapes do not fit, [`Error::OutOfMemory`] where there is no memory for it.
    fn run(&self, x: Matrix<'_, T>, out: MatrixMut<'_, T>) -> Result<(), Error>;

    /// How many bytes of memory [`run`](Layer::run) takes at most, beside x and out, on the thread that calls it, for
    /// so many rows: what the functions of this crate that it calls lay out there. A [`Sequential`] sees to them before
    /// it writes the first row; a layer that takes more may leave some rows written where it fails. 0 unless a layer
    /// says otherwise.
    fn workspace(&self, rows: usize, in_features: usize) -> usize {
        let _ = (rows, in_features);
        0
    }
}

impl<W: Float> Layer<W> for PackedLinear<'_, W> {
    fn in_features(&self) -> Option<usize> {
        Some(PackedLinear::in_features(self))
    }

    fn out_features(&self, _: usize) -> usize {
        PackedLinear::out_features(self)
    }

    fn run(&self, x: Matrix<'_, W>, out: MatrixMut<'_, W>) -> Result<(), Error> {
        self.forward(x, Residual::None, out)
    }

    fn workspace(&self, rows: usize, _: usize) -> usize {
        max_workspace::<W::Acc>((rows, PackedLinear::in_features(self), PackedLinear::out_features(self)))
    }
}

/// A packed layer whose x and out are in the compute type: f32 around a weight in `f16`.
#[derive(Clone, Debug)]
pub struct Wide<L>(pub L);

impl<W: Float> Layer<W::Acc> for Wide<PackedLinear<'_, W>> {
    fn in_features(&self) -> Option<usize> {
        Some(self.0.in_features())
    }

    fn out_features(&self, _: usize) -> usize {
        self.0.out_features()
    }

    fn run(&self, x: Matrix<'_, W::Acc>, out: MatrixMut<'_, W::Acc>) -> Result<(), Error> {
        self.0.forward_wide(x, Residual::None, out)
    }

    fn workspace(&self, rows: usize, in_features: usize) -> usize {
        Layer::workspace(&self.0, rows, in_features)
    }
}

/// A row operation as a [`Layer`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RowOperation<T: Float> {
    /// [`softmax`](crate::softmax)
    Softmax,
    /// [`log_softmax`](crate::log_softmax)
    LogSoftmax,
    /// [`layer_norm`](crate::layer_norm)
    LayerNorm {
        /// One factor a column.
        weight: Option<Vec<T>>,
        /// One summand a column.
        bias: Option<Vec<T>>,
        /// Added to the variance.
        eps: T::Acc,
    },
    /// [`rms_norm`](crate::rms_norm)
    RmsNorm {
        /// One factor a column.
        weight: Option<Vec<T>>,
        /// Added to the mean square.
        eps: T::Acc,
    },
    /// [`activate`](crate::activate)
    Activation(Activation),
}

impl<T: Float> Layer<T> for RowOperation<T> {
    fn in_features(&self) -> Option<usize> {
        match self {
            Self::LayerNorm { weight, bias, .. } => weight.as_ref().or(bias.as_ref()).map(Vec::len),
            Self::RmsNorm { weight, .. } => weight.as_ref().map(Vec::len),
            _ => None,
        }
    }

    fn out_features(&self, in_features: usize) -> usize {
        in_features
    }

    fn run(&self, x: Matrix<'_, T>, out: MatrixMut<'_, T>) -> Result<(), Error> {
        let done = match self {
            Self::Softmax => softmax(x, out),
            Self::LogSoftmax => log_softmax(x, out),
            Self::LayerNorm { weight, bias, eps } => layer_norm(x, weight.as_deref(), bias.as_deref(), *eps, out),
            Self::RmsNorm { weight, eps } => rms_norm(x, weight.as_deref(), *eps, out),
            Self::Activation(activation) => activate(*activation, x, out),
        };
        Ok(done?)
    }
}

/// Layers run one after the other, on a block of rows at a time. The results are those of the layers called one by
/// one, bit for bit.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::{Activation, Matrix, MatrixMut, PackedLinear, RowOperation, Sequential};
///
/// let first = PackedLinear::<f32>::new(Matrix::new(&[1.0_f32, -1.0], 1, 2)?, None, Activation::Relu)?;
/// let network = Sequential::new(vec![Box::new(first), Box::new(RowOperation::Softmax)]);
/// let mut out = [0.0; 2];
/// network.forward(Matrix::new(&[0.0], 1, 1)?, MatrixMut::new(&mut out, 1, 2)?)?;
/// assert_eq!(out, [0.5, 0.5]);
/// # Ok::<(), polyglot_bridge::Error>(())
/// ```
pub struct Sequential<'a, T: Float> {
    layers: Vec<Box<dyn Layer<T> + 'a>>,
    /// Room for what layers leave to each other, kept from call to call: as many as there were threads at once.
    buffers: Mutex<Vec<Vec<T>>>,
}

impl<T: Float> fmt::Debug for Sequential<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sequential").field("layers", &self.layers.len()).finish_non_exhaustive()
    }
}

/// The rows of a block: enough that a weight which lies in the outer cache is read seldom, few enough that what passes
/// between layers of usual width stays in the inner one.
const BLOCK_ROWS: usize = 48;

impl<'a, T: Float> Sequential<'a, T> {
    /// A stack of `layers`. Without any it copies.
    pub fn new(layers: Vec<Box<dyn Layer<T> + 'a>>) -> Self {
        Self { layers, buffers: Mutex::new(Vec::new()) }
    }

    /// How many columns come out where `in_features` go in.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] where a layer does not take what it gets.
    pub fn out_features(&self, in_features: usize) -> Result<usize, ShapeError> {
        self.layers.iter().try_fold(in_features, |features, layer| {
            let takes = layer.in_features().unwrap_or(features);
            ShapeError::check("Sequential", "x of a layer", (1, features), (1, takes))?;
            Ok(layer.out_features(features))
        })
    }

    /// Computes `out`, of shape (m, out), from `x`, of shape (m, in).
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] where a layer does not take what it gets, or `out` has another shape, and
    /// [`Error::OutOfMemory`] where there is no room for what layers leave to each other; `out` is then as it was.
    pub fn forward<'x>(&self, x: impl Into<Matrix<'x, T>>, out: impl Into<MatrixMut<'x, T>>) -> Result<(), Error> {
        let (x, out) = (x.into(), out.into());
        let (rows, in_features) = x.shape();
        ShapeError::check("Sequential", "out", out.shape(), (rows, self.out_features(in_features)?))?;
        let (mut features, mut widest, mut work) = (in_features, 0, 0_usize);
        for (index, layer) in self.layers.iter().enumerate() {
            let next = layer.out_features(features);
            work = work.saturating_add(features.saturating_mul(next));
            // The last one writes where the caller wants it.
            widest = widest.max(if index + 1 < self.layers.len() { next } else { 0 });
            features = next;
        }
        if rows == 0 || features == 0 {
            return Ok(());
        }
        let cost = nanoseconds::<T::Acc>(work.saturating_mul(BLOCK_ROWS));
        let failed = Mutex::new(None);
        let prepare = || {
            // In a single block each layer has what it needs before it writes.
            let reserved = if rows > BLOCK_ROWS { Some(Reserved::new(self.workspace(in_features))?) } else { None };
            Prepared::new(&self.buffers, reserved, rows.min(BLOCK_ROWS).saturating_mul(widest))
        };
        parallel::for_each_tile_with(
            out,
            (BLOCK_ROWS, features),
            cost,
            &mut prepare()?,
            || prepare().ok(),
            |prepared, rows, _, out| {
                let result = self.run_block(x.block(rows, 0..in_features), &mut prepared.buffer, out);
                if let (Err(error), Ok(mut failed)) = (result, failed.lock()) {
                    *failed = Some(error);
                }
            },
        );
        match failed.into_inner() {
            Ok(Some(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// The most bytes of memory that a layer takes for a block.
    fn workspace(&self, in_features: usize) -> usize {
        let (mut bytes, mut features) = (0, in_features);
        for layer in &self.layers {
            bytes = bytes.max(layer.workspace(BLOCK_ROWS, features));
            features = layer.out_features(features);
        }
        bytes
    }

    fn run_block(&self, x: Matrix<'_, T>, buffer: &mut [T], mut out: MatrixMut<'_, T>) -> Result<(), Error> {
        let rows = x.rows();
        let (mut source, mut target) = buffer.split_at_mut(buffer.len() / 2);
        let Some((last, layers)) = self.layers.split_last() else {
            return Ok(activate(Activation::None, x, out)?);
        };
        let mut features = x.cols();
        for (index, layer) in layers.iter().enumerate() {
            let next = layer.out_features(features);
            let input = if index == 0 { x } else { Matrix::new(source, rows, features)? };
            layer.run(input, MatrixMut::new(target, rows, next)?)?;
            features = next;
            core::mem::swap(&mut source, &mut target);
        }
        let input = if layers.is_empty() { x } else { Matrix::new(source, rows, features)? };
        last.run(input, out.reborrow())
    }
}

/// What a thread has before it begins with a block.
struct Prepared<'s, T> {
    /// Room for what one layer leaves to the next, twice; goes back where it came from.
    buffer: Vec<T>,
    buffers: &'s Mutex<Vec<Vec<T>>>,
    /// The memory of the layers.
    #[allow(dead_code, reason = "a promise that ends when this is dropped")]
    reserved: Option<Reserved>,
}

impl<'s, T: Float> Prepared<'s, T> {
    /// With room for twice so many numbers.
    fn new(buffers: &'s Mutex<Vec<Vec<T>>>, reserved: Option<Reserved>, numbers: usize) -> Result<Self, NoMemory> {
        let buffer = buffers.lock().ok().and_then(|mut buffers| buffers.pop()).unwrap_or_default();
        let mut prepared = Self { buffer, buffers, reserved };
        let buffer = &mut prepared.buffer;
        let needed = numbers.saturating_mul(2);
        if buffer.len() < needed {
            // What it holds is of no use.
            *buffer = Vec::new();
            let bytes = needed.saturating_mul(size_of::<T>());
            buffer.try_reserve_exact(needed).map_err(|_| NoMemory { bytes })?;
            buffer.resize(needed, T::ZERO);
        }
        Ok(prepared)
    }
}

impl<T> Drop for Prepared<'_, T> {
    fn drop(&mut self) {
        if let Ok(mut buffers) = self.buffers.lock()
            && !self.buffer.is_empty()
            && buffers.try_reserve(1).is_ok()
        {
            buffers.push(core::mem::take(&mut self.buffer));
        }
    }
}
