"""What a RUN of GSSD++ or PixelLink++ did inside: its gates, offsets and masks, and their pictures.

    RUN, data points -> look -> Looked -> draw -> gate_0.png, samples_0.png ...

Figs. 6 and 7 of paper 2 (Lee 2021); `report.alignment` draws them.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from jaxdet import models
from jaxdet.data import batch as batches
from jaxdet.data.sources import Dataset
from jaxdet.data.transforms import to_unit
from jaxdet.report import alignment
from jaxdet.report.alignment import Cells
from jaxdet.run import Run
from jaxdet.types import Array

REFERENCE = "portal"  # of CtSlice.displacement_mm


class Looked(NamedTuple):
    """What a network that aligns phases did inside with one data point."""

    name: str
    image: Float[np.ndarray, "S S C"]  # as it went in
    truths_xyxy: Float[np.ndarray, "M 4"]
    gate: Float[np.ndarray, "h w G"] | None  # of the attention before the alignment
    offsets: Float[np.ndarray, "h w G 9 2"]  # px of the map
    mask: Float[np.ndarray, "h w G 9"]


def check(run: Run) -> tuple[str, ...]:
    """The phases of the groups of offsets, as the RUN has its channels.

    ValueError for a RUN without alignment, with one offset for all phases, with
    phases that are not known, that come twice, or without the portal one.
    """
    cfg = run.experiment.model
    if models.aligned(cfg) is None:
        raise ValueError(
            f"{run.path} has no deformable alignment, so there are no offsets to look at: give a"
            " RUN of gssd_pp or pixellink_pp, or train one with --model.align deform"
        )
    if cfg.align_groups != cfg.phases or cfg.groups != cfg.phases:
        raise ValueError(
            f"{run.path} has model.groups={cfg.groups} and model.align_groups={cfg.align_groups},"
            f" so its offsets belong to no phase: train one with {cfg.phases} of both"
        )
    order = run.phases()[0]
    if len(order) != cfg.phases or len(set(order)) < len(order) or REFERENCE not in order:
        raise ValueError(
            f"{run.path} has the phases ({', '.join(order) or 'not known'}): wanted {cfg.phases}"
            f" different ones, the {REFERENCE} one among them. Train on a prepared set of four"
            " phases, or write phase_order into its run.json"
        )
    return order


def cells_of(cfg: Any) -> Cells:
    """Where the places of the aligned level lie in the image: their middles, in px."""
    return Cells(*models.aligned(cfg)[1:])


def look(
    run: Run, dataset: Dataset, index: Sequence[int], which: Literal["best", "latest"] = "best"
) -> list[Looked]:
    """Gate, offsets and masks of some data points, all in one batch; ValueError as `check`."""
    check(run)
    experiment = run.experiment
    seen = [batches.letterboxed(dataset, experiment.data, int(i))[0] for i in index]
    images = np.stack([to_unit(one.image) for one in seen])
    answer = jax.jit(functools.partial(sown, experiment.model))(run.all_weights(which), images)
    gates, offsets, masks = (None if part is None else np.asarray(part) for part in answer)
    return [
        Looked(
            dataset.records[i].name,
            images[k],
            seen[k].boxes_xyxy,
            None if gates is None else gates[k],
            offsets[k],
            masks[k],
        )
        for k, i in enumerate(index)
    ]


def draw(run: Run, looked: Sequence[Looked], folder: pathlib.Path) -> list[pathlib.Path]:
    """Figs. 6 and 7 of each data point, gate_I.png and samples_I.png; the files.

    Without attention in the trunk there is no gate, and no picture of one.
    """
    order, cells = run.phases()[0], cells_of(run.experiment.model)
    files = []
    for i, one in enumerate(looked):
        if one.gate is not None:
            files.append(folder / f"gate_{i}.png")
            alignment.gate(one.image, one.gate, one.truths_xyxy, order, cells, files[-1], one.name)
        files.append(folder / f"samples_{i}.png")
        alignment.samples(
            one.image,
            one.offsets,
            one.mask,
            one.truths_xyxy,
            order,
            cells,
            files[-1],
            name=one.name,
        )
    return files


def sown(
    cfg: Any, variables: Any, images: Float[Array, "B S S C"]
) -> tuple[Array | None, Array, Array]:
    """Gate, offsets and mask of the aligned level; XLA leaves out all that comes behind them."""
    _, kept = models.module(cfg).apply(variables, images, mutable=["intermediates"])
    told, k = kept["intermediates"], models.aligned(cfg)[0]
    attended = told.get(f"attend_{k}")
    (offsets,), (mask,) = (told[f"align_{k}"][name] for name in ("offsets", "mask"))
    return attended and attended["gate"][0], offsets, mask
