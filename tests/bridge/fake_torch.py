"""Writes files as torch.save does, through Python's pickler and stand-ins for torch's classes."""

import collections
import io
import pickle
import struct
import sys
import types
import zipfile

import numpy as np


class Storage:
    """A flat array, pickled as a reference to what lies beside the pickle."""

    def __init__(self, array, kind="FloatStorage"):
        self.array, self.kind = np.asarray(array).ravel(), kind


def stride_of(shape):
    return tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))


class Tensor:
    """A view of a storage, pickled as a call of torch._utils._rebuild_tensor_v2."""

    def __init__(self, storage, size, offset=0, stride=None):
        stride = stride_of(size) if stride is None else stride
        self.view = (storage, offset, tuple(size), tuple(stride))

    def __reduce_ex__(self, protocol):
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (*self.view, False, collections.OrderedDict())


class Parameter(Tensor):
    def __reduce_ex__(self, protocol):
        rebuild = sys.modules["torch._utils"]._rebuild_parameter
        return rebuild, (Tensor(*self.view[:1], self.view[2]), True, collections.OrderedDict())


def tensor(array, kind="FloatStorage"):
    return Tensor(Storage(array, kind), np.shape(array))


def install(monkeypatch):
    """Modules that the pickler can find its globals in; nothing in them does anything."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Bool", "Byte", "Odd"):
        storage = type(f"{kind}Storage", (), {"__module__": "torch"})
        setattr(torch, storage.__name__, storage)
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        function = types.FunctionType((lambda *args: None).__code__, {}, name)
        function.__module__, function.__qualname__ = "torch._utils", name
        setattr(utils, name, function)
    tasks = types.ModuleType("ultralytics.nn.tasks")
    tasks.Module = type("Module", (), {"__module__": "ultralytics.nn.tasks"})
    modules = {"torch": torch, "torch._utils": utils, "ultralytics.nn.tasks": tasks}
    modules |= {name: types.ModuleType(name) for name in ("ultralytics", "ultralytics.nn")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


def module(parameters=(), buffers=(), children=(), silent=()):
    """A pickled torch.nn.Module: what its __dict__ holds."""
    made = sys.modules["ultralytics.nn.tasks"].Module()
    made.__dict__.update(
        training=False,
        _parameters=collections.OrderedDict(parameters),
        _buffers=collections.OrderedDict(buffers),
        _non_persistent_buffers_set=set(silent),
        _modules=collections.OrderedDict(children),
        yaml={"nc": 80, (1, 2): "odd key"},
    )
    return made


def dumps(value, protocol=2):
    """The pickle and its storages by key."""
    storages, out = {}, io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if not isinstance(obj, Storage):
                return None
            key = next((k for k, s in storages.items() if s is obj), str(len(storages)))
            storages[key] = obj
            kind = getattr(sys.modules["torch"], obj.kind)
            return ("storage", kind, key, "cpu", obj.array.size)

    Pickler(out, protocol=protocol).dump(value)
    return out.getvalue(), storages


def save(path, value, protocol=2, order="<"):
    data, storages = dumps(value, protocol)
    raw = {k: s.array.astype(s.array.dtype.newbyteorder(order)) for k, s in storages.items()}
    entries = {"data.pkl": data, "byteorder": b"little" if order == "<" else b"big"}
    entries |= {f"data/{k}": a.tobytes() for k, a in raw.items()}
    write_entries(path, entries)


def write_entries(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(f"weights/{name}", content)


def save_legacy(path, value):
    data, storages = dumps(value)
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    parts = [pickle.dumps(part, 2) for part in head]
    parts += [data, pickle.dumps(list(storages), 2)]
    parts += [struct.pack("<q", s.array.size) + s.array.tobytes() for s in storages.values()]
    path.write_bytes(b"".join(parts))
