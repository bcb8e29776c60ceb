//! The operations of the crate as `rowwise` runs them: each says what it costs and which kernel it calls.

use super::arrays::{Array, MaskArray};
use super::layout::{Block, OPERANDS};
use super::rowwise::Operation;
use crate::error::Error;
use crate::float::{Compute, Float};
use crate::math::activation::Activation;
use crate::ops::dropout_add::Mask;
use crate::view::MatrixMut;

/// A weight or bias: as many values as a row has, side by side.
#[derive(Clone, Copy)]
pub(super) struct Vector {
    data: *const u8,
    len: usize,
}

// SAFETY: an address; what is read through it is promised where it becomes a slice.
unsafe impl Sync for Vector {}
// SAFETY: as above.
unsafe impl Send for Vector {}

impl Vector {
    /// The elements of a contiguous array.
    pub(super) fn new(array: &Array<'_>) -> Self {
        Self { data: array.data(), len: array.len() }
    }

    /// # Safety
    ///
    /// `T` is the dtype of the array, which is alive during `'a`.
    pub(super) unsafe fn slice<'a, T>(self) -> &'a [T] {
        if self.len == 0 {
            // NumPy calls an empty array aligned wherever it begins.
            return &[];
        }
        // SAFETY: the caller's promise; the array is contiguous and aligned.
        unsafe { core::slice::from_raw_parts(self.data.cast(), self.len) }
    }
}

/// Writes the two methods of [`Operation`] from one call each; `$x` is the first input as a matrix.
macro_rules! kernel {
    (|$self:ident, $inputs:ident, $T:ident| $run:path, $in_place:path $(, $extra:expr)*) => {
        #[inline]
        unsafe fn run<$T: Float>(
            &$self,
            $inputs: &[Block; OPERANDS],
            out: MatrixMut<'_, $T>,
        ) -> Result<(), Error> {
            // SAFETY: the caller's promise.
            unsafe { $run($inputs[0].matrix::<$T>(), $($extra,)* out) }?;
            Ok(())
        }

        #[inline]
        #[allow(unused_unsafe, reason = "operations without operands of their own")]
        unsafe fn run_in_place<$T: Float>(
            &$self,
            $inputs: &[Block; OPERANDS],
            out: MatrixMut<'_, $T>,
        ) -> Result<(), Error> {
            let _ = $inputs;
            // SAFETY: the caller's promise.
            unsafe { $in_place(out $(, $extra)*) }?;
            Ok(())
        }
    };
}

pub(super) struct Softmax;

impl Operation for Softmax {
    fn cost(&self) -> f32 {
        1.0
    }

    kernel!(|self, inputs, T| crate::softmax, crate::softmax_in_place);
}

pub(super) struct LogSoftmax;

impl Operation for LogSoftmax {
    fn cost(&self) -> f32 {
        1.0
    }

    kernel!(|self, inputs, T| crate::log_softmax, crate::log_softmax_in_place);
}

pub(super) struct LayerNorm {
    pub(super) weight: Option<Vector>,
    pub(super) bias: Option<Vector>,
    pub(super) eps: f64,
}

impl Operation for LayerNorm {
    fn cost(&self) -> f32 {
        0.4
    }

    kernel!(
        |self, inputs, T| crate::layer_norm,
        crate::layer_norm_in_place,
        self.weight.map(|weight| weight.slice::<T>()),
        self.bias.map(|bias| bias.slice::<T>()),
        T::Acc::from_f64(self.eps)
    );
}

/// x, then the residual.
pub(super) struct AddLayerNorm {
    pub(super) weight: Option<Vector>,
    pub(super) bias: Option<Vector>,
    pub(super) eps: f64,
}

impl Operation for AddLayerNorm {
    fn cost(&self) -> f32 {
        0.5
    }

    kernel!(
        |self, inputs, T| crate::add_layer_norm,
        crate::add_layer_norm_in_place,
        inputs[1].matrix::<T>(),
        self.weight.map(|weight| weight.slice::<T>()),
        self.bias.map(|bias| bias.slice::<T>()),
        T::Acc::from_f64(self.eps)
    );
}

pub(super) struct L2Normalize;

impl Operation for L2Normalize {
    fn cost(&self) -> f32 {
        0.3
    }

    kernel!(|self, inputs, T| crate::l2_normalize, crate::l2_normalize_in_place);
}

pub(super) struct RmsNorm {
    pub(super) weight: Option<Vector>,
    pub(super) eps: f64,
}

impl Operation for RmsNorm {
    fn cost(&self) -> f32 {
        0.3
    }

    kernel!(
        |self, inputs, T| crate::rms_norm,
        crate::rms_norm_in_place,
        self.weight.map(|weight| weight.slice::<T>()),
        T::Acc::from_f64(self.eps)
    );
}

pub(super) struct Scale {
    pub(super) factor: f64,
}

impl Operation for Scale {
    fn cost(&self) -> f32 {
        0.2
    }

    kernel!(|self, inputs, T| crate::scale, crate::scale_in_place, T::Acc::from_f64(self.factor));
}

/// x, then the residual, then the mask.
pub(super) struct DropoutAdd {
    pub(super) selects: bool,
    pub(super) scale: f64,
}

impl DropoutAdd {
    pub(super) fn new(mask: &MaskArray<'_>, scale: f64) -> Self {
        Self { selects: matches!(mask, MaskArray::Selects(_)), scale }
    }

    /// # Safety
    ///
    /// The block lies in a mask of the kind that `self` was made for.
    unsafe fn mask<'a, T: Float>(&self, block: &Block) -> Mask<'a, T> {
        // SAFETY: the caller's promise.
        unsafe { if self.selects { Mask::Select(block.matrix::<u8>()) } else { Mask::Multiply(block.matrix::<T>()) } }
    }
}

impl Operation for DropoutAdd {
    fn cost(&self) -> f32 {
        0.3
    }

    kernel!(
        |self, inputs, T| crate::dropout_add,
        crate::dropout_add_in_place,
        inputs[1].matrix::<T>(),
        self.mask::<T>(&inputs[2]),
        T::Acc::from_f64(self.scale)
    );
}

impl Operation for Activation {
    fn cost(&self) -> f32 {
        match self {
            Self::None | Self::Relu => 0.2,
            _ => 1.0,
        }
    }

    #[inline]
    unsafe fn run<T: Float>(&self, inputs: &[Block; OPERANDS], out: MatrixMut<'_, T>) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        Ok(crate::activate(*self, unsafe { inputs[0].matrix::<T>() }, out)?)
    }

    #[inline]
    unsafe fn run_in_place<T: Float>(&self, _: &[Block; OPERANDS], out: MatrixMut<'_, T>) -> Result<(), Error> {
        Ok(crate::activate_in_place(*self, out)?)
    }
}
