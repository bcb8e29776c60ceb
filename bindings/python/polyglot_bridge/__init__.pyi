"""Types of the public names. Arrays keep their dtype; lists and integers become float64."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, Final, Literal, SupportsFloat, SupportsIndex, TypeAlias, TypeVar, final, overload

import numpy as np
import numpy.typing as npt

from . import models as models
from ._explain import Explanation as Explanation, explain as explain

__version__: Final[str]
__all__ = [
    "Explanation",
    "Linear",
    "RowOperation",
    "Sequential",
    "__version__",
    "attention",
    "cache_info",
    "clear_cache",
    "dropout_add",
    "embedding",
    "explain",
    "from_sklearn",
    "fused_dropout_add",
    "fused_layer_norm",
    "fused_linear",
    "fused_linear_f32",
    "fused_linear_relu",
    "fused_linear_relu_f32",
    "fused_softmax",
    "gelu",
    "get_num_threads",
    "l2_normalize",
    "layer_norm",
    "linear",
    "load_file",
    "log_softmax",
    "matmul",
    "matmul_numpy",
    "matmul_numpy_f32",
    "matrix_multiply",
    "mean_pool",
    "parallel_map_numpy",
    "parallel_map_numpy_f32",
    "parallel_transform",
    "relu",
    "relu_numpy",
    "relu_numpy_f32",
    "rms_norm",
    "save_file",
    "scale",
    "set_cache_limit",
    "set_num_threads",
    "sigmoid",
    "sigmoid_numpy",
    "sigmoid_numpy_f32",
    "silu",
    "softmax",
    "sum_of_squares",
    "sum_of_squares_numpy",
    "sum_of_squares_numpy_f32",
    "tanh",
    "threads",
]

_Number: TypeAlias = SupportsFloat | SupportsIndex
_Activation: TypeAlias = Literal["relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"]
_RowOperation: TypeAlias = _Activation | Literal["softmax", "log_softmax", "layer_norm", "rms_norm"]
_Path: TypeAlias = str | PathLike[str]
_Scalar = TypeVar("_Scalar", bound=np.floating[Any])
_Out = TypeVar("_Out", bound=npt.NDArray[Any])
_Array: TypeAlias = npt.NDArray[_Scalar]
_F32: TypeAlias = npt.NDArray[np.float32]

@overload
def attention(
    q: _Array[_Scalar],
    k: npt.ArrayLike,
    v: npt.ArrayLike,
    *,
    mask: npt.ArrayLike | None = None,
    causal: bool = False,
    scale: _Number | None = None,
    out: None = None,
) -> _Array[_Scalar]: ...
@overload
def attention(
    q: npt.ArrayLike,
    k: npt.ArrayLike,
    v: npt.ArrayLike,
    *,
    mask: npt.ArrayLike | None = None,
    causal: bool = False,
    scale: _Number | None = None,
    out: None = None,
) -> _Array[Any]: ...
@overload
def attention(
    q: npt.ArrayLike,
    k: npt.ArrayLike,
    v: npt.ArrayLike,
    *,
    mask: npt.ArrayLike | None = None,
    causal: bool = False,
    scale: _Number | None = None,
    out: _Out,
) -> _Out: ...

_Ids: TypeAlias = npt.ArrayLike | tuple[npt.ArrayLike, ...]
_Dtype: TypeAlias = npt.DTypeLike

@overload
def embedding(ids: _Ids, table: _Ids, *, dtype: _Dtype | None = None, out: None = None) -> _Array[Any]: ...
@overload
def embedding(ids: _Ids, table: _Ids, *, dtype: _Dtype | None = None, out: _Out) -> _Out: ...
@overload
def mean_pool(x: _Array[_Scalar], mask: npt.ArrayLike | None = None, *, out: None = None) -> _Array[_Scalar]: ...
@overload
def mean_pool(x: npt.ArrayLike, mask: npt.ArrayLike | None = None, *, out: None = None) -> _Array[Any]: ...
@overload
def mean_pool(x: npt.ArrayLike, mask: npt.ArrayLike | None = None, *, out: _Out) -> _Out: ...
@overload
def l2_normalize(x: _Array[_Scalar], *, axis: SupportsIndex = -1, out: None = None) -> _Array[_Scalar]: ...
@overload
def l2_normalize(x: npt.ArrayLike, *, axis: SupportsIndex = -1, out: None = None) -> _Array[Any]: ...
@overload
def l2_normalize(x: npt.ArrayLike, *, axis: SupportsIndex = -1, out: _Out) -> _Out: ...
@overload
def linear(
    x: _Array[_Scalar],
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    activation: _Activation | None = None,
    residual: npt.ArrayLike | None = None,
    out: None = None,
) -> _Array[_Scalar]: ...
@overload
def linear(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    activation: _Activation | None = None,
    residual: npt.ArrayLike | None = None,
    out: None = None,
) -> _Array[Any]: ...
@overload
def linear(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    activation: _Activation | None = None,
    residual: npt.ArrayLike | None = None,
    out: _Out,
) -> _Out: ...
@overload
def matmul(a: _Array[_Scalar], b: npt.ArrayLike, *, out: None = None) -> _Array[_Scalar]: ...
@overload
def matmul(a: npt.ArrayLike, b: npt.ArrayLike, *, out: None = None) -> _Array[Any]: ...
@overload
def matmul(a: npt.ArrayLike, b: npt.ArrayLike, *, out: _Out) -> _Out: ...
@overload
def layer_norm(
    x: _Array[_Scalar],
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    *,
    residual: npt.ArrayLike | None = None,
    eps: _Number = 1e-05,
    axis: SupportsIndex = -1,
    out: None = None,
) -> _Array[_Scalar]: ...
@overload
def layer_norm(
    x: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    *,
    residual: npt.ArrayLike | None = None,
    eps: _Number = 1e-05,
    axis: SupportsIndex = -1,
    out: None = None,
) -> _Array[Any]: ...
@overload
def layer_norm(
    x: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    *,
    residual: npt.ArrayLike | None = None,
    eps: _Number = 1e-05,
    axis: SupportsIndex = -1,
    out: _Out,
) -> _Out: ...
@overload
def rms_norm(
    x: _Array[_Scalar],
    weight: npt.ArrayLike | None = None,
    *,
    eps: _Number = 1e-06,
    axis: SupportsIndex = -1,
    out: None = None,
) -> _Array[_Scalar]: ...
@overload
def rms_norm(
    x: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    *,
    eps: _Number = 1e-06,
    axis: SupportsIndex = -1,
    out: None = None,
) -> _Array[Any]: ...
@overload
def rms_norm(
    x: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    *,
    eps: _Number = 1e-06,
    axis: SupportsIndex = -1,
    out: _Out,
) -> _Out: ...
@overload
def softmax(x: _Array[_Scalar], *, axis: SupportsIndex = -1, out: None = None) -> _Array[_Scalar]: ...
@overload
def softmax(x: npt.ArrayLike, *, axis: SupportsIndex = -1, out: None = None) -> _Array[Any]: ...
@overload
def softmax(x: npt.ArrayLike, *, axis: SupportsIndex = -1, out: _Out) -> _Out: ...
@overload
def log_softmax(x: _Array[_Scalar], *, axis: SupportsIndex = -1, out: None = None) -> _Array[_Scalar]: ...
@overload
def log_softmax(x: npt.ArrayLike, *, axis: SupportsIndex = -1, out: None = None) -> _Array[Any]: ...
@overload
def log_softmax(x: npt.ArrayLike, *, axis: SupportsIndex = -1, out: _Out) -> _Out: ...
@overload
def relu(x: _Array[_Scalar], *, out: None = None) -> _Array[_Scalar]: ...
@overload
def relu(x: npt.ArrayLike, *, out: None = None) -> _Array[Any]: ...
@overload
def relu(x: npt.ArrayLike, *, out: _Out) -> _Out: ...
@overload
def sigmoid(x: _Array[_Scalar], *, out: None = None) -> _Array[_Scalar]: ...
@overload
def sigmoid(x: npt.ArrayLike, *, out: None = None) -> _Array[Any]: ...
@overload
def sigmoid(x: npt.ArrayLike, *, out: _Out) -> _Out: ...
@overload
def tanh(x: _Array[_Scalar], *, out: None = None) -> _Array[_Scalar]: ...
@overload
def tanh(x: npt.ArrayLike, *, out: None = None) -> _Array[Any]: ...
@overload
def tanh(x: npt.ArrayLike, *, out: _Out) -> _Out: ...
@overload
def silu(x: _Array[_Scalar], *, out: None = None) -> _Array[_Scalar]: ...
@overload
def silu(x: npt.ArrayLike, *, out: None = None) -> _Array[Any]: ...
@overload
def silu(x: npt.ArrayLike, *, out: _Out) -> _Out: ...
@overload
def gelu(x: _Array[_Scalar], *, approximate: Literal["none", "tanh"] = "none", out: None = None) -> _Array[_Scalar]: ...
@overload
def gelu(x: npt.ArrayLike, *, approximate: Literal["none", "tanh"] = "none", out: None = None) -> _Array[Any]: ...
@overload
def gelu(x: npt.ArrayLike, *, approximate: Literal["none", "tanh"] = "none", out: _Out) -> _Out: ...
@overload
def scale(x: _Array[_Scalar], factor: _Number, *, out: None = None) -> _Array[_Scalar]: ...
@overload
def scale(x: npt.ArrayLike, factor: _Number, *, out: None = None) -> _Array[Any]: ...
@overload
def scale(x: npt.ArrayLike, factor: _Number, *, out: _Out) -> _Out: ...
@overload
def dropout_add(
    x: _Array[_Scalar],
    residual: npt.ArrayLike,
    mask: npt.ArrayLike,
    scale: _Number = 1.0,
    *,
    out: None = None,
) -> _Array[_Scalar]: ...
@overload
def dropout_add(
    x: npt.ArrayLike,
    residual: npt.ArrayLike,
    mask: npt.ArrayLike,
    scale: _Number = 1.0,
    *,
    out: None = None,
) -> _Array[Any]: ...
@overload
def dropout_add(
    x: npt.ArrayLike,
    residual: npt.ArrayLike,
    mask: npt.ArrayLike,
    scale: _Number = 1.0,
    *,
    out: _Out,
) -> _Out: ...

@final
class Linear:
    def __new__(
        cls,
        weight: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        *,
        activation: _Activation | None = None,
        dtype: npt.DTypeLike | None = None,
    ) -> Linear: ...
    @overload
    def __call__(
        self, x: _Array[_Scalar], residual: npt.ArrayLike | None = None, out: None = None
    ) -> _Array[_Scalar]: ...
    @overload
    def __call__(self, x: npt.ArrayLike, residual: npt.ArrayLike | None = None, out: None = None) -> _Array[Any]: ...
    @overload
    def __call__(self, x: npt.ArrayLike, residual: npt.ArrayLike | None = None, *, out: _Out) -> _Out: ...
    @overload
    def __call__(self, x: npt.ArrayLike, residual: npt.ArrayLike | None, out: _Out) -> _Out: ...
    @property
    def in_features(self) -> int: ...
    @property
    def out_features(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def activation(self) -> str | None: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def weight(self) -> _Array[Any]: ...
    @property
    def bias(self) -> _Array[Any] | None: ...
    def save(self, path: _Path) -> None: ...
    @classmethod
    def load(cls, path: _Path, *, mmap: bool = True) -> Linear: ...
    @classmethod
    def from_torch(
        cls,
        module: object | Mapping[str, Any],
        *,
        prefix: str = "",
        activation: _Activation | None = None,
        dtype: npt.DTypeLike | None = None,
    ) -> Linear: ...
    def _panels(self) -> tuple[npt.NDArray[np.uint8], int]: ...
    def __reduce_ex__(self, protocol: SupportsIndex, /) -> tuple[Any, ...]: ...

@final
class RowOperation:
    def __new__(
        cls,
        name: _RowOperation,
        weight: npt.ArrayLike | None = None,
        bias: npt.ArrayLike | None = None,
        *,
        eps: _Number | None = None,
    ) -> RowOperation: ...
    @overload
    def __call__(self, x: _Array[_Scalar], out: None = None) -> _Array[_Scalar]: ...
    @overload
    def __call__(self, x: npt.ArrayLike, out: None = None) -> _Array[Any]: ...
    @overload
    def __call__(self, x: npt.ArrayLike, out: _Out) -> _Out: ...
    @property
    def name(self) -> str: ...
    @property
    def weight(self) -> _Array[Any] | None: ...
    @property
    def bias(self) -> _Array[Any] | None: ...
    @property
    def eps(self) -> float | None: ...
    @property
    def features(self) -> int | None: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

_Layer: TypeAlias = Linear | RowOperation | Sequential

@final
class Sequential:
    def __new__(cls, layers: Iterable[_Layer | _RowOperation | Callable[..., _Array[Any]]]) -> Sequential: ...
    @overload
    def __call__(self, x: _Array[_Scalar], out: None = None) -> _Array[_Scalar]: ...
    @overload
    def __call__(self, x: npt.ArrayLike, out: None = None) -> _Array[Any]: ...
    @overload
    def __call__(self, x: npt.ArrayLike, out: _Out) -> _Out: ...
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: SupportsIndex, /) -> _Layer: ...
    @overload
    def __getitem__(self, index: slice, /) -> Sequential: ...
    def __iter__(self) -> Iterator[_Layer]: ...
    @property
    def in_features(self) -> int | None: ...
    @property
    def out_features(self) -> int | None: ...
    @property
    def dtypes(self) -> tuple[str, ...]: ...
    @property
    def nbytes(self) -> int: ...
    def save(self, path: _Path) -> None: ...
    @classmethod
    def load(cls, path: _Path, *, mmap: bool = True) -> Sequential: ...
    @classmethod
    def from_torch(
        cls,
        module: object | Mapping[str, Any],
        *,
        activation: _Activation | None = None,
        dtype: npt.DTypeLike | None = None,
    ) -> Sequential: ...
    @classmethod
    def from_sklearn(cls, model: object, *, dtype: npt.DTypeLike | None = None) -> Sequential: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

def from_sklearn(model: object, dtype: npt.DTypeLike | None = None) -> Sequential: ...
def load_file(path: _Path, *, mmap: bool = True) -> dict[str, _Array[Any]]: ...
def save_file(tensors: Mapping[str, _Array[Any]], path: _Path, metadata: Mapping[str, str] | None = None) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: SupportsIndex | None) -> None: ...
def set_cache_limit(bytes: SupportsIndex) -> None: ...
def clear_cache() -> None: ...
def cache_info() -> dict[str, int]: ...

@final
class threads:
    def __new__(cls, n: SupportsIndex) -> threads: ...
    def __enter__(self) -> threads: ...
    def __exit__(self, *_exception: type[BaseException] | BaseException | TracebackType | None) -> None: ...

def sum_of_squares(numbers: Sequence[_Number] | npt.NDArray[Any]) -> float: ...
def matrix_multiply(
    a: Sequence[Sequence[_Number]] | Sequence[npt.NDArray[Any]] | npt.NDArray[Any],
    b: Sequence[Sequence[_Number]] | Sequence[npt.NDArray[Any]] | npt.NDArray[Any],
) -> list[list[float]]: ...
def parallel_transform(data: Sequence[_Number] | npt.NDArray[Any], factor: _Number) -> list[float]: ...
@overload
def matmul_numpy(a: _Array[_Scalar], b: npt.ArrayLike, *, out: None = None) -> _Array[_Scalar]: ...
@overload
def matmul_numpy(a: npt.ArrayLike, b: npt.ArrayLike, *, out: None = None) -> _Array[Any]: ...
@overload
def matmul_numpy(a: npt.ArrayLike, b: npt.ArrayLike, *, out: _Out) -> _Out: ...
@overload
def parallel_map_numpy(arr: _Array[_Scalar], factor: _Number, *, out: None = None) -> _Array[_Scalar]: ...
@overload
def parallel_map_numpy(arr: npt.ArrayLike, factor: _Number, *, out: None = None) -> _Array[Any]: ...
@overload
def parallel_map_numpy(arr: npt.ArrayLike, factor: _Number, *, out: _Out) -> _Out: ...
def sum_of_squares_numpy(arr: npt.ArrayLike) -> float: ...
@overload
def relu_numpy(arr: _Array[_Scalar], *, out: None = None) -> _Array[_Scalar]: ...
@overload
def relu_numpy(arr: npt.ArrayLike, *, out: None = None) -> _Array[Any]: ...
@overload
def relu_numpy(arr: npt.ArrayLike, *, out: _Out) -> _Out: ...
@overload
def sigmoid_numpy(arr: _Array[_Scalar], *, out: None = None) -> _Array[_Scalar]: ...
@overload
def sigmoid_numpy(arr: npt.ArrayLike, *, out: None = None) -> _Array[Any]: ...
@overload
def sigmoid_numpy(arr: npt.ArrayLike, *, out: _Out) -> _Out: ...
@overload
def fused_linear(
    input: _Array[_Scalar],
    weights: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    *,
    activation: _Activation | None = None,
    residual: npt.ArrayLike | None = None,
    out: None = None,
) -> _Array[_Scalar]: ...
@overload
def fused_linear(
    input: npt.ArrayLike,
    weights: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    *,
    activation: _Activation | None = None,
    residual: npt.ArrayLike | None = None,
    out: None = None,
) -> _Array[Any]: ...
@overload
def fused_linear(
    input: npt.ArrayLike,
    weights: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    *,
    activation: _Activation | None = None,
    residual: npt.ArrayLike | None = None,
    out: _Out,
) -> _Out: ...
@overload
def fused_linear_relu(
    input: _Array[_Scalar],
    weights: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    *,
    residual: npt.ArrayLike | None = None,
    out: None = None,
) -> _Array[_Scalar]: ...
@overload
def fused_linear_relu(
    input: npt.ArrayLike,
    weights: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    *,
    residual: npt.ArrayLike | None = None,
    out: None = None,
) -> _Array[Any]: ...
@overload
def fused_linear_relu(
    input: npt.ArrayLike,
    weights: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    *,
    residual: npt.ArrayLike | None = None,
    out: _Out,
) -> _Out: ...
@overload
def matmul_numpy_f32(a: _F32, b: npt.ArrayLike, *, out: None = None) -> _F32: ...
@overload
def matmul_numpy_f32(a: _F32, b: npt.ArrayLike, *, out: _Out) -> _Out: ...
@overload
def parallel_map_numpy_f32(arr: _F32, factor: _Number, *, out: None = None) -> _F32: ...
@overload
def parallel_map_numpy_f32(arr: _F32, factor: _Number, *, out: _Out) -> _Out: ...
def sum_of_squares_numpy_f32(arr: _F32) -> float: ...
@overload
def relu_numpy_f32(arr: _F32, *, out: None = None) -> _F32: ...
@overload
def relu_numpy_f32(arr: _F32, *, out: _Out) -> _Out: ...
@overload
def sigmoid_numpy_f32(arr: _F32, *, out: None = None) -> _F32: ...
@overload
def sigmoid_numpy_f32(arr: _F32, *, out: _Out) -> _Out: ...
@overload
def fused_linear_f32(
    input: _F32,
    weights: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    *,
    activation: _Activation | None = None,
    residual: npt.ArrayLike | None = None,
    out: None = None,
) -> _F32: ...
@overload
def fused_linear_f32(
    input: _F32,
    weights: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    *,
    activation: _Activation | None = None,
    residual: npt.ArrayLike | None = None,
    out: _Out,
) -> _Out: ...
@overload
def fused_linear_relu_f32(
    input: _F32,
    weights: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    *,
    residual: npt.ArrayLike | None = None,
    out: None = None,
) -> _F32: ...
@overload
def fused_linear_relu_f32(
    input: _F32,
    weights: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    *,
    residual: npt.ArrayLike | None = None,
    out: _Out,
) -> _Out: ...
@overload
def fused_dropout_add(
    x: _Array[_Scalar],
    residual: npt.ArrayLike,
    dropout_mask: npt.ArrayLike,
    scale: _Number,
    *,
    out: None = None,
) -> _Array[_Scalar]: ...
@overload
def fused_dropout_add(
    x: npt.ArrayLike,
    residual: npt.ArrayLike,
    dropout_mask: npt.ArrayLike,
    scale: _Number,
    *,
    out: None = None,
) -> _Array[Any]: ...
@overload
def fused_dropout_add(
    x: npt.ArrayLike,
    residual: npt.ArrayLike,
    dropout_mask: npt.ArrayLike,
    scale: _Number,
    *,
    out: _Out,
) -> _Out: ...
@overload
def fused_layer_norm(
    x: _Array[_Scalar],
    eps: _Number = 1e-05,
    *,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    axis: SupportsIndex = -1,
    out: None = None,
) -> _Array[_Scalar]: ...
@overload
def fused_layer_norm(
    x: npt.ArrayLike,
    eps: _Number = 1e-05,
    *,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    axis: SupportsIndex = -1,
    out: None = None,
) -> _Array[Any]: ...
@overload
def fused_layer_norm(
    x: npt.ArrayLike,
    eps: _Number = 1e-05,
    *,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    axis: SupportsIndex = -1,
    out: _Out,
) -> _Out: ...
@overload
def fused_softmax(x: _Array[_Scalar], *, axis: SupportsIndex = -1, out: None = None) -> _Array[_Scalar]: ...
@overload
def fused_softmax(x: npt.ArrayLike, *, axis: SupportsIndex = -1, out: None = None) -> _Array[Any]: ...
@overload
def fused_softmax(x: npt.ArrayLike, *, axis: SupportsIndex = -1, out: _Out) -> _Out: ...
