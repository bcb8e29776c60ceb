//! A linear layer whose weight is laid out once and used many times: its panels, in a buffer of its own, in a caller's
//! buffer, or in a constant. The product itself is in `gemm`.

use core::fmt;

#[cfg(feature = "std")]
use crate::error::NoMemory;
use crate::error::{Error, ShapeError};
use crate::float::Float;
use crate::gemm::partition::{Multiply, MultiplyWide};
use crate::gemm::problem::{Bias, FusedEpilogue, Product, Residual, Weight};
use crate::gemm::{pack, panel_width};
use crate::macros::bug;
use crate::math::activation::Activation;
use crate::ops::linear::check;
use crate::view::{Matrix, MatrixMut};

/// A linear layer, `activation(x @ weight + bias + residual)`, whose weight is packed: laid out in the order in which
/// the product reads it. Its results are those of [`linear`](crate::linear), bit for bit.
///
/// `W` is how the weight is stored. With `f16` or `bf16` it takes two bytes a number and is widened on the way, so the
/// layer takes x, residual and out in that type or in f32.
///
/// # Layout
///
/// Panel after panel of columns, 64 bytes of the compute type wide (16 columns for f32, f16 and bf16, 8 for f64) at
/// every CPU level; in a panel, row after row; zeros past the last column. So a packed weight may be kept in a file or
/// in flash and used on any machine.
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "std")] {
/// use polyglot_bridge::{Activation, Matrix, PackedLinear, Residual};
///
/// let weight = Matrix::new(&[1.0_f32, 0.0, -3.0, 0.0, 1.0, 0.0], 2, 3)?;
/// let layer = PackedLinear::<f32>::new(weight, Some(&[0.5, 0.5, 0.5]), Activation::Relu)?;
/// let mut out = [0.0_f32; 3];
/// layer.forward(&[1.0, 2.0], Residual::None, &mut out)?;
/// assert_eq!(out, [1.5, 2.5, 0.0]);
/// # }
/// # Ok::<(), polyglot_bridge::Error>(())
/// ```
///
/// Without an allocator, and with the weight in flash: see [`pack_constant`].
#[derive(Clone)]
pub struct PackedLinear<'a, W: Float> {
    panels: Storage<'a, W>,
    bias: Option<Storage<'a, W::Acc>>,
    in_features: usize,
    out_features: usize,
    activation: Activation,
    /// What applies it.
    #[cfg(not(feature = "std"))]
    code: crate::math::activation::code::Code<W::Acc>,
}

/// Numbers of one's own or of another.
enum Storage<'a, T> {
    Borrowed(&'a [T]),
    #[cfg(feature = "std")]
    Owned(aligned::Aligned<T>),
}

impl<T: Copy> Storage<'_, T> {
    fn as_slice(&self) -> &[T] {
        match self {
            Self::Borrowed(slice) => slice,
            #[cfg(feature = "std")]
            Self::Owned(owned) => owned.as_slice(),
        }
    }
}

impl<T: Float> Clone for Storage<'_, T> {
    fn clone(&self) -> Self {
        match self {
            Self::Borrowed(slice) => Self::Borrowed(slice),
            #[cfg(feature = "std")]
            Self::Owned(owned) => Self::Owned(owned.copy(T::ZERO)),
        }
    }
}

#[cfg(feature = "std")]
impl<T: Float> Storage<'_, T> {
    fn try_clone(&self) -> Result<Self, NoMemory> {
        Ok(match self {
            Self::Borrowed(slice) => Self::Borrowed(slice),
            Self::Owned(owned) => Self::Owned(owned.try_copy(T::ZERO)?),
        })
    }
}

#[cfg(feature = "std")]
mod aligned {
    use std::vec::Vec;

    use crate::error::NoMemory;
    use crate::macros::bug;

    /// Numbers that begin on a cache line, so that no vector of a panel straddles two.
    pub(super) struct Aligned<T> {
        numbers: Vec<T>,
        start: usize,
        len: usize,
    }

    impl<T: Copy> Aligned<T> {
        pub(super) fn new(len: usize, zero: T) -> Result<Self, NoMemory> {
            let capacity = len.saturating_add(Self::SPARE);
            let mut numbers = Vec::new();
            let bytes = capacity.saturating_mul(size_of::<T>());
            numbers.try_reserve_exact(capacity).map_err(|_| NoMemory { bytes })?;
            numbers.resize(capacity, zero);
            Ok(Self::start(numbers, len))
        }

        /// The same numbers, in memory of their own.
        pub(super) fn try_copy(&self, zero: T) -> Result<Self, NoMemory> {
            let mut copy = Self::new(self.len, zero)?;
            copy.as_mut_slice().copy_from_slice(self.as_slice());
            Ok(copy)
        }

        /// The same; ends the process where there is no memory.
        pub(super) fn copy(&self, zero: T) -> Self {
            let mut copy = Self::start(std::vec![zero; self.len + Self::SPARE], self.len);
            copy.as_mut_slice().copy_from_slice(self.as_slice());
            copy
        }

        /// How many numbers are left out at most until a cache line begins.
        const SPARE: usize = if size_of::<T>() == 0 { 0 } else { 64 / size_of::<T>() };

        fn start(numbers: Vec<T>, len: usize) -> Self {
            let start = numbers.as_ptr().align_offset(64);
            Self { numbers, start: if start > Self::SPARE { 0 } else { start }, len }
        }

        pub(super) fn as_slice(&self) -> &[T] {
            self.numbers.get(self.start..self.start + self.len).unwrap_or_else(|| bug!(&[]))
        }

        pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
            self.numbers.get_mut(self.start..self.start + self.len).unwrap_or_else(|| bug!(&mut []))
        }
    }
}

impl<W: Float> fmt::Debug for PackedLinear<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedLinear")
            .field("in_features", &self.in_features)
            .field("out_features", &self.out_features)
            .field("bias", &self.bias.is_some())
            .field("activation", &self.activation)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "std")]
impl<W: Float> PackedLinear<'static, W> {
    /// A layer with a weight of shape (in, out), in any strides, and a bias of out values, both rounded to `W` and to
    /// its compute type where they are stored in another type.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] where the bias has another length than the weight has columns, or a packed weight of that shape
    /// cannot be; [`Error::OutOfMemory`] where there is no memory for it.
    pub fn new<'v, V: Float<Acc = W::Acc>>(
        weight: impl Into<Matrix<'v, V>>,
        bias: Option<&[V]>,
        activation: Activation,
    ) -> Result<Self, Error> {
        let weight = weight.into();
        let (in_features, out_features) = weight.shape();
        if let Some(bias) = bias {
            ShapeError::check("PackedLinear", "bias", (1, bias.len()), (1, out_features))?;
        }
        let len = PackedLinear::<W>::len_of(weight.shape())?;
        let mut panels = aligned::Aligned::new(len, W::ZERO)?;
        PackedLinear::<W>::pack_into(panels.as_mut_slice(), weight)?;
        let bias = match bias {
            None => None,
            Some(bias) => {
                let mut widened = aligned::Aligned::new(bias.len(), W::Acc::ZERO)?;
                for (target, value) in widened.as_mut_slice().iter_mut().zip(bias) {
                    *target = value.to_acc();
                }
                Some(Storage::Owned(widened))
            }
        };
        Ok(Self { panels: Storage::Owned(panels), bias, in_features, out_features, activation })
    }
}

impl<'a, W: Float> PackedLinear<'a, W> {
    /// How many numbers a packed weight of shape (`in_features`, `out_features`) takes, `None` where that is too many
    /// for a `usize`.
    pub const fn required_len(in_features: usize, out_features: usize) -> Option<usize> {
        pack::packed_len::<W::Acc>(in_features, out_features)
    }

    /// Packs a weight of shape (in, out), in any strides, into a buffer of at least
    /// [`required_len`](PackedLinear::required_len) numbers.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] where `panels` is too short.
    pub fn pack_into<'v, V: Float<Acc = W::Acc>>(
        panels: &mut [W],
        weight: impl Into<Matrix<'v, V>>,
    ) -> Result<(), ShapeError> {
        let weight = weight.into();
        let len = panels.len();
        let needed = Self::check_len(len, weight.shape())?;
        pack::pack(weight, panels.get_mut(..needed).unwrap_or_else(|| bug!(&mut [])));
        Ok(())
    }

    /// A layer of shape (in, out) over a weight that was packed before, and a bias in the compute type.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] where `panels` is too short, the bias has another length than the weight has columns, or there is
    /// no row of so many numbers: of more than [`isize::MAX`] bytes.
    #[inline]
    pub fn from_packed(
        panels: &'a [W],
        (in_features, out_features): (usize, usize),
        bias: Option<&'a [W::Acc]>,
        activation: Activation,
    ) -> Result<Self, ShapeError> {
        let needed = Self::check_len(panels.len(), (in_features, out_features))?;
        if let Some(bias) = bias {
            ShapeError::check("PackedLinear", "bias", (1, bias.len()), (1, out_features))?;
        }
        Ok(Self {
            panels: Storage::Borrowed(panels.get(..needed).unwrap_or_else(|| bug!(&[]))),
            bias: bias.map(Storage::Borrowed),
            in_features,
            out_features,
            activation,
            #[cfg(not(feature = "std"))]
            code: crate::math::activation::code::of::<W::Acc>(activation),
        })
    }

    /// The numbers of a packed weight, where one of this shape can be used: rows of x and out are no larger than any
    /// object.
    fn len_of(shape: (usize, usize)) -> Result<usize, ShapeError> {
        let is_row = |len: usize| len <= isize::MAX as usize / size_of::<W::Acc>();
        let len = Self::required_len(shape.0, shape.1).filter(|_| is_row(shape.0) && is_row(shape.1));
        len.ok_or(ShapeError::Unrepresentable { shape, row_stride: shape.1 })
    }

    fn check_len(len: usize, shape: (usize, usize)) -> Result<usize, ShapeError> {
        let needed = Self::len_of(shape)?;
        if len < needed { Err(ShapeError::TooShort { shape, needed, len }) } else { Ok(needed) }
    }

    /// `out = activation(x @ weight + bias + residual)` for x of shape (m, in) and out, and a residual, of shape
    /// (m, out).
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] where the shapes do not fit, [`Error::OutOfMemory`] where there is no room to lay operands and
    /// sums out; `out` is then as it was.
    pub fn forward<'x>(
        &self,
        x: impl Into<Matrix<'x, W>>,
        residual: impl Into<Residual<'x, W>>,
        out: impl Into<MatrixMut<'x, W>>,
    ) -> Result<(), Error> {
        let out = out.into();
        let product = self.product(x.into(), residual.into());
        check("PackedLinear", &product, &out)?;
        Ok(Multiply::run(product, out)?)
    }

    /// [`forward`](PackedLinear::forward) for x, residual and out in the compute type: f32 for a weight in `f16`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] where the shapes do not fit, [`Error::OutOfMemory`] where there is no room to lay operands and
    /// sums out; `out` is then as it was.
    pub fn forward_wide<'x>(
        &self,
        x: impl Into<Matrix<'x, W::Acc>>,
        residual: impl Into<Residual<'x, W::Acc>>,
        out: impl Into<MatrixMut<'x, W::Acc>>,
    ) -> Result<(), Error> {
        let out = out.into();
        let product = self.product(x.into(), residual.into());
        check("PackedLinear", &product, &out)?;
        Ok(MultiplyWide::run(product, out)?)
    }

    fn product<'s, T: Float<Acc = W::Acc>>(&'s self, x: Matrix<'s, T>, residual: Residual<'s, T>) -> Product<'s, T, W> {
        let bias = self.bias().map_or(Bias::None, Bias::Computed);
        let epilogue = FusedEpilogue {
            bias,
            residual,
            activation: self.activation,
            #[cfg(not(feature = "std"))]
            code: self.code,
        };
        Product { x, weight: self.weight(), epilogue }
    }

    fn weight(&self) -> Weight<'_, W> {
        Weight::Packed { panels: self.panels.as_slice(), shape: (self.in_features, self.out_features) }
    }

    /// A copy with memory of its own where this layer has. ([`Clone`], as that of a `Vec`, ends the process where there
    /// is none.)
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] where there is no memory for it.
    ///
    /// # Examples
    ///
    /// ```
    /// use polyglot_bridge::{Activation, Error, Matrix, PackedLinear};
    ///
    /// let layer = PackedLinear::<f64>::new(Matrix::new(&[1.0, 2.0], 2, 1)?, None, Activation::None)?;
    /// assert_eq!(layer.try_clone()?.panels(), layer.panels());
    /// # Ok::<(), Error>(())
    /// ```
    #[cfg(feature = "std")]
    pub fn try_clone(&self) -> Result<Self, Error> {
        let Self { in_features, out_features, activation, .. } = *self;
        let bias = self.bias.as_ref().map(Storage::try_clone).transpose()?;
        Ok(Self { panels: self.panels.try_clone()?, bias, in_features, out_features, activation })
    }

    /// The columns of x.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// The columns of out.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// What is applied last.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// The bias, in the compute type.
    pub fn bias(&self) -> Option<&[W::Acc]> {
        self.bias.as_ref().map(Storage::as_slice)
    }

    /// The packed weight, in the layout that [`PackedLinear`] describes.
    pub fn panels(&self) -> &[W] {
        self.panels.as_slice()
    }

    /// The bytes that weight and bias take, padding included.
    pub fn nbytes(&self) -> usize {
        size_of_val(self.panels()) + self.bias().map_or(0, size_of_val)
    }

    /// Writes the weight as it was before it was packed, of shape (in, out).
    ///
    /// # Errors
    ///
    /// [`ShapeError`] where `out` has another shape.
    pub fn unpack<'o>(&self, out: impl Into<MatrixMut<'o, W>>) -> Result<(), ShapeError> {
        let mut out = out.into();
        ShapeError::check("PackedLinear", "out", out.shape(), (self.in_features, self.out_features))?;
        if self.panels().is_empty() {
            return Ok(());
        }
        let width = panel_width::<W::Acc>();
        let panel_len = self.in_features * width;
        for row in 0..self.in_features {
            let Some(target) = out.row_mut(row) else { return bug!(Ok(())) };
            for (panel, target) in self.panels().chunks(panel_len.max(1)).zip(target.chunks_mut(width)) {
                for (target, &value) in target.iter_mut().zip(panel.get(row * width..).unwrap_or_else(|| bug!(&[]))) {
                    *target = value;
                }
            }
        }
        Ok(())
    }
}

/// Packs a constant weight while compiling, so that it can lie in flash, ready for
/// [`PackedLinear::from_packed`]. `LEN` is [`PackedLinear::required_len`]`(K, N)`; another does not compile.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::{pack_constant, Activation, PackedLinear, Residual};
///
/// const WEIGHT: [[f32; 3]; 2] = [[1.0, 0.0, -3.0], [0.0, 1.0, 0.0]];
/// static PANELS: [f32; 32] = pack_constant(&WEIGHT);
/// static BIAS: [f32; 3] = [0.5; 3];
///
/// let layer = PackedLinear::from_packed(&PANELS, (2, 3), Some(&BIAS), Activation::Relu)?;
/// let mut out = [0.0_f32; 3];
/// layer.forward(&[1.0, 2.0], Residual::None, &mut out)?;
/// assert_eq!(out, [1.5, 2.5, 0.0]);
/// # Ok::<(), polyglot_bridge::Error>(())
/// ```
pub const fn pack_constant<W: Float, const K: usize, const N: usize, const LEN: usize>(
    weight: &[[W; N]; K],
) -> [W; LEN] {
    const {
        let needed = pack::packed_len::<W::Acc>(K, N);
        assert!(matches!(needed, Some(needed) if needed == LEN), "LEN is not PackedLinear::required_len(K, N)");
    }
    let width = panel_width::<W::Acc>();
    let mut panels = [W::ZERO; LEN];
    let mut row = 0;
    while row < K {
        let mut col = 0;
        while col < N {
            panels[(col / width * K + row) * width + col % width] = weight[row][col];
            col += 1;
        }
        row += 1;
    }
    panels
}
