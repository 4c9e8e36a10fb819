"""Which tensor of an official PyTorch model is which leaf of ours, read in both directions.

The tables are in `tables`; this file spells one out for a model's variables and goes along it.
"""

import functools
import typing
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxdet import models
from jaxdet.bridge.tables import ALIAS, LEAVES, PARTS, TABLES, Row

Stem = Literal["zero", "mean", "copy", "strict"]


class Entry(NamedTuple):
    """One official tensor: its name, its PyTorch shape, and our leaf (None: a constant)."""

    torch_name: str
    shape: tuple[int, ...]
    leaf: str | None  # "params/backbone/stem/conv/kernel"
    kind: str
    alias: bool = False  # a second name of a tensor that has its own entry


def from_torch(
    name: str, state_dict: Mapping[str, Any], *, stem: Stem = "zero", **fields: Any
) -> dict[str, Any]:
    """Official tensors (PyTorch names, OIHW) as our variables {"params", "batch_stats"}, float32.

    `fields` are those of the model's Config. Half precision is widened. A common prefix of all
    names ("module.", "model.model." and the like) is dropped; where an EMA copy lies beside the
    model, it is taken. Counters and the fixed DFL bins may be absent; those that are there are
    checked and dropped. `stem` says what the first convolution does when the image has another
    number of channels than the weights: see `fit_stem`. Anything missing, unexpected, of another
    shape or not of floating point raises ValueError with the list.
    """
    entries = _entries(name, fields)
    tensors = without_prefix(state_dict, entries[0].torch_name)
    first = entries[0]
    if first.torch_name in tensors:
        tensors[first.torch_name] = fit_stem(tensors[first.torch_name], first.shape, stem)
    own = [e for e in entries if e.leaf and not e.alias]
    needed = [e for e in entries if (e.leaf and not e.alias) or e.torch_name in tensors]
    _refuse(name, _mismatches(needed, tensors))
    flat = {tuple(e.leaf.split("/")): _to_flax(tensors[e.torch_name], e.kind) for e in own}
    return traverse_util.unflatten_dict(flat)


def to_torch(name: str, variables: Mapping[str, Any], **fields: Any) -> dict[str, np.ndarray]:
    """Our variables as the official state dict: every name, in the official order, float32 OIHW.

    Counters (`num_batches_tracked`) are int64 zeros; the fixed DFL bins are written. The inverse of
    `from_torch`, bit for bit. Variables of another model, size or class count raise ValueError.
    """
    entries = _entries(name, fields)
    leaves = traverse_util.flatten_dict(_plain(variables), sep="/")
    tensors = {e.torch_name: _to_torch(leaves.get(e.leaf), e) for e in entries}
    given = {e.torch_name: t for e in entries if (t := tensors[e.torch_name]) is not None}
    known = {e.leaf for e in entries}
    extra = [(leaf, "nothing", str(np.shape(leaves[leaf]))) for leaf in leaves if leaf not in known]
    _refuse(name, _mismatches(entries, given) + extra)
    return given


def fit_stem(weight: Any, shape: tuple[int, ...], rule: Stem) -> np.ndarray:
    """The first convolution [O, I, h, w] for an image of C channels, shape = (O, C, h, w).

    More channels (C > I): the new slices are zeros ("zero": the network answers as before, whatever
    the new channels show), the mean of the old filters ("mean") or the last filter again ("copy").
    One channel (C = 1): the sum of the old filters, so a grey image gives what it gave when
    repeated; the same under the three rules. Equal, "strict", or fewer channels otherwise: returned
    as it is, and a shape that does not fit is then reported with the rest.
    """
    if rule not in typing.get_args(Stem):
        raise ValueError(f"stem wants one of {', '.join(typing.get_args(Stem))}; got {rule!r}")
    weight = np.asarray(weight)
    old, new = (weight.shape[1], shape[1]) if weight.ndim == 4 else (0, 0)
    alike = weight.shape[:1] + weight.shape[2:] == shape[:1] + shape[2:]
    if old == new or old == 0 or not alike or rule == "strict":
        return weight
    wide = weight.astype(np.float32)
    if new == 1:
        return wide.sum(axis=1, keepdims=True)
    if new < old:
        return weight
    slices = {
        "zero": np.zeros_like(wide[:, :1]),
        "mean": wide.mean(axis=1, keepdims=True),
        "copy": wide[:, -1:],
    }
    return np.concatenate([wide, np.repeat(slices[rule], new - old, axis=1)], axis=1)


@functools.lru_cache(maxsize=8)
def _shapes(cfg: Any) -> dict[str, Any]:
    """Shapes of the model's variables by path, without computing any."""
    image = models.example(cfg, 64)
    tree = jax.eval_shape(models.from_config(cfg).module.init, jax.random.key(0), *image)
    return traverse_util.flatten_dict(_plain(tree), sep="/")


def _entries(name: str, fields: Mapping[str, Any]) -> list[Entry]:
    """The table of `name` spelled out for its variables. One without a row is an error."""
    if name not in TABLES:
        raise ValueError(
            f"no PyTorch names are known for {name!r}; known: {', '.join(TABLES)}. A RUN of "
            "another model can be exported as stablehlo"
        )
    cfg, table = models.config(name, **fields), TABLES[name]
    leaves = _shapes(cfg)
    rows = table(cfg) if callable(table) else table
    entries = [e for row in rows for e in _expand(row, "", "", leaves)]
    unknown = sorted(leaves.keys() - {e.leaf for e in entries})
    if unknown:
        raise ValueError(
            f"{name}: {len(unknown)} variables have no place in the official model, first "
            f"{unknown[0]}; the official weights exist for the fields' default values only"
        )
    return entries


def _expand(row: Row, ours: str, theirs: str, leaves: Mapping[str, Any]) -> list[Entry]:
    ours, theirs, part = _join(ours, row[0], "/"), _join(theirs, row[1], "."), row[2]
    if part.startswith(ALIAS):
        same = _expand((ours, theirs, part.removeprefix(ALIAS)), "", "", leaves)
        return [e._replace(alias=True) for e in same]
    if "{j}" in theirs:
        count = 0
        while any(leaf.startswith(f"params/{ours.format(j=count)}/") for leaf in leaves):
            count += 1
        copies = [(ours.format(j=j), theirs.format(j=j), part) for j in range(count)]
        return [e for copy in copies for e in _expand(copy, "", "", leaves)]
    if part in LEAVES:
        return [_leaf(ours, theirs, part, leaves)]
    return [e for inner in PARTS[part] for e in _expand(inner, ours, theirs, leaves)]


def _leaf(ours: str, theirs: str, kind: str, leaves: Mapping[str, Any]) -> Entry:
    if kind == "counter":
        return Entry(theirs, (), None, kind)
    if kind == "bins":
        return Entry(theirs, (1, 16, 1, 1), None, kind)
    leaf = f"{'batch_stats' if kind == 'statistic' else 'params'}/{ours}"
    if leaf not in leaves:
        raise ValueError(f"the model has no variable {leaf}, which the official {theirs} needs")
    shape = tuple(leaves[leaf].shape)
    return Entry(
        theirs, tuple(shape[i] for i in (3, 2, 0, 1)) if kind == "kernel" else shape, leaf, kind
    )


def _join(head: str, tail: str, separator: str) -> str:
    return separator.join(part for part in (head, tail) if part)


def _plain(tree: Any) -> dict[str, Any]:
    """Nested dicts, also from Flax's frozen ones."""
    return {k: _plain(v) if isinstance(v, Mapping) else v for k, v in tree.items()}


def _to_flax(tensor: Any, kind: str) -> np.ndarray:
    array = np.asarray(tensor).astype(np.float32)
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0)) if kind == "kernel" else array


def _to_torch(leaf: Any, entry: Entry) -> np.ndarray | None:
    if entry.kind == "counter":
        return np.zeros((), np.int64)
    if entry.kind == "bins":
        return np.arange(16, dtype=np.float32).reshape(entry.shape)
    if leaf is None:
        return None
    array = np.asarray(leaf).astype(np.float32)
    if entry.kind != "kernel" or array.ndim != 4:  # another rank is reported as it came
        return array
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1))


def without_prefix(state_dict: Mapping[str, Any], anchor: str) -> dict[str, Any]:
    """The tensors without what a wrapper put before every name; `anchor` is the first name."""
    ends = [key for key in state_dict if key == anchor or key.endswith("." + anchor)]
    prefixes = [key.removesuffix(anchor) for key in ends]
    if not prefixes:
        return dict(state_dict)
    chosen = next((p for p in prefixes if "ema" in p.split(".")), min(prefixes, key=len))
    copies = tuple(p for p in prefixes if p != chosen)
    mine = {k.removeprefix(chosen): v for k, v in state_dict.items() if k.startswith(chosen)}
    stray = {k: v for k, v in state_dict.items() if not k.startswith((chosen, *copies))}
    return mine | stray


def _mismatches(entries: list[Entry], tensors: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, wanted, got) of every tensor that does not fit."""
    rows = []
    for entry in entries:
        if entry.torch_name not in tensors:
            rows.append((entry.torch_name, str(entry.shape), "nothing"))
        elif (got := _fault(entry, np.asarray(tensors[entry.torch_name]))) is not None:
            rows.append((entry.torch_name, _wanted(entry), got))
    names = {e.torch_name for e in entries}
    return rows + [(k, "nothing", str(np.shape(v))) for k, v in tensors.items() if k not in names]


def _wanted(entry: Entry) -> str:
    if entry.kind == "bins":
        return "0, 1, ... 15 as (1, 16, 1, 1)"
    return str(entry.shape) if entry.kind == "counter" else f"float {entry.shape}"


def _fault(entry: Entry, array: np.ndarray) -> str | None:
    """What is wrong with a tensor, in words; None when it fits."""
    if array.shape != entry.shape:
        return str(array.shape)
    if entry.kind != "counter" and not jnp.issubdtype(array.dtype, jnp.floating):
        return f"{array.dtype} {array.shape}"
    if entry.kind == "bins" and not np.array_equal(array.ravel(), np.arange(16)):
        return f"other values, {array.ravel()[:4]} ..."
    return None


def _refuse(name: str, rows: list[tuple[str, str, str]]) -> None:
    if not rows:
        return
    lines = [f"  {n}: wanted {wanted}, got {got}" for n, wanted, got in rows[:12]]
    if len(rows) > 12:
        lines.append(f"  ... and {len(rows) - 12} more")
    lines.append(
        "Are the model's fields (size or width, channels, num_classes, its parts) those of the "
        "weights? infer_fields reads what shapes tell of them."
    )
    raise ValueError(f"{len(rows)} tensors do not fit {name}:\n" + "\n".join(lines))
