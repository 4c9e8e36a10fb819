"""State dicts into .safetensors, or into a .pth that torch.load reads, without PyTorch.

The same tensors give the same bytes: no clock, no machine and no random name goes into the file.
"""

import os
import pathlib
import pickle
import struct
import sys
import zipfile
from collections.abc import Iterable, Mapping

import numpy as np
import safetensors.numpy

STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


def write_state_dict(path: str | os.PathLike[str], state_dict: Mapping[str, np.ndarray]) -> None:
    """Writes the tensors under their names; the suffix says how: .safetensors, or .pth and .pt.

    A .pth is what `torch.save(OrderedDict of tensors)` writes and `torch.load(path,
    weights_only=True)` reads. ValueError for another suffix or a type of number that PyTorch lacks.
    """
    path = pathlib.Path(path)
    arrays = {name: np.asarray(a, order="C") for name, a in state_dict.items()}
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file(arrays, path)
    elif path.suffix in (".pth", ".pt"):
        write_zip(path, _torch_entries(arrays))
    else:
        raise ValueError(f"{path}: weights are written as .safetensors, .pth or .pt")


def write_zip(path: str | os.PathLike[str], entries: Iterable[tuple[str, bytes]]) -> None:
    """An uncompressed zip of (name, bytes) that depends on nothing but these."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # else it says on which system it was written
            archive.writestr(info, content)


def _torch_entries(arrays: Mapping[str, np.ndarray]) -> Iterable[tuple[str, bytes]]:
    yield "archive/data.pkl", _pickle(arrays)
    yield "archive/byteorder", sys.byteorder.encode()
    for i, array in enumerate(arrays.values()):
        yield f"archive/data/{i}", array.tobytes()
    yield "archive/version", b"3\n"


def _pickle(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The program that builds the OrderedDict, in pickle protocol 2, without a memo."""
    items = (_text(name) + _tensor(str(i), a) for i, (name, a) in enumerate(arrays.items()))
    start = pickle.PROTO + b"\x02" + _empty_ordered_dict() + pickle.MARK
    return start + b"".join(items) + pickle.SETITEMS + pickle.STOP


def _tensor(key: str, array: np.ndarray) -> bytes:
    """torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)."""
    if array.dtype.name not in STORAGES:
        raise ValueError(f"no PyTorch storage for {array.dtype}; known: {', '.join(STORAGES)}")
    storage = _tuple(
        _text("storage"),
        _global("torch", STORAGES[array.dtype.name]),
        _text(key),
        _text("cpu"),
        _integer(array.size),
    )
    size = _tuple(*map(_integer, array.shape))
    stride = _tuple(*(_integer(s) for s in _strides(array.shape)))
    view = (storage + pickle.BINPERSID, _integer(0), size, stride, pickle.NEWFALSE)
    return (
        _global("torch._utils", "_rebuild_tensor_v2")
        + _tuple(*view, _empty_ordered_dict())
        + pickle.REDUCE
    )


def _strides(shape: tuple[int, ...]) -> list[int]:
    """Of a contiguous tensor, in elements; PyTorch counts an empty dimension as one."""
    strides = [1]
    for n in shape[:0:-1]:
        strides.insert(0, strides[0] * max(n, 1))
    return strides[: len(shape)]


def _empty_ordered_dict() -> bytes:
    return _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    encoded = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _integer(value: int) -> bytes:
    if value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    return pickle.LONG1 + b"\x08" + struct.pack("<q", value)


def _tuple(*parts: bytes) -> bytes:
    return pickle.MARK + b"".join(parts) + pickle.TUPLE
