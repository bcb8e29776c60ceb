//! `Sequential`, a stack of layers that runs block of rows by block of rows, and `RowOperation`, what it holds beside
//! `Linear`. Stacking is `ops::sequential`'s; saving, loading and conversions are written in Python.

use std::boxed::Box;
use std::string::String;
use std::vec::Vec;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PySlice, PyString, PyTuple, PyType};

use super::arguments::number;
use super::call::{Call, Object, Returned, Signature};
use super::dtype::{Dtype, Element, for_dtype};
use super::errors::{Shape, error, out_of_memory, text, type_error, type_name, value_error, wrong_shape};
use super::linear::{self, Linear, Quoted, Rows, Transform};
use super::list::{CORE, attribute, boxed, float, imported, list, string, tuple};
use super::rows::{LayerNorm, LogSoftmax, RmsNorm, Softmax};
use super::same_shape::{Arrays, run};
use super::take::{Array, slots, take, take_all, take_as, take_own};
use crate::error::Error;
use crate::float::Compute;
use crate::math::activation::Activation;
use crate::ops::sequential as stack;
use crate::view::{Matrix, MatrixMut};

/// How deep stacks may lie within stacks: those who show and free them go down by calls.
const DEEPEST: usize = 64;
/// How many layers a stack has at most, those within stacks counted.
const MOST_LAYERS: usize = 1 << 20;

/// What a row operation computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Softmax,
    LogSoftmax,
    LayerNorm,
    RmsNorm,
    Activation(Activation),
}

impl Kind {
    const NORMS: [Self; 4] = [Self::Softmax, Self::LogSoftmax, Self::LayerNorm, Self::RmsNorm];

    fn all() -> impl Iterator<Item = Self> {
        Self::NORMS.into_iter().chain(Activation::ALL[1..].iter().map(|&activation| Self::Activation(activation)))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Softmax => "softmax",
            Self::LogSoftmax => "log_softmax",
            Self::LayerNorm => "layer_norm",
            Self::RmsNorm => "rms_norm",
            Self::Activation(activation) => activation.name(),
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::all().find(|kind| kind.name() == name)
    }

    /// The value of `eps` where none is given; `None` where there is no such thing.
    fn eps(self) -> Option<f64> {
        match self {
            Self::LayerNorm => Some(1e-5),
            Self::RmsNorm => Some(1e-6),
            _ => None,
        }
    }
}

/// A row operation with its parameters, for a `Sequential`: softmax, a normalisation, or an activation.
///
/// Its results are those of the function of the same name along the last axis, bit for bit. In a `Sequential` the name
/// alone will do where there are no parameters.
///
/// Parameters
/// ----------
/// name : {"softmax", "log_softmax", "layer_norm", "rms_norm", "relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"}
///     What is computed.
/// weight, bias : array_like, optional
///     For "layer_norm" one value a column each, for "rms_norm" the weight only. They are copied. Those of float16 or
///     bfloat16 fit `x` of float32 too.
/// eps : float, optional
///     For the two norms: 1e-5 for "layer_norm", 1e-6 for "rms_norm".
///
/// Attributes
/// ----------
/// name : str
///     What is computed.
/// weight, bias : ndarray or None
///     The parameters, read-only.
/// eps : float or None
///     What is added to the variance or the mean square.
/// features : int or None
///     How many columns `x` must have; None where any number will do.
///
/// Raises
/// ------
/// TypeError
///     `weight` or `bias` is no array of floats, or they differ in dtype.
/// ValueError
///     The name is unknown, the operation has no such parameter, or shapes do not fit.
///
/// Notes
/// -----
/// ``operation(x, out=None)`` works along the last axis of `x` and gives an array of its shape and dtype; `out` is where
/// to write it, and may be `x` itself.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> norm = pb.RowOperation("layer_norm", np.array([1.0, 1.0, 2.0]), eps=0.0)
/// >>> norm
/// RowOperation('layer_norm', weight=True, bias=False, eps=0.0)
/// >>> norm(np.array([[1.0, 2.0, 3.0]])).round(4)
/// array([[-1.2247,  0.    ,  2.4495]])
#[pyclass(module = "polyglot_bridge", frozen)]
#[derive(Debug)]
pub(super) struct RowOperation {
    kind: Kind,
    weight: Option<Py<PyAny>>,
    bias: Option<Py<PyAny>>,
    eps: f64,
    /// Of the weight and the bias: their dtype and length.
    own: Option<(Dtype, usize)>,
}

impl RowOperation {
    fn plain(kind: Kind) -> Self {
        Self { kind, weight: None, bias: None, eps: kind.eps().unwrap_or(0.0), own: None }
    }

    fn takes(&self, dtype: Dtype) -> bool {
        self.own.is_none_or(|(own, _)| dtype == own || dtype == own.compute())
    }

    /// Weight and bias in the dtype of a call. Their owner may have made them writeable and given them another shape or
    /// dtype, or strides of which kernels know nothing.
    fn parameters<'py>(&self, py: Python<'py>, dtype: Dtype) -> PyResult<[Option<Array<'py>>; 2]> {
        let cast = |name: &'static str, parameter: &Option<Py<PyAny>>| {
            let (Some(parameter), Some((own, len))) = (parameter, self.own) else { return Ok(None) };
            let array = take_own(NAME, name, parameter.bind(py))?;
            if array.dtype() != own || array.shape() != [len.cast_signed()] || !array.is_c_contiguous() {
                let (found, dtype, own) = (Shape(array.shape()), array.dtype().name(), own.name());
                return Err(value_error!(
                    "{NAME}: {name} was ({len},) of {own} when the layer was made and is {found} of {dtype} now"
                ));
            }
            array.cast_to(NAME, dtype).map(Some)
        };
        Ok([cast("weight", &self.weight)?, cast("bias", &self.bias)?])
    }

    fn layer<T: Element>(&self, py: Python<'_>) -> PyResult<stack::RowOperation<T>> {
        let copy = |parameter: Option<Array<'_>>| -> PyResult<Option<Vec<T>>> {
            let Some(parameter) = parameter else { return Ok(None) };
            let operand = parameter.operand(NAME)?;
            let (mut copy, numbers) = (Vec::new(), operand.slice::<T>());
            copy.try_reserve_exact(numbers.len()).map_err(|_| out_of_memory())?;
            copy.extend_from_slice(numbers);
            Ok(Some(copy))
        };
        let [weight, bias] = self.parameters(py, T::DTYPE)?;
        let (weight, bias) = (copy(weight)?, copy(bias)?);
        let eps = T::Acc::from_f64(self.eps);
        Ok(match self.kind {
            Kind::Softmax => stack::RowOperation::Softmax,
            Kind::LogSoftmax => stack::RowOperation::LogSoftmax,
            Kind::LayerNorm => stack::RowOperation::LayerNorm { weight, bias, eps },
            Kind::RmsNorm => stack::RowOperation::RmsNorm { weight, eps },
            Kind::Activation(activation) => stack::RowOperation::Activation(activation),
        })
    }

    /// The bytes that the parameters take.
    fn bytes(&self) -> usize {
        let arrays = usize::from(self.weight.is_some()) + usize::from(self.bias.is_some());
        self.own.map_or(0, |(dtype, len)| arrays * dtype.size() * len)
    }
}

const NAME: &str = "RowOperation";

#[pymethods]
impl RowOperation {
    #[new]
    #[pyo3(signature = (name, weight=None, bias=None, *, eps=None))]
    fn new(
        name: Object<'_, '_>,
        weight: Option<Object<'_, '_>>,
        bias: Option<Object<'_, '_>>,
        eps: Option<Object<'_, '_>>,
    ) -> PyResult<Self> {
        let text = name.cast::<PyString>().ok().map(PyStringMethods::to_cow).transpose()?;
        let Some(kind) = text.as_deref().and_then(Kind::from_name) else {
            return Err(value_error!("{NAME}: name must be one of {}, not {}", names(), name.repr()?));
        };
        let surplus = [
            ("weight", weight.is_some() && kind.eps().is_none()),
            ("bias", bias.is_some() && kind != Kind::LayerNorm),
            ("eps", eps.is_some() && kind.eps().is_none()),
        ];
        if let Some((parameter, _)) = surplus.into_iter().find(|&(_, surplus)| surplus) {
            return Err(value_error!("{NAME}: {} has no {parameter}", kind.name()));
        }
        let call = Call::new(Signature::new(NAME), [("weight", weight), ("bias", bias), ("eps", eps)])?;
        let eps = match eps {
            Some(eps) => number(NAME, "eps", eps)?,
            None => kind.eps().unwrap_or(0.0),
        };
        let (names, given) = (["weight", "bias"], [weight, bias]);
        let mut arrays = slots();
        match given {
            [None, None] => {}
            [Some(_), _] => drop(
                take_all(NAME, [(names[0], weight), (names[1], bias)], &mut arrays)
                    .map_err(|error| call.blame(error))?,
            ),
            [None, Some(bias)] => arrays[1] = Some(take_own(NAME, names[1], bias)?),
        }
        call.look_again()?;
        let mut own = None;
        for (name, array) in names.into_iter().zip(&arrays) {
            let Some(array) = array else { continue };
            let len = own.map_or(array.len(), |(_, len)| len);
            if array.shape() != [len.cast_signed()] {
                let expected = if array.ndim() == 1 { len } else { array.len() }.cast_signed();
                return Err(wrong_shape(NAME, name, array.shape(), &[expected], format_args!(", one value a column")));
            }
            own = Some((array.dtype(), len));
        }
        let kept = arrays.map(|array| array.map(keep).transpose());
        let [weight, bias] = kept;
        Ok(Self { kind, weight: weight?, bias: bias?, eps, own })
    }

    #[pyo3(signature = (x, out=None))]
    fn __call__<'py>(&self, x: Object<'_, 'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
        let op = self.kind.name();
        let mut slots = slots();
        let call = &Call::with(Signature::new(op), [("x", Some(x))], [("out", out)], &mut slots)?;
        let x = match self.own {
            Some((own, _)) => take_as(op, "x", x, own, &mut slots[0]).map_err(|error| call.blame(error))?,
            None => take(op, "x", x, &mut slots[0])?,
        };
        call.look_again()?;
        let axis = x.ndim().saturating_sub(1);
        if let Some((own, len)) = self.own {
            if !self.takes(x.dtype()) {
                let (found, own) = (x.dtype().name(), own.name());
                return Err(type_error!("{op}: x has dtype {found}, the weight has dtype {own}"));
            }
            if x.shape().last().copied().unwrap_or(1) != len.cast_signed() {
                let shape = Shape(x.shape());
                return Err(value_error!(
                    "{op}: x has shape {shape} and weight has shape ({len},): the last dimension of x must be {len}"
                ));
            }
        }
        let [weight, bias] = self.parameters(x.py(), x.dtype())?;
        let eps = self.eps;
        let arrays = Arrays { weight: weight.as_deref(), bias: bias.as_deref(), ..Arrays::of(x) };
        match self.kind {
            Kind::Softmax => run(call, &Softmax, arrays, Some(axis), out),
            Kind::LogSoftmax => run(call, &LogSoftmax, arrays, Some(axis), out),
            Kind::LayerNorm => run(call, &LayerNorm { eps }, arrays, Some(axis), out),
            Kind::RmsNorm => run(call, &RmsNorm { eps }, arrays, Some(axis), out),
            Kind::Activation(activation) => run(call, &activation, arrays, None, out),
        }
    }

    /// What is computed.
    #[getter]
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// One factor a column, read-only, or None.
    #[getter]
    fn weight(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.weight.as_ref().map(|weight| weight.clone_ref(py))
    }

    /// One summand a column, read-only, or None.
    #[getter]
    fn bias(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.bias.as_ref().map(|bias| bias.clone_ref(py))
    }

    /// What is added to the variance or the mean square; None where there is no such thing.
    #[getter]
    fn eps(&self) -> Option<f64> {
        self.kind.eps().map(|_| self.eps)
    }

    /// How many columns `x` must have; None where any number will do.
    #[getter]
    fn features(&self) -> Option<usize> {
        self.own.map(|(_, len)| len)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let name = self.kind.name();
        let Some(eps) = self.eps() else { return text(format_args!("RowOperation('{name}')")) };
        let truth = |given: bool| if given { "True" } else { "False" };
        let eps = pyo3::types::PyFloat::new(py, eps).repr()?;
        let weight = truth(self.weight.is_some());
        match self.kind {
            Kind::LayerNorm => {
                let bias = truth(self.bias.is_some());
                text(format_args!("RowOperation('{name}', weight={weight}, bias={bias}, eps={eps})"))
            }
            _ => text(format_args!("RowOperation('{name}', weight={weight}, eps={eps})")),
        }
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let (py, this) = (slf.py(), slf.get());
        let make = imported(py, CORE, "_row_operation")?;
        let or_none = |value: Option<Py<PyAny>>| value.unwrap_or_else(|| py.None()).into_bound(py);
        let eps = this.eps().map(|eps| float(py, eps)).transpose()?.unwrap_or_else(|| py.None().into_bound(py));
        let state = [string(py, this.name()), Ok(or_none(this.weight(py))), Ok(or_none(this.bias(py))), Ok(eps)];
        let state = tuple(py, state.into_iter())?;
        tuple(py, [Ok(make), Ok(state.into_any())].into_iter())
    }
}

/// Makes a `RowOperation` again from what its pickle holds.
#[pyfunction]
#[pyo3(signature = (name, weight, bias, eps))]
pub(super) fn _row_operation(
    name: Object<'_, '_>,
    weight: Option<Object<'_, '_>>,
    bias: Option<Object<'_, '_>>,
    eps: Option<Object<'_, '_>>,
) -> PyResult<RowOperation> {
    RowOperation::new(name, weight, bias, eps)
}

/// The names of row operations, for messages.
fn names() -> impl core::fmt::Display {
    Quoted(|| Kind::all().map(Kind::name))
}

/// A contiguous, read-only copy.
fn keep(array: Array<'_>) -> PyResult<Py<PyAny>> {
    let copy = attribute(array.into_contiguous(NAME)?.object(), "copy")?.call0()?;
    attribute(&copy, "flags")?.setattr(string(copy.py(), "writeable")?.cast::<PyString>()?, false)?;
    Ok(copy.unbind())
}

/// One layer of a stack.
#[derive(Debug)]
enum Entry {
    Linear(Py<Linear>),
    Row(Py<RowOperation>),
    Stack(Py<Sequential>),
}

impl Entry {
    /// The layer that an object stands for: itself, or a row operation by its name or its function.
    fn new(object: &Bound<'_, PyAny>, index: usize) -> PyResult<Self> {
        if let Ok(layer) = object.cast::<Linear>() {
            return Ok(Self::Linear(layer.clone().unbind()));
        }
        if let Ok(layer) = object.cast::<RowOperation>() {
            return Ok(Self::Row(layer.clone().unbind()));
        }
        if let Ok(layer) = object.cast::<Sequential>() {
            return Ok(Self::Stack(layer.clone().unbind()));
        }
        let name = object.cast::<PyString>().ok().map(PyStringMethods::to_cow).transpose()?;
        let kind = match &name {
            Some(name) => Kind::from_name(name),
            None => function_kind(object)?,
        };
        match kind {
            Some(kind) => Ok(Self::Row(Py::new(object.py(), RowOperation::plain(kind))?)),
            None if name.is_some() => {
                let (names, found) = (names(), object.repr()?);
                Err(value_error!("Sequential: layers[{index}] must be one of {names}, not {found}"))
            }
            None => Err(type_error!(
                "Sequential: layers[{index}] must be a Linear, a RowOperation, a Sequential or the name of a row \
                 operation, not {}",
                type_name(object)
            )),
        }
    }

    /// The dtype of the layer's parameters.
    fn dtype(&self) -> Option<Dtype> {
        match self {
            Self::Linear(layer) => Some(layer.get().stored()),
            Self::Row(layer) => layer.get().own.map(|(dtype, _)| dtype),
            Self::Stack(layer) => layer.get().dtype,
        }
    }

    /// How many columns the layer takes, where it minds, and how many it gives for as many.
    fn features(&self, given: Option<usize>) -> (Option<usize>, Option<usize>) {
        match self {
            Self::Linear(layer) => {
                let [takes, gives] = layer.get().shape().map(isize::unsigned_abs);
                (Some(takes), Some(gives))
            }
            Self::Row(layer) => {
                let own = layer.get().own.map(|(_, len)| len);
                (own, own.or(given))
            }
            Self::Stack(layer) => {
                let layer = layer.get();
                (layer.in_features, layer.out_features.or(given))
            }
        }
    }

    fn object<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        match self {
            Self::Linear(layer) => layer.bind(py).clone().into_any(),
            Self::Row(layer) => layer.bind(py).clone().into_any(),
            Self::Stack(layer) => layer.bind(py).clone().into_any(),
        }
    }
}

/// One layer of a stack that has no stacks within: what runs.
#[derive(Debug)]
enum Step {
    Linear(Py<Linear>),
    Row(Py<RowOperation>),
}

impl Step {
    fn takes(&self, dtype: Dtype) -> bool {
        match self {
            Self::Linear(layer) => layer.get().takes(dtype),
            Self::Row(layer) => layer.get().takes(dtype),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Linear(layer) => layer.get().bytes(),
            Self::Row(layer) => layer.get().bytes(),
        }
    }

    fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Linear(layer) => Self::Linear(layer.clone_ref(py)),
            Self::Row(layer) => Self::Row(layer.clone_ref(py)),
        }
    }

    /// The layer for rows of `T`, which it takes.
    fn layer<T: Element>(&self, py: Python<'_>) -> PyResult<Box<dyn stack::Layer<T>>> {
        Ok(match self {
            Self::Linear(layer) => boxed(Shared(layer.clone_ref(py))).map_err(|_| out_of_memory())?,
            Self::Row(layer) => boxed(layer.get().layer::<T>(py)?).map_err(|_| out_of_memory())?,
        })
    }
}

/// The layers without the stacks that they are in.
fn flatten(py: Python<'_>, layers: &[Entry]) -> PyResult<Vec<Step>> {
    let count = layers.iter().fold(0_usize, |count, layer| match layer {
        Entry::Stack(stack) => count.saturating_add(stack.get().steps.len()),
        _ => count.saturating_add(1),
    });
    if count > MOST_LAYERS {
        return Err(value_error!("Sequential: {count} layers are more than {MOST_LAYERS}, the most there may be"));
    }
    let mut steps = Vec::new();
    steps.try_reserve_exact(count).map_err(|_| out_of_memory())?;
    for layer in layers {
        match layer {
            Entry::Linear(layer) => steps.push(Step::Linear(layer.clone_ref(py))),
            Entry::Row(layer) => steps.push(Step::Row(layer.clone_ref(py))),
            Entry::Stack(stack) => steps.extend(stack.get().steps.iter().map(|step| step.clone_ref(py))),
        }
    }
    Ok(steps)
}

/// One of this package's functions, as a row operation.
fn function_kind(object: &Bound<'_, PyAny>) -> PyResult<Option<Kind>> {
    let name = attribute(object, "__name__").ok().and_then(|name| name.cast_into::<PyString>().ok());
    let Some(kind) = name.and_then(|name| Kind::from_name(&name.to_cow().ok()?)) else { return Ok(None) };
    Ok(imported(object.py(), CORE, kind.name()).is_ok_and(|function| function.is(object)).then_some(kind))
}

/// A layer that is a Python object, in a stack that may run without the GIL.
struct Shared(Py<Linear>);

impl<T: Element> stack::Layer<T> for Shared {
    fn in_features(&self) -> Option<usize> {
        Some(self.0.get().shape()[0].unsigned_abs())
    }

    fn out_features(&self, _: usize) -> usize {
        self.0.get().shape()[1].unsigned_abs()
    }

    fn run(&self, x: Matrix<'_, T>, out: MatrixMut<'_, T>) -> Result<(), Error> {
        self.0.get().forward(x, out)
    }

    fn workspace(&self, rows: usize, _: usize) -> usize {
        self.0.get().workspace(rows)
    }
}

/// A stack for rows of some dtype.
trait Stack: Send + Sync + core::fmt::Debug {
    fn forward(&self, rows: Rows<'_>) -> Result<(), Error>;
}

impl<T: Element> Stack for stack::Sequential<'static, T> {
    fn forward(&self, rows: Rows<'_>) -> Result<(), Error> {
        self.forward(rows.x::<T>(), rows.out.matrix::<T>())
    }
}

/// A stack for each dtype that all steps take, in the order of [`Dtype::ALL`].
type Stacks = [Option<Box<dyn Stack>>; Dtype::ALL.len()];

fn stacks(py: Python<'_>, steps: &[Step]) -> PyResult<Stacks> {
    fn stack<T: Element>(py: Python<'_>, steps: &[Step]) -> PyResult<Option<Box<dyn Stack>>> {
        if !steps.iter().all(|step| step.takes(T::DTYPE)) {
            return Ok(None);
        }
        let mut layers = Vec::new();
        layers.try_reserve_exact(steps.len()).map_err(|_| out_of_memory())?;
        for step in steps {
            layers.push(step.layer::<T>(py)?);
        }
        Ok(Some(boxed(stack::Sequential::new(layers)).map_err(|_| out_of_memory())?))
    }
    let mut stacks = Stacks::default();
    for (slot, dtype) in stacks.iter_mut().zip(Dtype::ALL) {
        *slot = for_dtype!(dtype, T => stack::<T>(py, steps))?;
    }
    Ok(stacks)
}

/// A stack of layers that run one after the other, block of rows by block of rows.
///
/// So what one layer leaves is still in the cache when the next reads it. The results are those of the layers called one
/// by one, bit for bit. It may be called from many threads at once, and is itself a layer, up to 64 deep. It is iterable,
/// has a length, and gives its layers by index, parts of itself by slice.
///
/// Parameters
/// ----------
/// layers : iterable
///     Each a `Linear`, a `RowOperation`, another `Sequential`, or the name of a row operation without parameters:
///     "softmax", "log_softmax", "layer_norm", "rms_norm", "relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh". The
///     functions of those names will do as well. Row operations work along the last axis.
///
/// Attributes
/// ----------
/// in_features, out_features : int or None
///     How many columns `x` must have and the result has; None where the layers do not say.
/// dtypes : tuple of str
///     The dtypes that `x` may have.
/// nbytes : int
///     The bytes that the parameters take.
///
/// Raises
/// ------
/// TypeError
///     Something is no layer, or there is no dtype that all layers take.
/// ValueError
///     A layer does not take what the one before it gives, a name is unknown, or stacks lie too deep within stacks.
///
/// Notes
/// -----
/// ``network(x, out=None)`` takes `x` of shape (..., in_features) and gives an array of shape (..., out_features) and
/// the dtype of `x`; `out` is where to write the result.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> network = pb.Sequential([pb.Linear(np.array([[1.0, -1.0]]), activation="relu"), "softmax"])
/// >>> network
/// Sequential([
///     Linear(in_features=1, out_features=2, bias=False, activation='relu', dtype=float64),
///     RowOperation('softmax'),
/// ])
/// >>> network(np.array([[0.0]]))
/// array([[0.5, 0.5]])
/// >>> network[0].activation, len(network)
/// ('relu', 2)
#[pyclass(module = "polyglot_bridge", frozen)]
#[derive(Debug)]
pub(super) struct Sequential {
    layers: Vec<Entry>,
    /// The layers without the stacks that they are in.
    steps: Vec<Step>,
    stacks: Stacks,
    /// What lists become: the dtype of the first layer that has one.
    dtype: Option<Dtype>,
    in_features: Option<usize>,
    out_features: Option<usize>,
    /// Multiplications that a row takes, beside those of a row's own width.
    work: f32,
    /// How many stacks lie within each other, this one included.
    depth: usize,
}

impl Sequential {
    fn build(py: Python<'_>, layers: Vec<Entry>) -> PyResult<Self> {
        let (mut in_features, mut features, mut work, mut depth) = (None, None, 0.0, 1);
        for (index, layer) in layers.iter().enumerate() {
            let (takes, gives) = layer.features(features);
            if let (Some(takes), Some(features)) = (takes, features)
                && takes != features
            {
                return Err(value_error!(
                    "Sequential: layers[{index}] takes {takes} columns, what comes before it gives {features}"
                ));
            }
            work += takes.or(features).unwrap_or(0) as f32 * gives.unwrap_or(0) as f32;
            in_features = in_features.or(takes);
            features = gives;
            if let Entry::Stack(stack) = layer {
                depth = depth.max(stack.get().depth + 1);
            }
        }
        if depth > DEEPEST {
            return Err(value_error!("Sequential: stacks lie {depth} deep within each other, {DEEPEST} may"));
        }
        let steps = flatten(py, &layers)?;
        let stacks = stacks(py, &steps)?;
        if stacks.iter().all(Option::is_none) {
            let own = Dtypes(&layers);
            return Err(type_error!("Sequential: there is no dtype that all layers take: {own}"));
        }
        let dtype = layers.iter().find_map(Entry::dtype);
        Ok(Self { layers, steps, stacks, dtype, in_features, out_features: features, work, depth })
    }

    /// The stack for rows of a dtype, where all layers take it.
    fn stack(&self, dtype: Dtype) -> Option<&dyn Stack> {
        Dtype::ALL.iter().zip(&self.stacks).find(|&(&found, _)| found == dtype).and_then(|(_, stack)| stack.as_deref())
    }

    /// The layers that own weights.
    fn linears(&self) -> impl Iterator<Item = &Linear> + Clone {
        self.steps.iter().filter_map(|step| match step {
            Step::Linear(layer) => Some(layer.get()),
            Step::Row(_) => None,
        })
    }

    /// Writes the lines of a stack that stands so many levels within others.
    fn show(
        &self,
        py: Python<'_>,
        level: usize,
        shown: &mut dyn FnMut(core::fmt::Arguments<'_>) -> PyResult<()>,
    ) -> PyResult<()> {
        if self.layers.is_empty() {
            return shown(format_args!("Sequential([])"));
        }
        shown(format_args!("Sequential([\n"))?;
        let indent = 4 * level;
        for layer in &self.layers {
            shown(format_args!("{:indent$}    ", ""))?;
            match layer {
                Entry::Linear(layer) => shown(format_args!("{}", layer.get().__repr__()?))?,
                Entry::Row(layer) => shown(format_args!("{}", layer.get().__repr__(py)?))?,
                Entry::Stack(layer) => layer.get().show(py, level + 1, shown)?,
            }
            shown(format_args!(",\n"))?;
        }
        shown(format_args!("{:indent$}])", ""))
    }

    fn place(&self, index: isize) -> PyResult<&Entry> {
        let len = self.layers.len();
        let place = if index < 0 { index + len.cast_signed() } else { index };
        usize::try_from(place).ok().and_then(|place| self.layers.get(place)).ok_or_else(|| {
            error::<pyo3::exceptions::PyIndexError>(format_args!("Sequential: no layer {index} among {len}"))
        })
    }

    fn objects<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        list(py, self.layers.iter().map(|layer| Ok(layer.object(py))))
    }
}

#[pymethods]
impl Sequential {
    #[new]
    fn new(layers: Object<'_, '_>) -> PyResult<Self> {
        let wrong = || type_error!("Sequential: layers must be a list of layers, not {}", type_name(layers));
        if layers.is_instance_of::<PyString>() || layers.is_instance_of::<PyDict>() {
            return Err(wrong());
        }
        let mut entries = Vec::new();
        for (index, layer) in layers.try_iter().map_err(|_| wrong())?.enumerate() {
            if index == MOST_LAYERS {
                return Err(value_error!("Sequential: there may be {MOST_LAYERS} layers at most"));
            }
            entries.try_reserve(1).map_err(|_| out_of_memory())?;
            entries.push(Entry::new(&layer?, index)?);
        }
        Self::build(layers.py(), entries)
    }

    #[pyo3(signature = (x, out=None))]
    fn __call__<'py>(&self, x: Object<'_, 'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
        const OP: &str = "Sequential";
        let mut slots = slots();
        let call = &Call::with(Signature::new(OP), [("x", Some(x))], [("out", out)], &mut slots)?;
        let x = match self.dtype {
            Some(dtype) => take_as(OP, "x", x, dtype, &mut slots[0]).map_err(|error| call.blame(error))?,
            None => take(OP, "x", x, &mut slots[0])?,
        };
        call.look_again()?;
        let Some(stack) = self.stack(x.dtype()) else {
            let (found, taken) = (x.dtype().name(), Joined(self.dtypes()));
            return Err(type_error!("{OP}: x has dtype {found}, the layers take {taken}"));
        };
        let &[.., k] = x.shape() else {
            return Err(value_error!("{OP}: x has shape (), expected one dimension or more"));
        };
        if let Some(takes) = self.in_features
            && takes != k.unsigned_abs()
        {
            let shape = Shape(x.shape());
            return Err(value_error!(
                "{OP}: x has shape {shape} and the layers take {takes} columns: the last dimension of x must be {takes}"
            ));
        }
        let n = self.out_features.map_or(k, usize::cast_signed);
        let transform = Transform {
            shape: [k, n],
            work: self.work + k as f32 * n as f32,
            weight: None,
            bias: None,
            layers: self.linears(),
            apply: |rows: Rows<'_>| stack.forward(rows),
        };
        linear::run(call, transform, x, None, out)
    }

    fn __len__(&self) -> usize {
        self.layers.len()
    }

    fn __getitem__<'py>(&self, index: Object<'_, 'py>) -> Returned<'py> {
        let py = index.py();
        if let Ok(slice) = index.cast::<PySlice>() {
            let layers = self.objects(py)?.into_any().get_item(slice)?;
            return Ok(Bound::new(py, Self::new(&layers)?)?.into_any());
        }
        let number = attribute(index, "__index__")
            .and_then(|index| index.call0())
            .and_then(|index| index.extract::<isize>())
            .map_err(|_| type_error!("Sequential: an index is an integer or a slice, not {}", type_name(index)))?;
        Ok(self.place(number)?.object(py))
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> Returned<'py> {
        Ok(self.objects(py)?.try_iter()?.into_any())
    }

    /// How many columns `x` must have; None where any number will do.
    #[getter]
    fn in_features(&self) -> Option<usize> {
        self.in_features
    }

    /// How many columns the result has; None where it has those of `x`.
    #[getter]
    fn out_features(&self) -> Option<usize> {
        self.out_features
    }

    /// The dtypes that `x` may have.
    #[getter(dtypes)]
    fn dtypes_tuple<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        tuple(py, self.dtypes().map(|name| string(py, name)))
    }

    /// The bytes that the parameters take.
    #[getter]
    fn nbytes(&self) -> usize {
        self.steps.iter().map(Step::bytes).sum()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let mut lines = String::new();
        self.show(py, 0, &mut |part| {
            let part = text(part)?;
            lines.try_reserve(part.len()).map_err(|_| out_of_memory())?;
            lines.push_str(&part);
            Ok(())
        })?;
        Ok(lines)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let (py, this) = (slf.py(), slf.get());
        let make = imported(py, CORE, "_sequential")?;
        let state = tuple(py, [Ok(this.objects(py)?.into_any())].into_iter())?;
        tuple(py, [Ok(make), Ok(state.into_any())].into_iter())
    }

    /// Writes the layers to a safetensors file, packed as they are used.
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
    ///     Whether weights stay in the file and are used in place: processes that load one file share one copy of it.
    ///
    /// Returns
    /// -------
    /// Sequential
    #[classmethod]
    #[pyo3(signature = (path, *, mmap=true))]
    fn load<'py>(class: &Bound<'py, PyType>, path: Object<'_, 'py>, mmap: bool) -> Returned<'py> {
        imported(class.py(), "polyglot_bridge._saved", "load")?.call1((class, path, mmap))
    }

    /// The layers of a PyTorch module, or of its state dict.
    ///
    /// Parameters
    /// ----------
    /// module : torch.nn.Module or mapping
    ///     A `Sequential` of `Linear`, `LayerNorm`, `RMSNorm`, `Softmax`, `LogSoftmax`, activations, and of what does
    ///     nothing in inference; or the state dict of one that has nothing but linear layers, with `activation` between them.
    /// activation : str, optional
    ///     For a state dict: what comes after each linear layer but the last.
    /// dtype : dtype or str, optional
    ///     How weights of linear layers are stored; as they are where left out.
    ///
    /// Returns
    /// -------
    /// Sequential
    ///     Its activations are those of the linear layers before them.
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     `module` is neither a module nor a state dict, or a tensor of it is none of floats that are all there.
    /// ValueError
    ///     A module is not known to be exactly what its class does: it is of another class, was changed, is in training
    ///     where that matters; names of a state dict tell no order; shapes do not fit; or a number would become infinite
    ///     in `dtype`. The message names the module and says what to do.
    #[classmethod]
    #[pyo3(signature = (module, *, activation=None, dtype=None))]
    fn from_torch<'py>(
        class: &Bound<'py, PyType>,
        module: Object<'_, 'py>,
        activation: Option<Object<'_, 'py>>,
        dtype: Option<Object<'_, 'py>>,
    ) -> Returned<'py> {
        imported(class.py(), "polyglot_bridge._convert", "sequential_from_torch")?.call1((module, activation, dtype))
    }

    /// The layers of a fitted scikit-learn `MLPClassifier` or `MLPRegressor`.
    ///
    /// Parameters
    /// ----------
    /// model : sklearn.neural_network.MLPClassifier or sklearn.neural_network.MLPRegressor
    ///     A fitted one.
    /// dtype : dtype or str, optional
    ///     How weights are stored; as they are where left out.
    ///
    /// Returns
    /// -------
    /// Sequential
    ///     What it gives is ``model.predict_proba(x)`` (of two classes, the probability of the second), or
    ///     ``model.predict(x)`` of a regressor, as a column where there is one output.
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     `model` is no such model, or not fitted; or it is of a class of its own that may predict another thing.
    /// ValueError
    ///     What it holds does not fit together, or a function that it applies is none that a layer has.
    #[classmethod]
    #[pyo3(signature = (model, *, dtype=None))]
    fn from_sklearn<'py>(
        class: &Bound<'py, PyType>,
        model: Object<'_, 'py>,
        dtype: Option<Object<'_, 'py>>,
    ) -> Returned<'py> {
        imported(class.py(), "polyglot_bridge._convert", "from_sklearn")?.call1((model, dtype))
    }
}

impl Sequential {
    fn dtypes(&self) -> impl Iterator<Item = &'static str> + Clone {
        Dtype::ALL.into_iter().filter(|&dtype| self.stack(dtype).is_some()).map(Dtype::name)
    }
}

/// Names joined by "or".
struct Joined<I>(I);

impl<I: Iterator<Item = &'static str> + Clone> core::fmt::Display for Joined<I> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (index, name) in self.0.clone().enumerate() {
            write!(f, "{}{name}", if index == 0 { "" } else { " or " })?;
        }
        Ok(())
    }
}

/// Which layer is of which dtype.
struct Dtypes<'a>(&'a [Entry]);

impl core::fmt::Display for Dtypes<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut separator = "";
        for (index, layer) in self.0.iter().enumerate() {
            if let Some(dtype) = layer.dtype() {
                write!(f, "{separator}layers[{index}] has dtype {}", dtype.name())?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

/// Makes a `Sequential` again from what its pickle holds.
#[pyfunction]
pub(super) fn _sequential(layers: Object<'_, '_>) -> PyResult<Sequential> {
    Sequential::new(layers)
}
