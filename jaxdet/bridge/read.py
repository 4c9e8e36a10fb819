"""Weights out of .safetensors and PyTorch files, without PyTorch, running nothing in them.

A .pth is a pickle, and a pickle is a program; `pickles` reads it as data. Here the result is
searched for a state dict, and only the tensors of that are read from the archive, with every view
checked against it.
"""

import collections
import dataclasses
import io
import math
import os
import pathlib
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Shaped

from jaxdet.bridge import pickles
from jaxdet.bridge.pickles import Storage, Stub, Tensor

WRAPPERS = ("ema", "model", "state_dict", "model_state_dict")  # the first that is there is taken
DTYPES = {
    "torch.FloatStorage": "f4",
    "torch.DoubleStorage": "f8",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "u2",  # NumPy has no such type: widened below
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "u1",
}
MAX_GROWTH = (
    16  # bytes of arrays for a byte of the file: aliases need two or three, a bomb thousands
)
MAX_MODULES, MAX_NAME = 20_000, 1_000
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # what torch.save wrote first before it wrote zip files

# What malformed bytes can raise below; each becomes one ValueError that names the file.
FAULTS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    MemoryError,
    OSError,  # a seek to before the start
    RuntimeError,  # RecursionError and an encrypted entry
    struct.error,
    zipfile.BadZipFile,
    safetensors.SafetensorError,
)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Every tensor of a .safetensors, .pth or .pt file under its name, in the file's order.

    A PyTorch file may hold a state dict, a whole pickled model, or a checkpoint with one of these
    under `ema`, `model`, `state_dict` or `model_state_dict` (the first in this order that is not
    None). Types are kept, bfloat16 is widened to float32. Nothing in the file is executed: see
    `pickles`. ValueError, naming the file, when it is empty, truncated, no such file at all, or
    when its tensors do not lie within it.
    """
    path = pathlib.Path(path)
    size = path.stat().st_size
    if not size:
        raise ValueError(f"{path}: the file is empty")
    try:
        if path.suffix == ".safetensors":
            arrays = _read_safetensors(path)
        else:
            arrays = _read_torch(path, size)
    except FAULTS as fault:
        raise ValueError(f"{path}: cannot be read as weights: {fault}") from fault
    if not arrays:
        raise ValueError(f"{path}: holds no tensors")
    return arrays


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    arrays = safetensors.numpy.load_file(path)
    return {k: a.astype(np.float32) if a.dtype.name == "bfloat16" else a for k, a in arrays.items()}


def _read_torch(path: pathlib.Path, size: int) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04":
        with zipfile.ZipFile(path) as archive:
            root, source = _open_zip(archive, _Budget(MAX_GROWTH * size))
            return {name: _array(t, source) for name, t in _find_tensors(root).items()}
    if start[:1] == b"\x80":
        root, source = _open_legacy(io.BytesIO(path.read_bytes()), _Budget(MAX_GROWTH * size))
        return {name: _array(t, source) for name, t in _find_tensors(root).items()}
    raise ValueError("it is neither a zip archive nor a pickle as torch.save writes them")


@dataclasses.dataclass
class _Budget:
    """Bytes that may still be laid out in memory."""

    left: int

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValueError(f"its tensors are more than {MAX_GROWTH} times as large as the file")


@dataclasses.dataclass
class _Source:
    """Where the bytes of a storage come from."""

    read: Callable[[str], bytes]
    order: str  # "<" little endian, ">" big
    budget: _Budget
    cache: dict[str, bytes] = dataclasses.field(default_factory=dict)

    def storage(self, key: str) -> bytes:
        if key not in self.cache:  # tied tensors share one
            self.cache[key] = self.read(key)
        return self.cache[key]


def _open_zip(archive: zipfile.ZipFile, budget: _Budget) -> tuple[Any, _Source]:
    names = archive.namelist()
    pickled = [n for n in names if n == "data.pkl" or n.endswith("/data.pkl")]
    if len(pickled) != 1:
        raise ValueError(f"wanted one data.pkl in the archive, got {len(pickled)}")
    folder = pickled[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in names:
        raise ValueError("it is a TorchScript program; save its state_dict() instead")

    def read(name: str) -> bytes:
        info = archive.getinfo(folder + name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError(f"{folder + name} is compressed, which PyTorch never does")
        budget.spend(info.file_size)
        return archive.read(info)

    order = read("byteorder") if f"{folder}byteorder" in names else b"little"
    root, _ = pickles.load(io.BytesIO(read("data.pkl")))
    return root, _Source(lambda key: read(f"data/{key}"), ">" if order == b"big" else "<", budget)


def _open_legacy(stream: io.BytesIO, budget: _Budget) -> tuple[Any, _Source]:
    """Five pickles (magic, protocol, system, object, keys), then the storages, length first."""
    magic, _ = pickles.load(stream)
    if magic != LEGACY_MAGIC:
        raise ValueError("it is a pickle, but not one of torch.save")
    pickles.load(stream)
    system, _ = pickles.load(stream)
    root, storages = pickles.load(stream)
    keys, _ = pickles.load(stream)
    order = "<" if system.get("little_endian", True) else ">"
    raw = {}
    for key in keys:
        (numel,) = struct.unpack(order + "q", stream.read(8))
        size = numel * _dtype(storages[key]).itemsize
        raw[key] = stream.read(max(size, 0))
        if numel < 0 or len(raw[key]) != size:
            raise ValueError(f"storage {key} is cut off")
    return root, _Source(raw.__getitem__, order, budget)


def _find_tensors(root: Any) -> dict[str, Tensor]:
    """The state dict inside whatever was saved."""
    found = _unwrap(root)
    if isinstance(found, Stub) and _is_module(found):
        named = dict(_walk(found))
    elif isinstance(found, dict):
        named = found
    else:
        raise ValueError(f"wanted a state dict or a model, got {_kind(found)}")
    for name, value in named.items():
        if not isinstance(value, Tensor) or not isinstance(name, str):
            raise ValueError(f"{str(name)[:200]!r} is {_kind(value)}, no dense tensor")
    return named


def _unwrap(root: Any) -> Any:
    for _ in range(8):
        if isinstance(root, Stub) and _is_module(root):
            return root
        names = root.state | root.items if isinstance(root, Stub) else root
        names = names if isinstance(names, dict) else {}
        inner = (names.get(word) for word in WRAPPERS)
        inside = next((value for value in inner if isinstance(value, dict | Stub)), None)
        if inside is None:
            return root
        root = inside
    raise ValueError("its checkpoint is wrapped more than 8 times")


def _is_module(stub: Stub) -> bool:
    return isinstance(stub.state.get("_parameters"), dict)


def _walk(module: Stub) -> Iterator[tuple[str, Any]]:
    """(name, tensor) of a pickled torch.nn.Module, in the order of its state_dict()."""
    waiting = collections.deque([("", module)])
    for _ in range(MAX_MODULES):
        if not waiting:
            return
        prefix, node = waiting.popleft()
        state = node.state
        # Buffers that the model recomputes are not part of its state.
        silent = state.get("_non_persistent_buffers_set") or ()
        for name, value in (state["_parameters"] | (state.get("_buffers") or {})).items():
            if value is not None and name not in silent:
                yield f"{prefix}{name}", value
        children = [
            (f"{prefix}{name}.", child)
            for name, child in (state.get("_modules") or {}).items()
            if isinstance(child, Stub) and _is_module(child)
        ]
        if any(len(name) > MAX_NAME for name, _ in children):
            raise ValueError(f"its modules have names of more than {MAX_NAME} letters")
        waiting.extendleft(reversed(children))
    raise ValueError(f"its model has more than {MAX_MODULES} modules, or contains itself")


def _array(tensor: Tensor, source: _Source) -> Shaped[np.ndarray, "..."]:
    """The numbers of one view, copied out of its storage after its bounds were checked."""
    storage, offset, size, stride = tensor
    dtype = _dtype(storage)
    raw = source.storage(storage.key)
    if not all(isinstance(v, int) and v >= 0 for v in (offset, storage.numel, *size, *stride)):
        raise ValueError(f"a view of storage {storage.key} has no sizes")
    if len(size) != len(stride) or storage.numel * dtype.itemsize > len(raw):
        raise ValueError(f"storage {storage.key} is cut off or does not fit its view")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and last >= storage.numel:
        raise ValueError(f"a view of shape {size} reaches outside storage {storage.key}")
    source.budget.spend(4 * count if dtype.itemsize < 4 else dtype.itemsize * count)
    flat = np.frombuffer(raw, dtype.newbyteorder(source.order), storage.numel)
    strides = [step * dtype.itemsize for step in stride]
    view = np.lib.stride_tricks.as_strided(flat[offset if count else 0 :], size, strides)
    return _native(np.array(view, order="C"), storage.kind)


def _native(array: Shaped[np.ndarray, "..."], kind: str) -> Shaped[np.ndarray, "..."]:
    array = array.astype(array.dtype.newbyteorder("="))
    if kind == "torch.BoolStorage":
        return array != 0
    if kind == "torch.BFloat16Storage":  # the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def _dtype(storage: Storage) -> np.dtype:
    if storage.kind not in DTYPES:
        raise ValueError(f"no numbers of type {storage.kind[:80]} are known")
    return np.dtype(DTYPES[storage.kind])


def _kind(value: Any) -> str:
    return f"a {value.name[:80]}" if isinstance(value, Stub) else f"a {type(value).__name__}"
