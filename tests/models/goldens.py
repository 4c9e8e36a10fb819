"""The goldens of the GSSD and PixelLink families, and the weights that they were made with."""

import functools
import importlib.util
import zlib

import numpy as np


@functools.cache
def recipe(shared):
    """The module that draws weights and images."""
    spec = importlib.util.spec_from_file_location("recipe", shared / "golden" / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def golden(shared, case):
    """The arrays of a case by name; empty where only its names are known."""
    file = shared / "golden" / f"gssd_golden_{case}.npz"
    return dict(np.load(file)) if file.exists() else {}


@functools.cache
def official(shared, case):
    """The case's state dict with all its names, aliases too. Not to be written to."""
    lines = (shared / f"golden/names/gssd_statedict_{case}.txt").read_text().splitlines()
    rows = [line.split(maxsplit=2) for line in lines]
    shapes = {
        name: tuple(int(s) for s in shape.strip("()").split(",") if s.strip())
        for name, _, shape in rows
    }
    own = [name for name, kind, _ in rows if kind != "ALIAS"]
    state = {name: _drawn(shared, case, name, shapes) for name in own}
    state |= _vectors(state) if not golden(shared, case) else {}
    second = [name for name, kind, _ in rows if kind == "ALIAS"]
    state |= {name: state[true] for name, true in _aliased(second, own).items()}
    return {name: state[name] for name in shapes}


def _drawn(shared, case, name, shapes):
    stored = golden(shared, case).get(f"sn/{name}")
    normed = name.rpartition(".")[0] + ".running_mean" in shapes
    if stored is not None:
        return stored
    return recipe(shared).gssd_tensor(name, shapes[name], batch_norm=normed)


def _vectors(state):
    """u and v of spectral norms that no file holds, by their recipe (golden/README.md)."""
    found = {}
    for name in (name for name in state if name.endswith("weight_orig")):
        stem, kernel = name.removesuffix("orig"), state[name].astype(np.float64)
        kernel = kernel.reshape(len(kernel), -1)
        u = np.random.default_rng(zlib.crc32(f"{stem}u".encode())).standard_normal(len(kernel))
        for _ in range(30):
            v = kernel.T @ u
            v /= np.linalg.norm(v)
            u = kernel @ v
            u /= np.linalg.norm(u)
        found |= {f"{stem}u": u.astype(np.float32), f"{stem}v": v.astype(np.float32)}
    return found


def _aliased(second, own):
    """Which tensor a second name is of."""
    if second and second[0].startswith("modules_except_dcn"):  # all but attention and alignment
        first = [name for name in own if not name.startswith(("self_attn", "dcn_list"))]
        return dict(zip(second, first, strict=True))
    found = {}
    for name in second:  # fuse_list1.0.weight is fuse_31.weight
        head, number, leaf = name.split(".", 2)
        found[name] = f"{head.removesuffix('_list1')}_{int(number) + 3}1.{leaf}"
    return found
