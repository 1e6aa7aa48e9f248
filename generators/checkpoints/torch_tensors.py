"""Tensors as torch writes them into pickles: storages, geometry, and what rebuilds them."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from viewstore.generators.checkpoints.machine import Arguments, DType, Global, Table
from viewstore.generators.checkpoints.scan import Budget, Malformed, over_limit

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

MAX_RANK = 8
STORAGE_CODES = {
    "Float": "f4",
    "Double": "f8",
    "Half": "f2",
    "BFloat16": "bf2",
    "Long": "i8",
    "Int": "i4",
    "Short": "i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "b1",
}
_WEIGHTS = {"f4", "f8", "f2", "bf2"}
_SCALARS = {
    "f8": "<d",
    "f4": "<f",
    "f2": "<e",
    "i8": "<q",
    "i4": "<i",
    "i2": "<h",
    "i1": "<b",
    "u1": "<B",
    "b1": "<?",
}


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A run of numbers inside the file. `read` returns its bytes, little-endian."""

    code: str
    numel: int
    read: Callable[[], bytes | memoryview]

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return int(self.code[-1])


@dataclass(frozen=True, slots=True, eq=False)
class FileTensor:
    """A tensor that is still in the file. Geometry is in elements, and inside the storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def reshaped(self, shape: tuple[int, ...]) -> FileTensor:
        """Return the tensor without axes of length 1, to match `shape`."""
        axes = [axis for axis, length in enumerate(self.shape) if length != 1]
        if [self.shape[axis] for axis in axes] != [length for length in shape if length != 1]:
            raise Malformed(f"a tensor must have shape {shape}, got {self.shape}")
        strides = iter([self.stride[axis] for axis in axes])
        stride = tuple(1 if length == 1 else next(strides) for length in shape)
        return replace(self, shape=shape, stride=stride)

    def permuted(self, axes: tuple[int, ...]) -> FileTensor:
        """Return the tensor with its axes in another order."""
        if len(self.shape) != len(axes):
            raise Malformed(f"a tensor must have {len(axes)} axes, got shape {self.shape}")
        shape, stride = (tuple(each[axis] for axis in axes) for each in (self.shape, self.stride))
        return replace(self, shape=shape, stride=stride)

    def derived(self, change: Callable[[Array], Array]) -> FileTensor:
        """Return the tensor of what `change` makes of the values, once they are read."""
        numel = math.prod(self.shape)
        changed = Storage("f4", numel, lambda: change(self._values()).astype("<f4").tobytes())
        return FileTensor(changed, 0, self.shape, row_major(self.shape))

    def read(self, budget: Budget) -> Array:
        """Return a contiguous float32 copy. Raises Malformed: not weights, too much, not finite."""
        budget.take_copy(4 * math.prod(self.shape))
        return self._values()

    def _values(self) -> Array:
        if self.storage.code not in _WEIGHTS:
            raise Malformed(f"weights must be floating point, got {self.storage.code}")
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, np.float32)
        kind = "<u2" if self.storage.code == "bf2" else f"<{self.storage.code}"
        flat = np.frombuffer(self.storage.read(), dtype=kind, count=self.storage.numel)
        view = np.lib.stride_tricks.as_strided(
            flat[self.offset :],
            self.shape,
            [step * flat.itemsize for step in self.stride],
            writeable=False,
        )
        if self.storage.code == "bf2":
            bits = np.array(view, dtype=np.uint32, order="C")
            bits <<= np.uint32(16)
            values: Array = bits.view(np.float32)
        else:
            with np.errstate(over="ignore"):  # a double beyond float32 is refused as infinite
                values = np.array(view, dtype=np.float32, order="C")
        if not np.isfinite(values).all():
            raise Malformed("it holds weights that are not finite")
        return values


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of an array of this shape whose last axis is densest."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def common_table(budget: Budget) -> Table:
    """Return the globals that every container of tensors may mention."""

    def tensor(arguments: Arguments) -> FileTensor:
        budget.take_tensor()
        return _rebuild_tensor(arguments)

    def encode(arguments: Arguments) -> bytes:
        match arguments:
            case (str() as text, "latin1"):
                budget.take_copy(len(text))
                return _encode(text)
        raise Malformed("_codecs.encode is called with other than latin1 text")

    calls: dict[str, Callable[[Arguments], object]] = {
        "collections.OrderedDict": _empty_dict,
        "torch._utils._rebuild_tensor": tensor,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
        "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
        "torch.Size": _size,
        "numpy.core.multiarray.scalar": _scalar,
        "numpy._core.multiarray.scalar": _scalar,
        "numpy.dtype": _dtype,
        "builtins.set": _set,
        "__builtin__.set": _set,
        "_codecs.encode": encode,
    }
    return {name: Global(name, call) for name, call in calls.items()}


def storage_table() -> Table:
    """Return the globals that name types of storage; they can be mentioned, not called."""
    names = [
        f"{module}.{kind}Storage" for module in ("torch", "torch.storage") for kind in STORAGE_CODES
    ]
    return {name: Global(name) for name in names}


def storage_code(kind: Global) -> str:
    """Return the code of the numbers in a storage of the type that `storage_table` names."""
    code = STORAGE_CODES.get(kind.name.rpartition(".")[2].removesuffix("Storage"))
    if code is None:
        raise Malformed(f"{kind.name} is not a type of storage")
    return code


def check_dimensions(name: str, tensor: FileTensor, budget: Budget) -> None:
    """Raise Malformed if an axis of a tensor that is used is too long."""
    if max(tensor.shape, default=0) > budget.limits.dimension:
        refusal = over_limit("dimension", budget.limits.dimension)
        raise Malformed(f"tensor {name} has shape {tensor.shape}: {refusal}", fix=refusal.fix)


def _rebuild_tensor(arguments: Arguments) -> FileTensor:
    match arguments:
        case (Storage() as storage, offset, tuple() as shape, tuple() as stride, *_):
            numbers = (offset, *shape, *stride)
            if all(type(number) is int and 0 <= number < 2**63 for number in numbers):
                return _inside(FileTensor(storage, _integer(offset), shape, stride))
    raise Malformed("a tensor is not described by a storage and whole numbers")


def _inside(tensor: FileTensor) -> FileTensor:
    if len(tensor.shape) != len(tensor.stride) or len(tensor.shape) > MAX_RANK:
        raise Malformed(f"a tensor must have one stride per axis and at most {MAX_RANK} axes")
    count = math.prod(tensor.shape)
    pairs = zip(tensor.shape, tensor.stride, strict=True)
    last = tensor.offset + sum((length - 1) * step for length, step in pairs)
    # More elements than numbers means that a stride is 0: a small file would fill the memory.
    if count > tensor.storage.numel or (count and last >= tensor.storage.numel):
        raise Malformed(
            f"a tensor of shape {tensor.shape} and stride {tensor.stride} exceeds its storage "
            f"of {tensor.storage.numel} numbers"
        )
    return tensor


def _rebuild_parameter(arguments: Arguments) -> FileTensor:
    match arguments:
        case (FileTensor() as tensor, *_):
            return tensor
    raise Malformed("a parameter is not made of a tensor")


def _empty_dict(arguments: Arguments) -> dict[str, object]:
    if arguments:
        raise Malformed("an OrderedDict is made with arguments")
    return {}


def _set(arguments: Arguments) -> list[object]:
    match arguments:
        case (list() as items,):
            return items
    raise Malformed("a set is not made of a list")


def _size(arguments: Arguments) -> tuple[object, ...]:
    match arguments:
        case ((tuple() | list()) as lengths,) if len(lengths) <= MAX_RANK:
            return tuple(lengths)
    raise Malformed("a torch.Size is not made of lengths")


def _dtype(arguments: Arguments) -> DType:
    match arguments:
        case (str() as code, *_) if code in _SCALARS:
            return DType(code)
    raise Malformed("a numpy dtype is not a plain number")


def _scalar(arguments: Arguments) -> float | int | bool:
    match arguments:
        case (DType(code=code), bytes() as raw) if len(raw) == int(code[-1]):
            (value,) = struct.unpack(_SCALARS[code], raw)
            return value  # type: ignore[no-any-return]
    raise Malformed("a numpy scalar is not made of a dtype and its bytes")


def _encode(text: str) -> bytes:
    try:
        return text.encode("latin1")
    except UnicodeEncodeError as error:
        raise Malformed("text that stands for bytes holds other characters") from error


def _integer(value: object) -> int:
    assert isinstance(value, int)
    return value
