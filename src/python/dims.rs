//! Shapes and strides as values of their own: NumPy keeps those of an array in memory that it frees when someone sets
//! `array.shape`, so nothing here borrows them.

use std::ops::{Deref, DerefMut};
use std::vec::Vec;

use numpy::npyffi::npy_intp;
use pyo3::prelude::*;

use super::errors::{out_of_memory, value_error};

/// The most dimensions a NumPy array has.
const MOST: usize = 64;
/// So many lie in the value itself.
pub(super) const FEW: usize = 4;

/// Up to 64 numbers, a few of them without an allocation.
#[derive(Debug, Default)]
pub(super) struct Dims {
    len: usize,
    few: [npy_intp; FEW],
    /// All of them, where they are more than `few` holds.
    many: Vec<npy_intp>,
}

impl Dims {
    /// None.
    pub(super) const EMPTY: Self = Self { len: 0, few: [0; FEW], many: Vec::new() };

    /// The parts one after the other, as the shape of the result of `op`.
    pub(super) fn new(op: &str, parts: &[&[npy_intp]]) -> PyResult<Self> {
        let mut new = Self::EMPTY;
        parts.iter().try_for_each(|part| new.append(op, part))?;
        Ok(new)
    }

    /// Appends dimensions to the shape of the result of `op`.
    #[inline]
    pub(super) fn append(&mut self, op: &str, dims: &[npy_intp]) -> PyResult<()> {
        let len = self.len + dims.len();
        if len > FEW {
            return self.append_many(op, dims);
        }
        for (target, &dim) in self.few[self.len..].iter_mut().zip(dims) {
            *target = dim;
        }
        self.len = len;
        Ok(())
    }

    #[cold]
    fn append_many(&mut self, op: &str, dims: &[npy_intp]) -> PyResult<()> {
        let len = self.len + dims.len();
        if len > MOST {
            return Err(value_error!("{op}: the result has more than {MOST} dimensions"));
        }
        if self.len <= FEW {
            self.many = zeros(MOST)?;
            self.many[..self.len].copy_from_slice(&self.few[..self.len]);
        }
        self.many[self.len..len].copy_from_slice(dims);
        self.len = len;
        Ok(())
    }

    /// So many zeros.
    pub(super) fn zeros(len: usize) -> PyResult<Self> {
        Self::collect(len, core::iter::empty())
    }

    /// The first `len` numbers that `dims` gives.
    #[inline]
    pub(super) fn collect(len: usize, dims: impl Iterator<Item = npy_intp>) -> PyResult<Self> {
        let mut new = Self { len, ..Self::default() };
        let target = if len <= FEW {
            &mut new.few[..len]
        } else {
            new.many = zeros(len)?;
            &mut new.many[..]
        };
        target.iter_mut().zip(dims).for_each(|(target, dim)| *target = dim);
        Ok(new)
    }
}

impl DerefMut for Dims {
    #[inline]
    fn deref_mut(&mut self) -> &mut [npy_intp] {
        if self.len <= FEW { &mut self.few[..self.len] } else { &mut self.many[..self.len] }
    }
}

impl Deref for Dims {
    type Target = [npy_intp];

    #[inline]
    fn deref(&self) -> &[npy_intp] {
        if self.len <= FEW { &self.few[..self.len] } else { &self.many[..self.len] }
    }
}

fn zeros(len: usize) -> PyResult<Vec<npy_intp>> {
    let mut zeros = Vec::new();
    zeros.try_reserve_exact(len).map_err(|_| out_of_memory())?;
    zeros.resize(len, 0);
    Ok(zeros)
}

/// The shape and the strides of an array. One is made for each array of each call, so it is kept small: what lies in C
/// order has no need of strides.
#[derive(Debug)]
pub(super) enum Layout {
    /// In C order: the shape alone.
    Dense { ndim: u8, shape: [npy_intp; FEW] },
    /// Up to two dimensions in any order.
    Strided { ndim: u8, shape: [npy_intp; FEW / 2], strides: [npy_intp; FEW / 2] },
    /// The shape, then the strides.
    Many(Vec<npy_intp>),
}

/// Strides in bytes, as a slice.
pub(super) enum Strides<'a> {
    Made { ndim: usize, strides: [npy_intp; FEW] },
    Kept(&'a [npy_intp]),
}

impl Deref for Strides<'_> {
    type Target = [npy_intp];

    fn deref(&self) -> &[npy_intp] {
        match self {
            Self::Made { ndim, strides } => &strides[..*ndim],
            Self::Kept(strides) => strides,
        }
    }
}

/// The number of dimensions where they are few, the dimensions themselves, and how many elements that are. As numbers, of
/// which a [`Layout`] can be made where it stays.
#[inline(always)]
pub(super) fn few(shape: &[npy_intp]) -> Option<(u8, [npy_intp; FEW], usize)> {
    let ndim = shape.len() as u8;
    let (shape, len) = match *shape {
        [] => ([0; FEW], 1),
        [a] => ([a, 0, 0, 0], a),
        [a, b] => ([a, b, 0, 0], a.wrapping_mul(b)),
        [a, b, c] => ([a, b, c, 0], a.wrapping_mul(b).wrapping_mul(c)),
        [a, b, c, d] => ([a, b, c, d], a.wrapping_mul(b).wrapping_mul(c).wrapping_mul(d)),
        _ => return None,
    };
    // NumPy makes no array whose elements cannot be counted.
    Some((ndim, shape, len.unsigned_abs()))
}

impl Layout {
    /// `dense` says that elements lie in C order.
    pub(super) fn new(shape: &[npy_intp], strides: &[npy_intp], dense: bool) -> PyResult<(Self, usize)> {
        match Self::dense(shape) {
            Some(made) if dense => Ok(made),
            _ => {
                let len = shape.iter().map(|&dim| dim.unsigned_abs()).product();
                Self::strided(shape, strides).map(|layout| (layout, len))
            }
        }
    }

    /// What lies in C order and is of few dimensions, and how many elements that are.
    #[inline(always)]
    pub(super) fn dense(shape: &[npy_intp]) -> Option<(Self, usize)> {
        let (ndim, shape, len) = few(shape)?;
        Some((Self::Dense { ndim, shape }, len))
    }

    fn strided(shape: &[npy_intp], strides: &[npy_intp]) -> PyResult<Self> {
        match (shape, strides) {
            (&[a], &[step]) => Ok(Self::Strided { ndim: 1, shape: [a, 0], strides: [step, 0] }),
            (&[a, b], &[down, across]) => Ok(Self::Strided { ndim: 2, shape: [a, b], strides: [down, across] }),
            _ => {
                let mut many = zeros(2 * shape.len())?;
                let (front, back) = many.split_at_mut(shape.len());
                front.copy_from_slice(shape);
                back.copy_from_slice(strides);
                Ok(Self::Many(many))
            }
        }
    }

    #[inline]
    pub(super) fn shape(&self) -> &[npy_intp] {
        match self {
            Self::Dense { ndim, shape } => &shape[..usize::from(*ndim).min(FEW)],
            Self::Strided { ndim, shape, .. } => &shape[..usize::from(*ndim).min(FEW / 2)],
            Self::Many(many) => &many[..many.len() / 2],
        }
    }

    /// The strides of an array whose elements are of so many bytes.
    #[inline]
    pub(super) fn strides(&self, itemsize: usize) -> Strides<'_> {
        match self {
            Self::Dense { shape, .. } => {
                let (ndim, mut strides, mut step) = (self.shape().len(), [0; FEW], itemsize.cast_signed());
                for axis in (0..ndim).rev() {
                    strides[axis] = step;
                    step = step.wrapping_mul(shape[axis].max(1));
                }
                Strides::Made { ndim, strides }
            }
            Self::Strided { ndim, strides, .. } => Strides::Kept(&strides[..usize::from(*ndim).min(FEW / 2)]),
            Self::Many(many) => Strides::Kept(&many[many.len() / 2..]),
        }
    }

    /// Whether an array has this layout still. As many strides as dimensions.
    #[inline(always)]
    pub(super) fn is(&self, shape: &[npy_intp], strides: &[npy_intp], dense: bool) -> bool {
        // By hand: to compare two slices is a call.
        let same = |own: &[npy_intp], found: &[npy_intp]| {
            own.len() == found.len() && (0..own.len()).all(|axis| own[axis] == found[axis])
        };
        same(self.shape(), shape)
            && match self {
                Self::Dense { .. } => dense,
                _ => same(&self.strides(0), strides),
            }
    }
}
