//! `Linear`: a layer that owns its weight, packed once. Calls go the way of `products`; the packing is `PackedLinear`'s.

use std::format;
use std::string::String;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyType};

use super::arrays::{Array, Dtype, NdArray, take, take_all, take_as};
use super::errors::{Shape, type_name, wrong_shape};
use super::layout::Block;
use super::modern::{Object, Returned};
use super::operations::Vector;
use super::output::Output;
use super::products::{Added, Layer, activation_of, block_of, run};
use super::sequential::Stacks;
use crate::PackedLinear;
use crate::error::Error;
use crate::float::Float;
use crate::gemm::problem::Residual;
use crate::math::activation::Activation;
use crate::ops::sequential::Sequential;
use crate::view::{Matrix, MatrixMut};

/// Which layout panels have, for pickles and saved files: to be raised when `gemm::pack` changes it.
const LAYOUT: u32 = 1;

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
    unsafe fn run(&self, dtype: Dtype, x: &Block, added: Added, out: &Block) -> Result<(), Error> {
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

/// The types of a dtype: which layers take rows of them, and how.
pub(super) trait Stored: Float {
    const DTYPE: Dtype;

    /// The layer's results for rows of this type, which it [takes](Linear::takes).
    fn forward(layer: &Linear, x: Matrix<'_, Self>, out: MatrixMut<'_, Self>) -> Result<(), Error>;

    /// The stack for rows of this type.
    fn of(stacks: &Stacks) -> Option<&Sequential<'static, Self>>;
}

macro_rules! stored {
    ($($T:ty: $dtype:ident, $stack:ident, $($packed:ident by $forward:ident),+;)*) => { $(
        impl Stored for $T {
            const DTYPE: Dtype = Dtype::$dtype;

            fn forward(layer: &Linear, x: Matrix<'_, Self>, mut out: MatrixMut<'_, Self>) -> Result<(), Error> {
                match &layer.packed {
                    $(Packed::$packed(layer) => layer.$forward(x, Residual::None, out.reborrow()),)+
                    // Another dtype: callers have asked whether the layer takes this one.
                    _ => Ok(()),
                }
            }

            fn of(stacks: &Stacks) -> Option<&Sequential<'static, Self>> {
                stacks.$stack.as_ref()
            }
        }
    )* };
}

stored! {
    half::f16: F16, f16, F16 by forward;
    half::bf16: Bf16, bf16, Bf16 by forward;
    f32: F32, f32, F32 by forward, F16 by forward_wide, Bf16 by forward_wide;
    f64: F64, f64, F64 by forward;
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
    packed: Packed,
    dtype: Dtype,
    /// The arrays that panels and bias lie in, where they are not the layer's own.
    #[expect(dead_code, reason = "kept alive")]
    owner: std::vec::Vec<Py<PyAny>>,
}

/// The dtype that an argument names.
pub(super) fn dtype_of(py: Python<'_>, dtype: Object<'_, '_>) -> PyResult<Dtype> {
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
pub(super) fn compute(dtype: Dtype) -> Dtype {
    if dtype == Dtype::F64 { Dtype::F64 } else { Dtype::F32 }
}

impl Linear {
    /// See [`crate::Layer::workspace`].
    pub(super) fn workspace(&self, rows: usize) -> usize {
        each!(&self.packed, layer => crate::Layer::workspace(layer, rows, layer.in_features()))
    }

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
        Ok(Self { packed, dtype, owner: std::vec::Vec::new() })
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

    /// The dtype of the weight.
    pub(super) fn stored(&self) -> Dtype {
        self.dtype
    }

    /// The bytes that weight and bias take.
    pub(super) fn bytes(&self) -> usize {
        each!(&self.packed, layer => layer.nbytes())
    }

    /// A layer over panels that were packed before, which are used where they lie.
    fn from_panels(
        panels: &Bound<'_, PyAny>,
        shape: (usize, usize),
        bias: Option<&Bound<'_, PyAny>>,
        activation: Activation,
        dtype: Dtype,
    ) -> PyResult<Self> {
        const OP: &str = "Linear";
        fn numbers<T>(array: &NdArray<'_>) -> &'static [T] {
            let len = array.len() * array.itemsize() / size_of::<T>();
            // SAFETY: a contiguous array, aligned for `T`, whose bytes make numbers whatever they are. The layer keeps
            // it alive as long as the slice is used. Who writes to it meanwhile gets wrong results, as with any array.
            if len == 0 { &[] } else { unsafe { core::slice::from_raw_parts(array.data().cast(), len) } }
        }
        let panels = in_place(panels)?;
        let bias = match bias {
            Some(bias) => {
                let bias = take(OP, "bias", bias)?;
                if bias.dtype() != compute(dtype) {
                    let (found, expected) = (bias.dtype().name(), compute(dtype).name());
                    return Err(super::errors::wrong_dtype(OP, "bias", found, expected));
                }
                Some(bias.contiguous()?)
            }
            None => None,
        };
        macro_rules! build {
            ($variant:ident, $T:ty) => {
                Packed::$variant(PackedLinear::<$T>::from_packed(
                    numbers(&panels),
                    shape,
                    bias.as_ref().map(|bias| numbers(bias)),
                    activation,
                )?)
            };
        }
        let packed = match dtype {
            Dtype::F16 => build!(F16, half::f16),
            Dtype::Bf16 => build!(Bf16, half::bf16),
            Dtype::F32 => build!(F32, f32),
            Dtype::F64 => build!(F64, f64),
        };
        let panels = panels.clone_object().unbind();
        let owner = core::iter::once(panels).chain(bias.map(|bias| bias.clone_object().unbind())).collect();
        Ok(Self { packed, dtype, owner })
    }
}

/// Panels as a contiguous array of bytes, copied only where vectors read from them would straddle cache lines.
fn in_place<'py>(panels: &Bound<'py, PyAny>) -> PyResult<NdArray<'py>> {
    const ALIGNMENT: usize = 32;
    let wrong =
        || PyTypeError::new_err(format!("Linear: panels must be bytes side by side, not {}", type_name(panels)));
    let bytes = |object: &Bound<'py, PyAny>| {
        NdArray::exact(object).filter(|array| array.is_c_contiguous() && array.itemsize() == 1).ok_or_else(wrong)
    };
    let array = bytes(panels)?;
    if (array.data() as usize).is_multiple_of(ALIGNMENT) || array.len() == 0 {
        return Ok(array);
    }
    let room = panels.py().import("numpy")?.call_method1("empty", (array.len() + ALIGNMENT, "u1"))?;
    let start = (bytes(&room)?.data() as usize).wrapping_neg() % ALIGNMENT;
    let copy = bytes(&room.get_item(pyo3::types::PySlice::new(
        panels.py(),
        start.cast_signed(),
        (start + array.len()).cast_signed(),
        1,
    ))?)?;
    // SAFETY: a fresh array of as many bytes.
    unsafe { copy.data().copy_from_nonoverlapping(array.data(), array.len()) };
    Ok(copy)
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
        self.bytes()
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

    /// The packed weight as read-only bytes, where it lies, and the number of their layout: for files and pickles.
    fn _panels<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, u32)> {
        let bytes = Panels(slf.clone().unbind());
        let view = slf.py().import("numpy")?.call_method1("asarray", (Bound::new(slf.py(), bytes)?,))?;
        Ok((view, LAYOUT))
    }

    fn __reduce_ex__<'py>(slf: &Bound<'py, Self>, protocol: u32) -> PyResult<Bound<'py, PyTuple>> {
        let (py, this) = (slf.py(), slf.get());
        let core = py.import("polyglot_bridge._core")?;
        let (bias, activation, dtype) = (this.bias(py)?, this.activation(), this.dtype.name());
        if protocol >= 5 {
            // The bytes go out of band where the pickler is asked for that, and are used where they arrive.
            let (panels, layout) = Self::_panels(slf)?;
            let [k, n] = this.shape();
            let state = (panels, (k, n), bias, activation, dtype, layout);
            return (core.getattr("_packed_linear")?, state).into_pyobject(py);
        }
        (core.getattr("_linear")?, (this.weight(py)?, bias, activation, dtype)).into_pyobject(py)
    }

    /// Writes the layer to a safetensors file, packed as it is used.
    ///
    /// Parameters
    /// ----------
    /// path : str or os.PathLike
    ///     The file, replaced in one step where it is there.
    #[pyo3(signature = (path))]
    fn save<'py>(slf: &Bound<'py, Self>, path: Object<'_, 'py>) -> PyResult<()> {
        slf.py().import("polyglot_bridge._saved")?.call_method1("save", (slf, path)).map(drop)
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
        class.py().import("polyglot_bridge._saved")?.call_method1("load", (class, path, mmap))
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
    #[classmethod]
    #[pyo3(signature = (module, *, prefix=None, activation=None, dtype=None), text_signature = "(module, *, prefix='', activation=None, dtype=None)")]
    fn from_torch<'py>(
        class: &Bound<'py, PyType>,
        module: Object<'_, 'py>,
        prefix: Option<Object<'_, 'py>>,
        activation: Option<Object<'_, 'py>>,
        dtype: Option<Object<'_, 'py>>,
    ) -> Returned<'py> {
        let convert = class.py().import("polyglot_bridge._convert")?;
        convert.call_method1("linear_from_torch", (module, prefix, activation, dtype))
    }
}

/// The panels of a layer as a buffer of bytes, through `__array_interface__`, which the array keeps alive.
#[pyclass(name = "_Panels", module = "polyglot_bridge._core", frozen)]
#[derive(Debug)]
struct Panels(Py<Linear>);

#[pymethods]
impl Panels {
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyDict>> {
        let (address, bytes) = each!(&self.0.get().packed, layer => {
            let panels = layer.panels();
            (panels.as_ptr() as usize, size_of_val(panels))
        });
        let interface = pyo3::types::PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("shape", (bytes,))?;
        interface.set_item("typestr", "|u1")?;
        interface.set_item("data", (address, true))?;
        Ok(interface)
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
        return Err(PyValueError::new_err(format!(
            "Linear: packed weights have layout {layout}, this version of polyglot_bridge reads layout {LAYOUT}"
        )));
    }
    let name = dtype.extract::<String>()?;
    let Some(dtype) = Dtype::from_name(&name) else {
        return Err(PyTypeError::new_err(format!("Linear: dtype must be the name of a float type, not {name}")));
    };
    Linear::from_panels(panels, shape, bias, activation_of("Linear", activation)?, dtype)
}
