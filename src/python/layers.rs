//! `Linear`: a layer that owns its weight, packed once. Calls go the way of `products`; the packing is `PackedLinear`'s.

use std::format;
use std::string::String;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::arrays::{Array, Dtype, take, take_all, take_as};
use super::errors::{Shape, wrong_shape};
use super::layout::Block;
use super::modern::{Object, Returned};
use super::operations::Vector;
use super::output::Output;
use super::products::{Added, Layer, activation_of, block_of, run};
use crate::PackedLinear;
use crate::error::ShapeError;
use crate::float::Float;
use crate::ops::activation::Activation;

/// A packed weight of any dtype.
#[derive(Debug)]
enum Packed {
    F16(PackedLinear<'static, half::f16>),
    Bf16(PackedLinear<'static, half::bf16>),
    F32(PackedLinear<'static, f32>),
    F64(PackedLinear<'static, f64>),
}

/// Runs an expression on the layer, whatever its dtype.
macro_rules! each {
    ($packed:expr, $layer:ident => $body:expr) => {
        match $packed {
            Packed::F16($layer) => $body,
            Packed::Bf16($layer) => $body,
            Packed::F32($layer) => $body,
            Packed::F64($layer) => $body,
        }
    };
}

impl Layer for Packed {
    #[inline]
    unsafe fn run(&self, dtype: Dtype, x: &Block, added: Added, out: &Block) -> Result<(), ShapeError> {
        // SAFETY: the caller's promise. A call is made in the dtype of the weight, or in float32 where that is narrower.
        unsafe {
            match (self, dtype) {
                (Self::F16(layer), Dtype::F16) => layer.forward(x.matrix(), added.residual(), out.matrix_mut()),
                (Self::F16(layer), _) => layer.forward_wide(x.matrix(), added.residual(), out.matrix_mut()),
                (Self::Bf16(layer), Dtype::Bf16) => layer.forward(x.matrix(), added.residual(), out.matrix_mut()),
                (Self::Bf16(layer), _) => layer.forward_wide(x.matrix(), added.residual(), out.matrix_mut()),
                (Self::F32(layer), _) => layer.forward(x.matrix(), added.residual(), out.matrix_mut()),
                (Self::F64(layer), _) => layer.forward(x.matrix(), added.residual(), out.matrix_mut()),
            }
        }
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
    packed: Packed,
    dtype: Dtype,
}

/// The dtype that an argument names.
fn dtype_of(py: Python<'_>, dtype: Object<'_, '_>) -> PyResult<Dtype> {
    let named = |name: &str| Dtype::from_name(name);
    if let Ok(name) = dtype.cast::<PyString>()
        && let Some(dtype) = named(&name.to_cow()?)
    {
        return Ok(dtype);
    }
    let found = py.import("numpy")?.getattr("dtype")?.call1((dtype,)).ok().filter(|found| {
        // Another byte order is another dtype.
        found.getattr("isnative").and_then(|native| native.is_truthy()).unwrap_or(false)
    });
    let name = found.and_then(|found| found.getattr("name").ok()?.extract::<String>().ok());
    name.as_deref().and_then(named).ok_or_else(|| {
        let found = dtype.repr().map_or_else(|_| "?".into(), |text| std::string::ToString::to_string(&text));
        PyTypeError::new_err(format!("Linear: dtype must be float16, bfloat16, float32 or float64, not {found}"))
    })
}

/// The type that is computed in.
fn compute(dtype: Dtype) -> Dtype {
    if dtype == Dtype::F64 { Dtype::F64 } else { Dtype::F32 }
}

impl Linear {
    fn build(weight: &Array<'_>, bias: Option<&Array<'_>>, activation: Activation, dtype: Dtype) -> PyResult<Self> {
        // Both are rounded to the dtype of the weight, and to what is computed in, before they meet `PackedLinear`,
        // which takes them in one type.
        let wide = compute(dtype);
        let weight = if weight.dtype() == dtype { weight.clone() } else { weight.cast_to(dtype)? };
        let weight = if bias.is_some() { weight.cast_to(wide)? } else { weight };
        let bias = bias.map(|bias| bias.cast_to(wide)?.contiguous()).transpose()?;
        let source = weight.dtype();
        let (weight, bias) = (&block_of(&weight), bias.as_ref().map(Vector::new));
        // SAFETY: arrays of these dtypes, alive here.
        let packed = unsafe {
            match (dtype, source) {
                (Dtype::F16, Dtype::F16) => {
                    Packed::F16(PackedLinear::new(weight.matrix::<half::f16>(), None, activation)?)
                }
                (Dtype::F16, _) => Packed::F16(PackedLinear::new(
                    weight.matrix::<f32>(),
                    bias.map(|bias| bias.slice::<f32>()),
                    activation,
                )?),
                (Dtype::Bf16, Dtype::Bf16) => {
                    Packed::Bf16(PackedLinear::new(weight.matrix::<half::bf16>(), None, activation)?)
                }
                (Dtype::Bf16, _) => Packed::Bf16(PackedLinear::new(
                    weight.matrix::<f32>(),
                    bias.map(|bias| bias.slice::<f32>()),
                    activation,
                )?),
                (Dtype::F32, _) => Packed::F32(PackedLinear::new(
                    weight.matrix::<f32>(),
                    bias.map(|bias| bias.slice::<f32>()),
                    activation,
                )?),
                (Dtype::F64, _) => Packed::F64(PackedLinear::new(
                    weight.matrix::<f64>(),
                    bias.map(|bias| bias.slice::<f64>()),
                    activation,
                )?),
            }
        };
        Ok(Self { packed, dtype })
    }

    pub(super) fn shape(&self) -> [isize; 2] {
        let (rows, cols) = each!(&self.packed, layer => (layer.in_features(), layer.out_features()));
        [rows.cast_signed(), cols.cast_signed()]
    }

    fn activation_kind(&self) -> Activation {
        each!(&self.packed, layer => layer.activation())
    }

    /// Whether calls in this dtype can be made.
    pub(super) fn takes(&self, dtype: Dtype) -> bool {
        dtype == self.dtype || dtype == compute(self.dtype)
    }

    pub(super) fn layer(&self) -> &impl Layer {
        &self.packed
    }
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
        let py = weight.py();
        let activation = activation_of(OP, activation)?;
        let dtype = dtype.map(|dtype| dtype_of(py, dtype)).transpose()?;
        let weight = take(OP, "weight", weight)?;
        let bias = bias.map(|bias| take_as(OP, "bias", bias, weight.dtype())).transpose()?;
        let dtype = dtype.unwrap_or(weight.dtype());
        let &[_, n] = weight.shape() else {
            let shape = Shape(weight.shape());
            return Err(PyValueError::new_err(format!("{OP}: weight has shape {shape}, expected two dimensions")));
        };
        if let Some(bias) = &bias {
            let allowed = [weight.dtype(), dtype, compute(dtype)];
            if !allowed.contains(&bias.dtype()) {
                let (bias, weight) = (bias.dtype().name(), weight.dtype().name());
                return Err(PyTypeError::new_err(format!("{OP}: bias has dtype {bias} and weight has dtype {weight}")));
            }
            if bias.shape() != [n] {
                let why = format!(", as weight has shape {}", Shape(weight.shape()));
                return Err(wrong_shape(OP, "bias", bias.shape(), &[n], &why));
            }
        }
        Self::build(&weight, bias.as_ref(), activation, dtype)
    }

    #[pyo3(signature = (x, residual=None, out=None))]
    fn __call__<'py>(
        &self,
        x: Object<'_, 'py>,
        residual: Option<Object<'_, 'py>>,
        out: Option<Object<'_, 'py>>,
    ) -> Returned<'py> {
        const OP: &str = "Linear";
        let (x, residual) = self.take_inputs(OP, x, residual)?;
        let [k, n] = self.shape();
        if x.shape().last() != Some(&k) {
            let shape = Shape(x.shape());
            return Err(PyValueError::new_err(format!(
                "{OP}: x has shape {shape} and weight has shape ({k}, {n}): the last dimension of x must be {k}"
            )));
        }
        run(OP, self.layer(), [k, n], x, residual, [None, None], out)
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
        match self.activation_kind() {
            Activation::None => None,
            activation => Some(activation.name()),
        }
    }

    /// The bytes that weight and bias take, padding included.
    #[getter]
    fn nbytes(&self) -> usize {
        each!(&self.packed, layer => layer.nbytes())
    }

    /// A copy of the weight, of shape (in_features, out_features).
    #[getter]
    fn weight<'py>(&self, py: Python<'py>) -> Returned<'py> {
        let output = Output::fresh(py, self.dtype, &self.shape())?;
        let block = block_of(output.target());
        if block.rows > 0 && block.cols > 0 {
            // SAFETY: a fresh array of the layer's dtype and shape.
            each!(&self.packed, layer => layer.unpack(unsafe { block.matrix_mut() }))?;
        }
        output.finish()
    }

    /// A copy of the bias, in the type that is computed in, or None.
    #[getter]
    fn bias<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        fn copy<'py, T: Float>(py: Python<'py>, dtype: Dtype, bias: &[T]) -> Returned<'py> {
            let output = Output::fresh(py, dtype, &[bias.len().cast_signed()])?;
            if !bias.is_empty() {
                // SAFETY: a fresh array of as many elements of this type.
                unsafe { output.target().data().cast::<T>().copy_from_nonoverlapping(bias.as_ptr(), bias.len()) };
            }
            output.finish()
        }
        let dtype = compute(self.dtype);
        each!(&self.packed, layer => layer.bias().map(|bias| copy(py, dtype, bias)).transpose())
    }

    fn __repr__(&self) -> String {
        let [k, n] = self.shape();
        let bias = if each!(&self.packed, layer => layer.bias().is_some()) { "True" } else { "False" };
        let activation = self.activation().map_or_else(|| "None".into(), |name| format!("'{name}'"));
        let dtype = self.dtype.name();
        format!("Linear(in_features={k}, out_features={n}, bias={bias}, activation={activation}, dtype={dtype})")
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let (py, this) = (slf.py(), slf.get());
        let make = py.import("polyglot_bridge._core")?.getattr("_linear")?;
        let state = (this.weight(py)?, this.bias(py)?, this.activation(), this.dtype.name());
        (make, state).into_pyobject(py)
    }
}

impl Linear {
    /// x and a residual in a dtype that the layer takes; lists take that of the weight.
    fn take_inputs<'py>(
        &self,
        op: &str,
        x: Object<'_, 'py>,
        residual: Option<Object<'_, 'py>>,
    ) -> PyResult<(Array<'py>, Option<Array<'py>>)> {
        let ([x, residual], dtype) = match residual {
            None => {
                let x = take_as(op, "x", x, self.dtype)?;
                let dtype = x.dtype();
                ([Some(x), None], dtype)
            }
            Some(_) => take_all(op, [("x", Some(x)), ("residual", residual)])?,
        };
        let Some(x) = x else { return Err(PyTypeError::new_err("Linear: x is missing")) };
        if !self.takes(dtype) {
            let (found, own) = (dtype.name(), self.dtype.name());
            let or = if compute(self.dtype) == self.dtype { "" } else { " or float32" };
            return Err(PyTypeError::new_err(format!(
                "{op}: x has dtype {found}, the weight has dtype {own}, expected {own}{or}"
            )));
        }
        Ok((x, residual))
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
