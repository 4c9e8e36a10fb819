"""Seeing inside of GSSD++: Figs. 4, 6 and 7 of paper 2 (Lee 2021), and alignment in millimetres.

    Fig. 4  detections     a row a data point, a column a model, boxes in the colour of their score
    Fig. 6  gate           how much attention added to each phase, over that phase
    Fig. 7  samples        where the deformable convolution reads each phase, at chosen places
            against_truth  learned offsets against true displacements, control beside it
            over_mm        average precision against millimetres, a line a model

From arrays to PNG files. Phases stand as doctors have them, Pre, A, P, D, whatever the order of the
channels. Images are as the model takes them, phase-major, in [0, 1]; of each phase its middle slice
is shown. The first pixel goes from 0 to 1, as in boxes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, Shaped
from matplotlib import colors, patches, patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from jaxdet.ops import deform
from jaxdet.types import PHASES, Array, Detections

LABELS = dict(zip(PHASES, ("Pre", "A", "P", "D"), strict=True))
SCORES = ScalarMappable(colors.Normalize(0, 1), "plasma")
HALO = (patheffects.withStroke(linewidth=2.5, foreground="black"),)  # white is lost on a liver
STRONGEST = 0.65  # opacity of the gate where it is greatest; 0 leaves the slice bare
LARGEST_PT2 = 70.0  # area of a point whose mask is 1
ZOOM_CELLS = 6  # a crop around a place reaches so many places to each side
PANEL_IN = 2.8  # side of a picture
KERNEL = (3, 3)


class Cells(NamedTuple):
    """Where the places of a feature map lie in its image, on both sides alike."""

    start_px: float  # the middle of the first
    step_px: float  # from one to the next

    def middles_px(self, at: Float[Array, "*N"]) -> Float[Array, "*N"]:
        """Positions on the map, the first place 0, as positions in the image."""
        return self.start_px + self.step_px * at


class Line(NamedTuple):
    """A panel of `against_truth`: pairs and what was fitted to them (NaN where nothing was)."""

    title: str
    truths_mm: Float[np.ndarray, "N"]
    offsets_mm: Float[np.ndarray, "N"]
    slope: float
    intercept: float
    told: str


def medical(order: Sequence[str]) -> list[int]:
    """Positions in `order` such that the phases come as Pre, A, P, D; others stay behind them."""
    rank = {phase: i for i, phase in enumerate(PHASES)}
    return sorted(range(len(order)), key=lambda i: rank.get(order[i], len(rank)))


def middle_slices(
    image: Shaped[np.ndarray, "H W C"], order: Sequence[str]
) -> Shaped[np.ndarray, "P H W"]:
    """The middle slice of each phase, in the order of the channels.

    ValueError where C is no multiple of the phases.
    """
    if not order or image.shape[2] % len(order):
        raise ValueError(
            f"{image.shape[2]} channels are no equal number of slices for the {len(order)} phases"
            f" ({', '.join(order)}): give the RUN's own phase order and the image that it reads"
        )
    each = image.shape[2] // len(order)
    return np.moveaxis(image[..., each // 2 :: each], 2, 0)


def places_of(
    truths_xyxy: Float[np.ndarray, "M 4"], cells: Cells, shape: tuple[int, int]
) -> Int[np.ndarray, "N 2"]:
    """Row and column of the place nearest to the centre of each box; without any, the middle."""
    if not len(truths_xyxy):
        return np.array([[shape[0] // 2, shape[1] // 2]])
    centres = (truths_xyxy[:, [1, 0]] + truths_xyxy[:, [3, 2]]) / 2
    nearest = np.rint((centres - cells.start_px) / cells.step_px).astype(np.int64)
    return np.clip(nearest, 0, np.array(shape) - 1)


def strengths(gate: Float[np.ndarray, "h w G"], phases: int) -> Float[np.ndarray, "P h w"]:
    """How much a gate adds to each phase at each place: the norm over that phase's channels."""
    if not phases or gate.shape[2] % phases:
        raise ValueError(f"a gate of {gate.shape[2]} channels does not fall into {phases} phases")
    parts = gate.astype(np.float64).reshape(*gate.shape[:2], phases, -1)
    return np.moveaxis(np.linalg.norm(parts, axis=3), 2, 0)


def upsampled(
    values: Float[np.ndarray, "h w"], cells: Cells, shape: tuple[int, int]
) -> Float[np.ndarray, "H W"]:
    """A map at the pixels of its image, linear between the middles and constant beyond them."""
    rows, columns = (((np.arange(n) + 0.5 - cells.start_px) / cells.step_px) for n in shape)
    x, y = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
    source = values.astype(np.float32)
    return cv2.remap(source, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def taps_px(
    offsets: Float[np.ndarray, "h w G K 2"], cells: Cells
) -> Float[np.ndarray, "h w G K 2"]:
    """Where every tap of a 3x3 kernel reads, (y, x) in px of the image."""
    return cells.middles_px(np.asarray(deform.sample_points(offsets[None], KERNEL, padding=1)[0]))


def detections(
    slices: Sequence[Shaped[np.ndarray, "_ _"]],
    truths_xyxy: Sequence[Float[np.ndarray, "_ 4"]],
    found: Mapping[str, Detections],
    names: Sequence[str],
    path: str | Path,
    least_score: float = 0.2,
) -> None:
    """As Fig. 4: a row a data point, a column a model; boxes by score, truth in white.

    slices: one grey picture a data point, such as the middle slice of the phase it was drawn on.
    found: by model, the Detections [N, D, ...] of these data points in px of the slices; what
    scores `least_score` or less is not drawn (0.2 is where the official evaluator begins), nor is
    padding; the surest lie on top. ValueError without a data point or a model, and for numbers of
    data points that differ.
    """
    counts = {"truths": len(truths_xyxy), "names": len(names)}
    counts |= {model: len(one.scores) for model, one in found.items()}
    if not slices or not found or set(counts.values()) != {len(slices)}:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(
            f"a picture wants 1 data point and 1 model or more, and all lists of one length; got"
            f" {len(slices)} slices, {len(found)} models, {told}"
        )
    figure, axes = _figure(len(slices), len(found))
    for i, column in np.ndindex(axes.shape):
        model, ax = list(found)[column], axes[i, column]
        _slice(ax, slices[i], truths_xyxy[i])
        boxes, scores, labels = (np.asarray(field[i]) for field in found[model])
        for d in np.argsort(scores, kind="stable"):
            if labels[d] >= 0 and scores[d] > least_score:
                _box(ax, boxes[d], SCORES.to_rgba(float(scores[d])), 1.8)
        if i == 0:
            ax.set_title(model, fontsize="small")
        if column == 0:
            ax.set_ylabel(names[i], fontsize="x-small")
    figure.colorbar(SCORES, ax=axes, label="score", shrink=0.6)
    _save(figure, path)


def gate(
    image: Shaped[np.ndarray, "H W C"],
    gate: Float[np.ndarray, "h w G"],
    truths_xyxy: Float[np.ndarray, "M 4"],
    order: Sequence[str],
    cells: Cells,
    path: str | Path,
    name: str = "",
) -> None:
    """As Fig. 6: each phase, and over it the norm of what the gate of a level adds to it.

    gate: phase-major channels, as a module sows it. All phases share one scale, from 0, so that
    they can be compared; a gate that is 0 everywhere (sigma at its start) leaves them bare and says
    so. ValueError for channels, of image or gate, that do not fall into the phases of `order`.
    """
    shown = middle_slices(image, order)
    maps = [upsampled(one, cells, image.shape[:2]) for one in strengths(gate, len(order))]
    most = max(float(one.max()) for one in maps)
    scale = ScalarMappable(colors.Normalize(0, most or 1.0), "inferno")
    figure, axes = _figure(2, len(order))
    for column, g in enumerate(medical(order)):
        for row in (0, 1):
            _slice(axes[row, column], shown[g], truths_xyxy)
        veil = scale.to_rgba(maps[g])
        veil[..., 3] = STRONGEST * np.clip(maps[g] / (most or 1.0), 0, 1)
        axes[1, column].imshow(veil, extent=_extent(image.shape))
        axes[0, column].set_title(_title(order, g), fontsize="small")
    figure.colorbar(scale, ax=axes, label="norm of the gate", shrink=0.6)
    figure.suptitle(name + ("" if most else " (the gate is 0 everywhere)"), fontsize="small")
    _save(figure, path)


def samples(
    image: Shaped[np.ndarray, "H W C"],
    offsets: Float[np.ndarray, "h w G K 2"],
    mask: Float[np.ndarray, "h w G K"],
    truths_xyxy: Float[np.ndarray, "M 4"],
    order: Sequence[str],
    cells: Cells,
    path: str | Path,
    places: Int[np.ndarray, "N 2"] | None = None,
    name: str = "",
) -> None:
    """As Fig. 7: where the 3x3 taps of chosen output places read each phase.

    offsets (dy, dx) in px of the map and mask as the module sows them; G is the phases, or 1, the
    same for all. places: (row, column) on the map, by default those at the centres of the true
    boxes. Above, all places on the whole slices, a colour each; below, a row a place, close up: a
    cross is the place, small grey points are the taps before they were moved, and a coloured point
    is a tap, as large as its mask. Departs: the official script cuts the offset channels in halves,
    which is not their layout (facts, gssd_reference quirk 11). ValueError for other groups, and
    for a place that is not on the map.
    """
    if offsets.shape[2] not in (1, len(order)) or offsets.shape[:4] != mask.shape:
        raise ValueError(
            f"{len(order)} phases want offsets [h, w, {len(order)} or 1, 9, 2] and masks to match;"
            f" got {offsets.shape} and {mask.shape}"
        )
    shape = offsets.shape[:2]
    places = places_of(truths_xyxy, cells, shape) if places is None else places
    if not len(places) or (places < 0).any() or (places >= np.array(shape)).any():
        raise ValueError(f"samples wants places (row, column) on a map {shape}; got {places}")
    chosen = tuple(places.T)
    taps, still = (taps_px(o, cells)[chosen] for o in (offsets, np.zeros_like(offsets)))
    sizes, shown = LARGEST_PT2 * mask[chosen], middle_slices(image, order)
    figure, axes = _figure(1 + len(places), len(order))
    for column, g in enumerate(medical(order)):
        group = min(g, offsets.shape[2] - 1)
        for row, ax in enumerate(axes[:, column]):
            _slice(ax, shown[g], truths_xyxy)
            for i in range(len(places)) if row == 0 else (row - 1,):
                small = 0.15 if row == 0 else 1.0
                middle = cells.middles_px(places[i].astype(np.float64))
                _points(ax, taps[i, group], small * sizes[i, group], f"C{i % 10}")
                if row:
                    ax.scatter(*still[i, group].T[::-1], s=5, color="0.7", marker=".")
                    ax.scatter(*middle[::-1], s=40, color="white", marker="+", linewidths=1)
                    _close_up(ax, middle, ZOOM_CELLS * cells.step_px)
        axes[0, column].set_title(_title(order, g), fontsize="small")
    for i, (row, column) in enumerate(places.tolist()):
        axes[i + 1, 0].set_ylabel(f"row {row}, column {column}", fontsize="x-small")
    figure.suptitle(name, fontsize="small")
    _save(figure, path)


def against_truth(lines: Sequence[Sequence[Line]], path: str | Path) -> None:
    """Learned offsets against true displacements in mm: 2-D histograms, with lines.

    A list a row of panels, such as phase by phase, and another row for the control. Red: what was
    fitted; dashed: where offsets equal to the truth would lie. Counts are logarithmic. An empty
    panel says so. ValueError without panels.
    """
    if not lines or not lines[0]:
        raise ValueError("against_truth wants 1 panel or more; got none")
    figure, axes = _figure(len(lines), max(map(len, lines)), ticks=True)
    for row, panels in enumerate(lines):
        for ax, one in zip(axes[row], panels, strict=False):
            _histogram(ax, one)
            ax.set_xlabel("true displacement, mm", fontsize="x-small")
            ax.set_ylabel("offset, mm", fontsize="x-small")
    _save(figure, path)


def over_mm(curves: Sequence[Mapping[str, Any]], path: str | Path, overlap: str = "iou50") -> None:
    """AP, and the share of it that is lost, against millimetres: a line a model, with intervals.

    curves: of study/misaligned.py: name, along (what the millimetres are), lost_is, and points with
    mm, ap and lost, each by overlap an interval (value, low, high), None where not known.
    ValueError without curves, or of several kinds, whose millimetres are not the same.
    """
    kinds = {(curve["along"], curve["lost_is"]) for curve in curves}
    if len(kinds) != 1:
        raise ValueError(f"over_mm wants curves of one kind; got {sorted(kinds) or 'none'}")
    along, lost_is = kinds.pop()
    figure, axes = _figure(1, 2, ticks=True, side=3.6)
    for ax, key, title in zip(axes[0], ("ap", "lost"), ("AP", lost_is), strict=True):
        for i, curve in enumerate(curves):
            _curve(ax, curve["points"], key, overlap, curve["name"], f"C{i % 10}")
        ax.set(title=f"{title}, {overlap}", xlabel=along)
        ax.title.set_fontsize("small")
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 1].axhline(0, color="0.5", linewidth=0.8)
    axes[0, 0].legend(fontsize="x-small")
    _save(figure, path)


def _title(order: Sequence[str], g: int) -> str:
    label = LABELS.get(order[g], order[g])
    return label if order.count(order[g]) == 1 else f"{label}, group {g}"


def _extent(shape: Sequence[int]) -> tuple[float, float, float, float]:
    return (0.0, float(shape[1]), float(shape[0]), 0.0)


def _slice(
    ax: Axes, image: Shaped[np.ndarray, "H W"], truths_xyxy: Float[np.ndarray, "M 4"]
) -> None:
    top = 255 if image.dtype == np.uint8 else 1
    ax.imshow(image, cmap="gray", vmin=0, vmax=top, extent=_extent(image.shape))
    for box in truths_xyxy:
        _box(ax, box, "white", 1.0)
    ax.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))


def _box(ax: Axes, box_xyxy: Float[np.ndarray, "4"], colour: Any, width: float) -> None:
    x0, y0, x1, y1 = (float(v) for v in box_xyxy)
    drawn = patches.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=colour, lw=width)
    drawn.set_path_effects([*HALO, patheffects.Normal()])
    ax.add_patch(drawn)


def _points(
    ax: Axes, at_yx: Float[np.ndarray, "K 2"], sizes: Float[np.ndarray, "K"], colour: str
) -> None:
    ax.scatter(at_yx[:, 1], at_yx[:, 0], s=sizes, color=colour, edgecolors="black", linewidths=0.4)


def _close_up(ax: Axes, middle_yx: Float[np.ndarray, "2"], reach: float) -> None:
    y, x = middle_yx
    ax.set(xlim=(x - reach, x + reach), ylim=(y + reach, y - reach))


def _histogram(ax: Axes, one: Line) -> None:
    ax.set_title(f"{one.title}\n{one.told}", fontsize="x-small")
    if not len(one.truths_mm):
        ax.text(0.5, 0.5, "no pairs", ha="center", va="center", transform=ax.transAxes)
        return
    most = 1.05 * max(np.abs(one.truths_mm).max(), np.abs(one.offsets_mm).max(), 0.1)
    span = [[-most, most]] * 2
    norm = colors.LogNorm()
    ax.hist2d(one.truths_mm, one.offsets_mm, bins=60, range=span, norm=norm, cmap="Blues")
    ends = np.array([-most, most])
    ax.plot(ends, ends, color="0.4", linestyle="--", linewidth=0.8)
    ax.plot(ends, one.intercept + one.slope * ends, color="red", linewidth=1.2)
    ax.set(xlim=ends, ylim=ends, aspect="equal")


def _curve(
    ax: Axes, points: Sequence[Mapping[str, Any]], key: str, overlap: str, name: str, colour: str
) -> None:
    known = [(p["mm"], p[key][overlap]) for p in points if p[key][overlap]["value"] is not None]
    ax.plot(
        [mm for mm, _ in known],
        [one["value"] for _, one in known],
        marker="o",
        color=colour,
        label=name,
    )
    for mm, one in known:
        if one["low"] is not None:
            ax.plot([mm, mm], [one["low"], one["high"]], color=colour, alpha=0.5)


def _figure(
    rows: int, columns: int, *, ticks: bool = False, side: float = PANEL_IN
) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(side * columns + 0.6, side * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    if not ticks:
        for ax in axes.ravel():
            ax.set(xticks=[], yticks=[])
    return figure, axes


def _save(figure: Figure, path: str | Path) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, format="png")
