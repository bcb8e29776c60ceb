//! `linear` on arrays of any number of dimensions, and `Linear`, the layer that owns its weight, packed once; and how both,
//! and stacks of layers, are run over the rows of x. The kernels are in `gemm`, the packing is `PackedLinear`'s.

use std::boxed::Box;
use std::ops::Range;
use std::string::String;
use std::vec::Vec;

use numpy::npyffi::npy_intp;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyType};

use super::call::{Call, Object, Returned, Signature};
use super::dims::Dims;
use super::dtype::{Dtype, Element, for_dtype};
use super::errors::{Shape, out_of_memory, text, type_error, type_name, value_error, wrong_dtype, wrong_shape};
use super::launch::{self, Inputs};
use super::list::{CORE, boxed, imported, integer, string, tuple};
use super::ndarray::{Block, BlockMut, Kept, NdArray, Operand, Pins, Place};
use super::out::{Output, Slot};
use super::strides::Plan;
use super::take::{Array, Slots, slots, take_all, take_as, take_own};
use crate::error::Error;
use crate::gemm::problem::Residual;
use crate::math::activation::Activation;
use crate::ops::linear::Epilogue;
use crate::{Matrix, MatrixMut, PackedLinear};

/// What one multiplication and addition takes on one core, in nanoseconds, roughly.
pub(super) const COST: f32 = 0.02;
/// Blocks of fewer rows than this are not worth a product of their own: the input is copied together first.
const FEW_ROWS: usize = 32;
/// Which layout panels have, for pickles and saved files: to be raised when `gemm::pack` changes it.
const LAYOUT: u32 = 1;

/// The activation of this name.
pub(super) fn activation_of(op: &str, name: Option<&Bound<'_, PyAny>>) -> PyResult<Activation> {
    let Some(name) = name else { return Ok(Activation::None) };
    let found = name.cast::<PyString>().ok().map(PyStringMethods::to_cow).transpose()?;
    match found.as_deref().and_then(Activation::from_name) {
        Some(activation) if activation != Activation::None => Ok(activation),
        _ => {
            let names = Quoted(|| Activation::ALL[1..].iter().map(|activation| activation.name()));
            Err(value_error!("{op}: activation must be None or one of {names}, not {}", name.repr()?))
        }
    }
}

/// Names for a message: `"a", "b"`.
pub(super) struct Quoted<F>(pub(super) F);

impl<F: Fn() -> I, I: Iterator<Item = &'static str>> core::fmt::Display for Quoted<F> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (index, name) in (self.0)().enumerate() {
            write!(f, "{}\"{name}\"", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Rows of k values that are to become rows of n. Each array becomes a matrix where its type is known.
pub(super) struct Rows<'a> {
    pub(super) dtype: Dtype,
    /// x, the residual, the weight, the bias; the last two where they are arguments of the call.
    operands: [Option<Operand<'a>>; 4],
    places: Places,
    /// The residual is what `out` holds.
    in_place: bool,
    pub(super) out: BlockMut<'a>,
}

/// Where the rows lie in x and in the residual.
#[derive(Clone, Copy)]
enum Places {
    /// So many rows, of k and of n columns, which are all there is, side by side.
    Dense(usize, [usize; 2]),
    Strided([Place; 2]),
}

/// x and the result of a layer within a stack.
pub(super) struct InStack<'a> {
    dtype: Dtype,
    x: Block<'a>,
    out: BlockMut<'a>,
}

impl<'a> Rows<'a> {
    #[inline]
    fn block(&self, index: usize) -> Option<Block<'a>> {
        let operand = self.operands[index]?;
        Some(match &self.places {
            &Places::Dense(rows, cols) => operand.dense(rows, cols[index]),
            Places::Strided(places) => operand.block(places[index]),
        })
    }

    #[inline]
    pub(super) fn x<T: Element>(&self) -> Matrix<'a, T> {
        match (self.operands[0], &self.places) {
            (Some(x), &Places::Dense(rows, [k, _])) => x.dense_matrix(rows, k),
            _ => self.block(0).map_or(Matrix::from(&[]), |block| block.matrix()),
        }
    }

    /// What is added to the product before its activation.
    #[inline]
    fn residual<T: Element>(&self) -> Residual<'a, T> {
        match self.operands[1] {
            None => Residual::None,
            Some(_) if self.in_place => Residual::Out,
            Some(_) => self.block(1).map_or(Residual::None, |block| Residual::Matrix(block.matrix())),
        }
    }

    #[inline]
    fn weight<T: Element>(&self) -> Matrix<'a, T> {
        let Some(weight) = self.operands[2] else { return Matrix::from(&[]) };
        match *weight.shape() {
            [k, n] if weight.is_c_contiguous() => weight.dense_matrix(k.unsigned_abs(), n.unsigned_abs()),
            _ => weight.matrix().matrix(),
        }
    }

    #[inline]
    fn bias<T: Element>(&self) -> Option<&'a [T]> {
        self.operands[3].map(|bias| bias.slice())
    }
}

/// What turns rows of k values into rows of n, and what it reads for that beside x and a residual.
pub(super) struct Transform<'a, 'py, L, F> {
    pub(super) shape: [npy_intp; 2],
    /// How many multiplications a row takes, roughly.
    pub(super) work: f32,
    /// Arguments of the call.
    pub(super) weight: Option<&'a NdArray<'py>>,
    pub(super) bias: Option<&'a NdArray<'py>>,
    /// Layers that own their weights.
    pub(super) layers: L,
    pub(super) apply: F,
}

/// The arrays of a call, and layers whose weights may lie in arrays as well.
struct Arguments<'a, 'py, L> {
    arrays: [Option<&'a NdArray<'py>>; 4],
    layers: L,
    py: Python<'py>,
}

impl<'a, 'py, 'l, L: Iterator<Item = &'l Linear>> Inputs<'a, 'py> for Arguments<'a, 'py, L> {
    type Operands = [Option<Operand<'a>>; 4];

    fn pin(&self, pins: &mut Pins<'py>) -> PyResult<()> {
        self.arrays.pin(pins)
    }

    #[inline]
    fn operands(mut self, op: &str) -> PyResult<Self::Operands> {
        self.layers.try_for_each(|layer| layer.look_again(self.py, op))?;
        self.arrays.operands(op)
    }
}

/// Runs a transform on the rows of `x`, which are k long.
pub(super) fn run<'py, 'l, L, F>(
    call: &Call<'py>,
    transform: Transform<'_, 'py, L, F>,
    x: &Array<'py>,
    residual: Option<&Array<'py>>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py>
where
    L: Iterator<Item = &'l Linear> + Clone,
    F: Fn(Rows<'_>) -> Result<(), Error> + Send,
{
    let op = call.op;
    let [_, n] = transform.shape;
    let mut shape = Dims::EMPTY;
    match x.shape() {
        [leading @ .., _] => shape.append(op, leading)?,
        [] => return Err(value_error!("{op}: x has shape (), expected one dimension or more")),
    }
    shape.append(op, &[n])?;
    if let Some(residual) = residual
        && residual.shape() != &*shape
    {
        let why = format_args!(", the shape of the result");
        return Err(wrong_shape(op, "residual", residual.shape(), &shape, why));
    }
    let dense = x.is_c_contiguous() && residual.is_none_or(|residual| residual.is_c_contiguous());
    // What most calls want is little code: rows that lie side by side become new ones.
    if !dense || out.is_some() {
        return run_any(call, transform, x, residual, &shape, out);
    }
    let Transform { shape: [k, n], work, weight, bias, layers, apply } = transform;
    let (py, dtype) = (x.py(), x.dtype());
    let mut slot = Slot::default();
    let output = Output::fresh(&mut slot, py, dtype, &shape)?;
    if output.written().len() == 0 {
        return output.finish(op);
    }
    let [k, n] = [k, n].map(npy_intp::unsigned_abs);
    let rows = output.written().len() / n;
    let inputs = Arguments { arrays: [Some(&**x), residual.map(|residual| &**residual), weight, bias], layers, py };
    launch::write(call, inputs, output, rows as f32 * work * COST, move |operands, mut out| {
        let (places, out) = (Places::Dense(rows, [k, n]), out.dense(rows, n));
        apply(Rows { dtype, operands, places, in_place: false, out })
    })
}

/// Rows of any layout, and a result that may be the caller's.
#[inline(never)]
fn run_any<'py, 'l, L, F>(
    call: &Call<'py>,
    transform: Transform<'_, 'py, L, F>,
    x: &Array<'py>,
    residual: Option<&Array<'py>>,
    shape: &[npy_intp],
    out: Option<Object<'_, 'py>>,
) -> Returned<'py>
where
    L: Iterator<Item = &'l Linear> + Clone,
    F: Fn(Rows<'_>) -> Result<(), Error> + Send,
{
    let op = call.op;
    let Transform { shape: [k, n], work, weight, bias, layers, apply } = transform;
    let (py, dtype) = (x.py(), x.dtype());
    let mut slot = Slot::default();
    let mut output = match out {
        None => Output::fresh(&mut slot, py, dtype, shape)?,
        Some(out) => {
            let inputs = [residual.map(|residual| &**residual), Some(&**x), weight, bias];
            let owned = layers.clone().flat_map(Linear::extents);
            Output::given(&mut slot, call, out, dtype, shape, &inputs, owned, Some(shape.len() - 1))?
        }
    };
    if output.written().len() == 0 {
        return output.finish(call.op);
    }
    let rows = output.written().len() / n.unsigned_abs();
    let (mut x_slot, mut residual_slot) = (None, None);
    let (mut x, mut residual) = (x, residual);
    let mut plan = None;
    let dense = x.is_c_contiguous() && residual.is_none_or(|residual| residual.is_c_contiguous());
    if !(dense && output.written().is_c_contiguous()) {
        let mut cut = cut(x, residual, output.written(), n, dtype)?;
        if cut.blocks() > 1 && cut.block_rows() < FEW_ROWS {
            x = x.contiguous(op, &mut x_slot)?;
            residual = residual.map(|residual| residual.contiguous(op, &mut residual_slot)).transpose()?;
            output.make_dense(dtype)?;
            cut = self::cut(x, residual, output.written(), n, dtype)?;
        }
        plan = Some(cut);
    }
    let in_place = output.in_place();
    let (k, n) = (k.unsigned_abs(), n.unsigned_abs());
    let inputs = Arguments { arrays: [Some(&**x), residual.map(|residual| &**residual), weight, bias], layers, py };
    launch::write(call, inputs, output, rows as f32 * work * COST, move |operands, mut out| {
        let Some(plan) = plan else {
            let (places, out) = (Places::Dense(rows, [k, n]), out.dense(rows, n));
            return apply(Rows { dtype, operands, places, in_place, out });
        };
        for index in 0..plan.blocks() {
            let [place, residual, target] = plan.places(index);
            let (places, out) = (Places::Strided([Place { cols: k, ..place }, residual]), out.block(target));
            apply(Rows { dtype, operands, places, in_place, out })?;
        }
        Ok(())
    })
}

/// The plan for rows of `x` (and of a residual) that become rows of `written`.
fn cut(
    x: &Array<'_>,
    residual: Option<&Array<'_>>,
    written: &NdArray<'_>,
    n: npy_intp,
    dtype: Dtype,
) -> PyResult<Plan<3>> {
    let strides = [x.strides(), residual.map_or(written, |residual| &**residual).strides(), written.strides()];
    Plan::rows(x.shape(), strides.each_ref().map(|strides| &**strides), x.ndim() - 1, n.unsigned_abs(), 2, dtype.size())
}

/// `activation(x @ weight + bias + residual)`, by any of its names.
pub(super) fn product<'py>(
    signature: Signature,
    [x, weight, bias, residual]: [Option<Object<'_, 'py>>; 4],
    activation: Activation,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let op = signature.op;
    let arrays = [(signature.x, x), (signature.weight, weight), ("bias", bias), ("residual", residual)];
    let mut slots = slots();
    let call = &Call::with(signature, arrays, [("out", out)], &mut slots)?;
    let dtype = take_all(op, arrays, &mut slots).map_err(|error| call.blame(error))?;
    let [x, weight, mut bias, residual] = slots.each_ref().map(Option::as_ref);
    let (Some(x), Some(weight)) = (x, weight) else { return Err(value_error!("{op}: an array is missing")) };
    call.look_again()?;
    signature.check(dtype)?;
    let &[k, n] = weight.shape() else {
        let (name, shape) = (signature.weight, Shape(weight.shape()));
        return Err(value_error!("{op}: {name} has shape {shape}, expected two dimensions"));
    };
    if x.shape().last() != Some(&k) {
        return Err(misfit(signature, x.shape(), weight.shape()));
    }
    let mut bias_slot = None;
    if let Some(array) = bias {
        if array.shape() != [n] {
            let why = format_args!(", as {} has dimensions {}", signature.weight, Shape(weight.shape()));
            return Err(wrong_shape(op, "bias", array.shape(), &[n], why));
        }
        bias = Some(array.contiguous(op, &mut bias_slot)?);
    }
    let transform = Transform {
        shape: [k, n],
        work: k as f32 * n as f32,
        weight: Some(weight),
        bias: bias.map(|bias| &**bias),
        layers: core::iter::empty(),
        apply: |rows: Rows<'_>| {
            for_dtype!(rows.dtype, T => {
                let (bias, residual) = (rows.bias::<T>(), rows.residual::<T>());
                let epilogue = Epilogue::new().bias(bias).residual(residual).activation(activation);
                crate::linear(rows.x::<T>(), rows.weight::<T>(), epilogue, rows.out.matrix::<T>())
            })
        },
    };
    run(call, transform, x, residual, out)
}

#[cold]
fn misfit(signature: Signature, x: &[npy_intp], weight: &[npy_intp]) -> PyErr {
    let (op, x_name, weight_name) = (signature.op, signature.x, signature.weight);
    let turned = matches!((x.last(), weight), (Some(last), [_, second]) if last == second);
    let (x, weight) = (Shape(x), Shape(weight));
    if turned {
        return value_error!(
            "{op}: {x_name} has shape {x} and {weight_name} has shape {weight}: the last dimension of {x_name} must be \
             the first of {weight_name}; a weight of shape (out, in) is passed as {weight_name}.T"
        );
    }
    value_error!(
        "{op}: {x_name} has shape {x} and {weight_name} has shape {weight}: the last dimension of {x_name} must be the \
         first of {weight_name}"
    )
}

/// A linear layer: ``activation(x @ weight + bias + residual)``, in one pass.
///
/// Parameters
/// ----------
/// x : array_like
///     Of shape (..., in_features); float16, bfloat16, float32 or float64.
/// weight : array_like
///     Of shape (in_features, out_features) and any strides: a PyTorch weight of shape (out, in) is passed as
///     ``weight.T``, which copies nothing.
/// bias : array_like, optional
///     Of shape (out_features,).
/// activation : {"relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"}, optional
///     Applied last; "gelu" is the exact one.
/// residual : array_like, optional
///     Of the shape of the result, added before the activation.
/// out : ndarray, optional
///     Where to write the result, of its shape and dtype; may be `residual` itself.
///
/// Returns
/// -------
/// ndarray
///     Of shape (..., out_features) and the dtype of `x`; `out` where that is given. float16 and bfloat16 are summed in
///     float32 and rounded once.
///
/// Raises
/// ------
/// TypeError
///     An argument is no array of floats, or they differ in dtype.
/// ValueError
///     Shapes do not fit, the activation is unknown, or `out` is read-only.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> x = np.array([[1.0, 2.0]])
/// >>> weight = np.array([[1.0, 0.0, -3.0], [0.0, 1.0, 0.0]])
/// >>> pb.linear(x, weight, np.array([0.5, 0.5, 0.5]), activation="relu")
/// array([[1.5, 2.5, 0. ]])
#[pyfunction]
#[pyo3(signature = (x, weight, bias=None, *, activation=None, residual=None, out=None))]
pub(super) fn linear<'py>(
    x: Object<'_, 'py>,
    weight: Object<'_, 'py>,
    bias: Option<Object<'_, 'py>>,
    activation: Option<Object<'_, 'py>>,
    residual: Option<Object<'_, 'py>>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let signature = Signature::new("linear");
    let activation = activation_of(signature.op, activation)?;
    product(signature, [Some(x), Some(weight), bias, residual], activation, out)
}

/// A packed weight of any dtype.
trait Packed: Send + Sync + core::fmt::Debug {
    /// (in_features, out_features)
    fn shape(&self) -> (usize, usize);

    fn activation(&self) -> Activation;

    /// The bytes that weight and bias take.
    fn nbytes(&self) -> usize;

    /// See [`crate::Layer::workspace`].
    fn workspace(&self, rows: usize) -> usize;

    fn panels(&self) -> Block<'_>;

    fn bias(&self) -> Option<Block<'_>>;

    /// Computes rows in the dtype of the weight, or in float32 where that is narrower.
    fn forward(&self, rows: Rows<'_>) -> Result<(), Error>;

    /// The same for a layer within a stack.
    fn forward_in_stack(&self, rows: InStack<'_>) -> Result<(), Error>;

    /// Writes the weight as it was before it was packed.
    fn unpack(&self, out: BlockMut<'_>) -> Result<(), Error>;
}

impl<W: Element<Acc: Element>> Packed for PackedLinear<'static, W> {
    fn shape(&self) -> (usize, usize) {
        (self.in_features(), self.out_features())
    }

    fn activation(&self) -> Activation {
        self.activation()
    }

    fn nbytes(&self) -> usize {
        self.nbytes()
    }

    fn workspace(&self, rows: usize) -> usize {
        crate::Layer::workspace(self, rows, self.in_features())
    }

    fn panels(&self) -> Block<'_> {
        Block::from(crate::Matrix::from(self.panels()))
    }

    fn bias(&self) -> Option<Block<'_>> {
        self.bias().map(|bias| Block::from(crate::Matrix::from(bias)))
    }

    #[inline]
    fn forward(&self, rows: Rows<'_>) -> Result<(), Error> {
        if rows.dtype == W::DTYPE {
            self.forward(rows.x::<W>(), rows.residual::<W>(), rows.out.matrix::<W>())
        } else {
            self.forward_wide(rows.x::<W::Acc>(), rows.residual::<W::Acc>(), rows.out.matrix::<W::Acc>())
        }
    }

    fn forward_in_stack(&self, rows: InStack<'_>) -> Result<(), Error> {
        let InStack { dtype, x, out } = rows;
        if dtype == W::DTYPE {
            self.forward(x.matrix::<W>(), Residual::None, out.matrix::<W>())
        } else {
            self.forward_wide(x.matrix::<W::Acc>(), Residual::None, out.matrix::<W::Acc>())
        }
    }

    fn unpack(&self, out: BlockMut<'_>) -> Result<(), Error> {
        Ok(self.unpack(out.matrix::<W>())?)
    }
}

/// A linear layer whose weight is packed once and used many times: ``activation(x @ weight + bias + residual)``.
///
/// Its results are those of `linear`, bit for bit. It may be called from many threads at once.
///
/// Parameters
/// ----------
/// weight : array_like
///     Of shape (in_features, out_features) and any strides: a PyTorch weight of shape (out, in) is passed as
///     ``weight.T``. It is copied.
/// bias : array_like, optional
///     Of shape (out_features,). It is kept in the type that is computed in.
/// activation : {"relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"}, optional
///     Applied last.
/// dtype : dtype or str, optional
///     How the weight is stored; that of `weight` where left out. "float16" and "bfloat16" take two bytes a number and
///     are computed in float32: `x` is then of that dtype or float32, and so is the result.
///
/// Attributes
/// ----------
/// in_features, out_features : int
///     The shape of the weight.
/// dtype : numpy.dtype
///     How the weight is stored.
/// activation : str or None
///     What is applied last.
/// weight, bias : ndarray
///     Copies of the weight, in its dtype, and of the bias, in the type that is computed in; no bias is None.
/// nbytes : int
///     The bytes that weight and bias take, padding included.
///
/// Raises
/// ------
/// TypeError
///     An argument is no array of floats, or `dtype` is none of the four.
/// ValueError
///     Shapes do not fit, or the activation is unknown.
///
/// Notes
/// -----
/// ``layer(x, residual=None, out=None)`` takes `x` of shape (..., in_features) and gives an array of shape (...,
/// out_features). `residual`, of that shape, is added before the activation; `out` is where to write the result, of its
/// shape and dtype, and may be `residual` itself.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> layer = pb.Linear(np.eye(2), np.array([0.5, -3.0]), activation="relu")
/// >>> layer
/// Linear(in_features=2, out_features=2, bias=True, activation='relu', dtype=float64)
/// >>> layer(np.array([[1.0, 2.0]]))
/// array([[1.5, 0. ]])
#[pyclass(module = "polyglot_bridge", frozen)]
#[derive(Debug)]
pub(super) struct Linear {
    packed: Box<dyn Packed>,
    dtype: Dtype,
    /// The arrays that panels and bias lie in, where they are not the layer's own: dropped after `packed`.
    kept: Vec<Kept>,
}

impl Linear {
    /// A layer with a weight and a bias that are rounded to `dtype` and to what is computed in.
    fn build<'py>(
        call: &Call<'py>,
        weight: Array<'py>,
        bias: Option<Array<'py>>,
        activation: Activation,
        dtype: Dtype,
    ) -> PyResult<Self> {
        const OP: &str = "Linear";
        let py = weight.py();
        // To round one may call what `numpy.seterrcall` names: see `take`.
        let mut pins = Pins::default();
        weight.pin(&mut pins)?;
        bias.iter().try_for_each(|bias| bias.pin(&mut pins))?;
        // Both are rounded before they meet `PackedLinear`, which takes them in one type.
        let wide = dtype.compute();
        let mut weight = weight.cast_to(OP, dtype)?;
        if bias.is_some() {
            weight = weight.cast_to(OP, wide)?;
        }
        let bias = bias.map(|bias| bias.cast_to(OP, wide)?.into_contiguous(OP)).transpose()?;
        let source = weight.dtype();
        let nanoseconds = weight.len() as f32 * PACKING;
        let inputs = [Some(&*weight), bias.as_deref()];
        let packed = launch::read(call, py, inputs, nanoseconds, |[weight, bias]| {
            for_dtype!(dtype, W => if source == dtype {
                pack::<W, W>(weight, bias, activation)
            } else {
                pack::<W, <W as crate::Float>::Acc>(weight, bias, activation)
            })
        })??;
        Ok(Self { packed, dtype, kept: Vec::new() })
    }

    pub(super) fn shape(&self) -> [npy_intp; 2] {
        let (k, n) = self.packed.shape();
        [k.cast_signed(), n.cast_signed()]
    }

    /// Whether calls in this dtype can be made.
    pub(super) fn takes(&self, dtype: Dtype) -> bool {
        dtype == self.dtype || dtype == self.dtype.compute()
    }

    /// The dtype of the weight.
    pub(super) fn stored(&self) -> Dtype {
        self.dtype
    }

    /// The bytes that weight and bias take.
    pub(super) fn bytes(&self) -> usize {
        self.packed.nbytes()
    }

    /// See [`crate::Layer::workspace`].
    pub(super) fn workspace(&self, rows: usize) -> usize {
        self.packed.workspace(rows)
    }

    /// The addresses of what a call reads.
    pub(super) fn extents(&self) -> impl Iterator<Item = Range<usize>> {
        [Some(self.packed.panels()), self.packed.bias()].into_iter().flatten().map(|block| block.extent())
    }

    /// The layer's results for rows of a type that it [takes](Linear::takes).
    pub(super) fn forward<T: Element>(&self, x: Matrix<'_, T>, out: MatrixMut<'_, T>) -> Result<(), Error> {
        self.packed.forward_in_stack(InStack { dtype: T::DTYPE, x: Block::from(x), out: BlockMut::from(out) })
    }

    /// A layer over panels that were packed before, which are used where they lie.
    fn from_panels(
        panels: Object<'_, '_>,
        shape: (usize, usize),
        bias: Option<Object<'_, '_>>,
        activation: Activation,
        dtype: Dtype,
    ) -> PyResult<Self> {
        const OP: &str = "Linear";
        let py = panels.py();
        let call = Call::new(Signature::new(OP), [("panels", Some(panels)), ("bias", bias)])?;
        check_shape(OP, shape, dtype)?;
        let bias = match bias {
            Some(bias) => {
                let bias = take_own(OP, "bias", bias)?;
                if bias.dtype() != dtype.compute() {
                    return Err(wrong_dtype(OP, "bias", bias.dtype().name(), dtype.compute().name()));
                }
                Some(bias.into_contiguous(OP)?)
            }
            None => None,
        };
        let panels = in_place(panels)?.keep()?;
        let bias = bias.map(|bias| bias.into_ndarray().keep()).transpose()?;
        call.look_again()?;
        panels.look_again(py, OP)?;
        bias.iter().try_for_each(|bias| bias.look_again(py, OP))?;
        let packed = for_dtype!(dtype, W => {
            // SAFETY: the layer owns both arrays and drops them after `packed`, which has the slices. Whatever reads
            // those looks at the arrays again: `Arguments::operands`, `copied`, `Panels`. What is made below reads
            // their lengths.
            let (panels, bias) = unsafe { (panels.numbers::<W>(), bias.as_ref().map(|bias| bias.numbers())) };
            layer_of(PackedLinear::<W>::from_packed(panels, shape, bias, activation)?)?
        });
        let mut kept = Vec::new();
        kept.try_reserve_exact(2).map_err(|_| out_of_memory())?;
        kept.extend([Some(panels), bias].into_iter().flatten());
        Ok(Self { packed, dtype, kept })
    }
}

/// What packing one number takes on one core, in nanoseconds, roughly.
const PACKING: f32 = 0.3;

fn pack<W: Element<Acc: Element>, V: Element<Acc = W::Acc>>(
    weight: Option<Operand<'_>>,
    bias: Option<Operand<'_>>,
    activation: Activation,
) -> Result<Box<dyn Packed>, Error> {
    let weight = weight.map_or(crate::Matrix::from(&[]), |weight| weight.matrix().matrix::<V>());
    PackedLinear::<W>::new(weight, bias.map(|bias| bias.slice::<V>()), activation).and_then(layer_of)
}

fn layer_of<W: Element<Acc: Element>>(packed: PackedLinear<'static, W>) -> Result<Box<dyn Packed>, Error> {
    Ok(boxed(packed)?)
}

/// Sees that an array of a layer's shape could exist: that its bytes, but for dimensions of 0, can be counted.
fn check_shape(op: &str, (k, n): (usize, usize), dtype: Dtype) -> PyResult<()> {
    let bytes = k.max(1).checked_mul(n.max(1)).and_then(|len| len.checked_mul(dtype.size()));
    match bytes.map(isize::try_from) {
        Some(Ok(_)) => Ok(()),
        _ => Err(value_error!("{op}: a weight of shape ({k}, {n}) is too large")),
    }
}

/// Panels as a contiguous array of bytes, copied only where vectors read from them would straddle cache lines.
fn in_place<'py>(panels: Object<'_, 'py>) -> PyResult<NdArray<'py>> {
    const ALIGNMENT: usize = 32;
    const OP: &str = "Linear";
    let bytes = |object: &Bound<'py, PyAny>| match NdArray::exact("panels", object)? {
        Some(array) if array.is_c_contiguous() && array.itemsize() == 1 => Ok(array),
        _ => Err(type_error!("{OP}: panels must be bytes side by side, not {}", type_name(object))),
    };
    let array = bytes(panels)?;
    if array.extent().start.is_multiple_of(ALIGNMENT) || array.len() == 0 {
        return Ok(array);
    }
    let py = panels.py();
    let room = imported(py, "numpy", "empty")?.call1((array.len() + ALIGNMENT, "u1"))?;
    let start = bytes(&room)?.extent().start.wrapping_neg() % ALIGNMENT;
    let end = start + array.len();
    let copy = room.get_item(pyo3::types::PySlice::new(py, start.cast_signed(), end.cast_signed(), 1))?;
    array.copy_into(OP, &copy)?;
    bytes(&copy)
}

#[pymethods]
impl Linear {
    #[new]
    #[pyo3(signature = (weight, bias=None, *, activation=None, dtype=None))]
    fn new(
        weight: Object<'_, '_>,
        bias: Option<Object<'_, '_>>,
        activation: Option<Object<'_, '_>>,
        dtype: Option<Object<'_, '_>>,
    ) -> PyResult<Self> {
        const OP: &str = "Linear";
        let arguments = [("weight", Some(weight)), ("bias", bias), ("dtype", dtype)];
        let call = &Call::new(Signature::new(OP), arguments)?;
        let activation = activation_of(OP, activation)?;
        let dtype = dtype.map(|dtype| Dtype::from_argument(OP, dtype)).transpose()?;
        let weight = take_own(OP, "weight", weight).map_err(|error| call.blame(error))?;
        let mut slot = None;
        if let Some(bias) = bias {
            take_as(OP, "bias", bias, weight.dtype(), &mut slot).map_err(|error| call.blame(error))?;
        }
        let bias = slot;
        call.look_again()?;
        let dtype = dtype.unwrap_or(weight.dtype());
        let &[_, n] = weight.shape() else {
            let shape = Shape(weight.shape());
            return Err(value_error!("{OP}: weight has shape {shape}, expected two dimensions"));
        };
        if let Some(bias) = &bias {
            let allowed = [weight.dtype(), dtype, dtype.compute()];
            if !allowed.contains(&bias.dtype()) {
                let (bias, weight) = (bias.dtype().name(), weight.dtype().name());
                return Err(type_error!("{OP}: bias has dtype {bias} and weight has dtype {weight}"));
            }
            if bias.shape() != [n] {
                let why = format_args!(", as weight has shape {}", Shape(weight.shape()));
                return Err(wrong_shape(OP, "bias", bias.shape(), &[n], why));
            }
        }
        Self::build(call, weight, bias, activation, dtype)
    }

    #[pyo3(signature = (x, residual=None, out=None))]
    fn __call__<'py>(
        &self,
        x: Object<'_, 'py>,
        residual: Option<Object<'_, 'py>>,
        out: Option<Object<'_, 'py>>,
    ) -> Returned<'py> {
        const OP: &str = "Linear";
        let mut slots = slots();
        let arrays = [("x", Some(x)), ("residual", residual)];
        let call = &Call::with(Signature::new(OP), arrays, [("out", out)], &mut slots)?;
        let (x, residual) = self.take_inputs(call, x, residual, &mut slots)?;
        let [k, n] = self.shape();
        if x.shape().last() != Some(&k) {
            let shape = Shape(x.shape());
            return Err(value_error!(
                "{OP}: x has shape {shape} and weight has shape ({k}, {n}): the last dimension of x must be {k}"
            ));
        }
        let transform = Transform {
            shape: [k, n],
            work: k as f32 * n as f32,
            weight: None,
            bias: None,
            layers: core::iter::once(self),
            apply: |rows: Rows<'_>| self.packed.forward(rows),
        };
        run(call, transform, x, residual, out)
    }

    /// The rows of the weight.
    #[getter]
    fn in_features(&self) -> isize {
        self.shape()[0]
    }

    /// The columns of the weight.
    #[getter]
    fn out_features(&self) -> isize {
        self.shape()[1]
    }

    /// How the weight is stored.
    #[getter]
    fn dtype<'py>(&self, py: Python<'py>) -> Returned<'py> {
        self.dtype.object(py)
    }

    /// What is applied last, or None.
    #[getter]
    fn activation(&self) -> Option<&'static str> {
        match self.packed.activation() {
            Activation::None => None,
            activation => Some(activation.name()),
        }
    }

    /// The bytes that weight and bias take, padding included.
    #[getter]
    fn nbytes(&self) -> usize {
        self.bytes()
    }

    /// A copy of the weight, of shape (in_features, out_features).
    #[getter]
    fn weight<'py>(&self, py: Python<'py>) -> Returned<'py> {
        self.copied(py, self.dtype, &self.shape(), |out| self.packed.unpack(out))
    }

    /// A copy of the bias, in the type that is computed in, or None.
    #[getter]
    fn bias<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(bias) = self.packed.bias() else { return Ok(None) };
        let dtype = self.dtype.compute();
        let copy = |out: BlockMut<'_>| for_dtype!(dtype, T => Ok(crate::activate(Activation::None, bias.matrix::<T>(), out.matrix::<T>())?));
        self.copied(py, dtype, &[self.shape()[1]], copy).map(Some)
    }

    pub(super) fn __repr__(&self) -> PyResult<String> {
        let [k, n] = self.shape();
        let bias = if self.packed.bias().is_some() { "True" } else { "False" };
        let (quote, activation) = self.activation().map_or(("", "None"), |name| ("'", name));
        let dtype = self.dtype.name();
        text(format_args!(
            "Linear(in_features={k}, out_features={n}, bias={bias}, activation={quote}{activation}{quote}, dtype={dtype})"
        ))
    }

    /// The packed weight as read-only bytes, where it lies, and the number of their layout: for files and pickles.
    fn _panels<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, u32)> {
        let bytes = Panels(slf.clone().unbind());
        let view = imported(slf.py(), "numpy", "asarray")?.call1((Bound::new(slf.py(), bytes)?,))?;
        Ok((view, LAYOUT))
    }

    fn __reduce_ex__<'py>(slf: &Bound<'py, Self>, protocol: u32) -> PyResult<Bound<'py, PyTuple>> {
        let (py, this) = (slf.py(), slf.get());
        let none = || py.None().into_bound(py);
        let bias = Ok(this.bias(py)?.unwrap_or_else(none));
        let activation = this.activation().map_or_else(|| Ok(none()), |name| string(py, name));
        let dtype = string(py, this.dtype.name());
        let (make, state) = if protocol >= 5 {
            // The bytes go out of band where the pickler is asked for that, and are used where they arrive.
            let (panels, layout) = Self::_panels(slf)?;
            let sizes = this.shape().map(|size| integer(py, size as u64));
            let shape = Ok(tuple(py, sizes.into_iter())?.into_any());
            let state = [Ok(panels), shape, bias, activation, dtype, integer(py, layout.into())];
            ("_packed_linear", tuple(py, state.into_iter())?)
        } else {
            ("_linear", tuple(py, [this.weight(py), bias, activation, dtype].into_iter())?)
        };
        tuple(py, [imported(py, CORE, make), Ok(state.into_any())].into_iter())
    }

    /// Writes the layer to a safetensors file, packed as it is used.
    ///
    /// Parameters
    /// ----------
    /// path : str or os.PathLike
    ///     The file, replaced in one step where it is there.
    #[pyo3(signature = (path))]
    fn save<'py>(slf: &Bound<'py, Self>, path: Object<'_, 'py>) -> PyResult<()> {
        imported(slf.py(), "polyglot_bridge._saved", "save")?.call1((slf, path)).map(drop)
    }

    /// Reads what `save` wrote.
    ///
    /// Parameters
    /// ----------
    /// path : str or os.PathLike
    ///     The file.
    /// mmap : bool, default True
    ///     Whether the weight stays in the file and is used in place: processes that load one file share one copy of it.
    ///
    /// Returns
    /// -------
    /// Linear
    #[classmethod]
    #[pyo3(signature = (path, *, mmap=true))]
    fn load<'py>(class: &Bound<'py, PyType>, path: Object<'_, 'py>, mmap: bool) -> Returned<'py> {
        imported(class.py(), "polyglot_bridge._saved", "load")?.call1((class, path, mmap))
    }

    /// The layer of a PyTorch module, or of a state dict.
    ///
    /// Parameters
    /// ----------
    /// module : torch.nn.Linear or mapping
    ///     What has a weight of shape (out, in) and perhaps a bias, as attributes or under these names.
    /// prefix : str, default ""
    ///     What stands before the names in a state dict, say "encoder.0.".
    /// activation, dtype : optional
    ///     As for `Linear`.
    ///
    /// Returns
    /// -------
    /// Linear
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     `module` is neither a module nor a state dict, or a tensor of it is none of floats that are all there.
    /// ValueError
    ///     It does more than a linear layer (hooks, a `forward` of its own, adapters), its shapes do not fit, or a number
    ///     would become infinite in `dtype`.
    #[classmethod]
    #[pyo3(signature = (module, *, prefix=None, activation=None, dtype=None), text_signature = "(module, *, prefix='', activation=None, dtype=None)")]
    fn from_torch<'py>(
        class: &Bound<'py, PyType>,
        module: Object<'_, 'py>,
        prefix: Option<Object<'_, 'py>>,
        activation: Option<Object<'_, 'py>>,
        dtype: Option<Object<'_, 'py>>,
    ) -> Returned<'py> {
        imported(class.py(), "polyglot_bridge._convert", "linear_from_torch")?
            .call1((module, prefix, activation, dtype))
    }
}

/// The panels of a layer as a buffer of bytes, through `__array_interface__`, which the array keeps alive.
#[pyclass(name = "_Panels", module = "polyglot_bridge._core", frozen)]
#[derive(Debug)]
pub(super) struct Panels(Py<Linear>);

#[pymethods]
impl Panels {
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyDict>> {
        let layer = self.0.get();
        layer.look_again(py, "Linear")?;
        let extent = layer.packed.panels().extent();
        let interface = super::list::dict(py)?;
        interface.set_item("version", 3)?;
        interface.set_item("shape", (extent.len(),))?;
        interface.set_item("typestr", "|u1")?;
        interface.set_item("data", (extent.start, true))?;
        Ok(interface)
    }
}

impl Linear {
    /// Sees that panels and bias lie where they did.
    #[inline]
    fn look_again(&self, py: Python<'_>, op: &str) -> PyResult<()> {
        self.kept.iter().try_for_each(|kept| kept.look_again(py, op))
    }

    /// A new array that `write` fills.
    fn copied<'py>(
        &self,
        py: Python<'py>,
        dtype: Dtype,
        shape: &[npy_intp],
        write: impl FnOnce(BlockMut<'_>) -> Result<(), Error>,
    ) -> Returned<'py> {
        const OP: &str = "Linear";
        let mut slot = Slot::default();
        let output = Output::fresh(&mut slot, py, dtype, shape)?;
        // Now, as to make the array may have run anything: where its dtype comes from is imported.
        self.look_again(py, OP)?;
        if output.written().len() > 0 {
            let cols = shape.last().map_or(1, |cols| cols.unsigned_abs());
            let mut target = output.target(OP)?;
            let rows = target.len() / cols;
            write(target.dense(rows, cols))?;
        }
        output.finish(OP)
    }

    /// x and a residual in a dtype that the layer takes; lists take that of the weight.
    fn take_inputs<'a, 'py>(
        &self,
        call: &Call<'py>,
        x: Object<'_, 'py>,
        residual: Option<Object<'_, 'py>>,
        slots: &'a mut Slots<'py, 2>,
    ) -> PyResult<(&'a Array<'py>, Option<&'a Array<'py>>)> {
        let op = call.op;
        let dtype = match residual {
            None => take_as(op, "x", x, self.dtype, &mut slots[0]).map_err(|error| call.blame(error))?.dtype(),
            Some(_) => {
                take_all(op, [("x", Some(x)), ("residual", residual)], slots).map_err(|error| call.blame(error))?
            }
        };
        call.look_again()?;
        let [Some(x), residual] = slots else { return Err(type_error!("{op}: x is missing")) };
        if !self.takes(dtype) {
            let (found, own) = (dtype.name(), self.dtype.name());
            let or = if self.dtype.compute() == self.dtype { "" } else { " or float32" };
            return Err(type_error!("{op}: x has dtype {found}, the weight has dtype {own}, expected {own}{or}"));
        }
        Ok((x, residual.as_ref()))
    }
}

/// Makes a `Linear` again from what its pickle holds.
#[pyfunction]
#[pyo3(signature = (weight, bias, activation, dtype))]
pub(super) fn _linear(
    weight: Object<'_, '_>,
    bias: Option<Object<'_, '_>>,
    activation: Option<Object<'_, '_>>,
    dtype: Object<'_, '_>,
) -> PyResult<Linear> {
    Linear::new(weight, bias, activation, Some(dtype))
}

/// Makes a `Linear` over packed panels, an array of bytes, which are used where they lie.
#[pyfunction]
#[pyo3(signature = (panels, shape, bias, activation, dtype, layout))]
pub(super) fn _packed_linear(
    panels: Object<'_, '_>,
    shape: (usize, usize),
    bias: Option<Object<'_, '_>>,
    activation: Option<Object<'_, '_>>,
    dtype: Object<'_, '_>,
    layout: u32,
) -> PyResult<Linear> {
    if layout != LAYOUT {
        return Err(value_error!(
            "Linear: packed weights have layout {layout}, this version of polyglot_bridge reads layout {LAYOUT}"
        ));
    }
    let name = dtype.cast::<PyString>()?.to_cow()?;
    let Some(dtype) = Dtype::from_name(&name) else {
        return Err(type_error!("Linear: dtype must be the name of a float type, not {name}"));
    };
    Linear::from_panels(panels, shape, bias, activation_of("Linear", activation)?, dtype)
}
