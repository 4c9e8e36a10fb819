"""PixelLink, PixelLink + G.Conv & C.Fusion, PixelLink++: lesions as linked pixels.

PixelLink    Deng 2018, arXiv:1801.01315: is a cell lesion, and which of its 8 neighbours are of the
             same one? A lesion is what hangs together.
PixelLink++  Lee 2021, arXiv:2112.01535: phases kept apart by grouped convolutions, self-attention
             in the trunk and before the heads, and on conv3_3 a deformable convolution that aligns
             the phases.

    image -> VGG16 to conv3_3 -> attend -> align -> conv4_3 -> attend -> conv5_3 -> ... -> conv7
                                           |                   |           |                |
                             at every level: attend, fuse -> pixel and link scores
    scores of conv7 + conv5_3, grown and added to those of conv4_3, and so on to the finest level

The official code (facts, gssd_reference 4) is what is built; where the paper says otherwise, or
nothing, a field has both.
"""

import functools
import math
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from jaxdet.config import config
from jaxdet.losses.link import pixel_link
from jaxdet.models import linked
from jaxdet.models.detector import Detector
from jaxdet.nn import gate, pool, vgg
from jaxdet.nn.align import ALIGN
from jaxdet.nn.fuse import FUSE
from jaxdet.nn.grouped import Conv, Grouping, scaled
from jaxdet.ops import images, resample
from jaxdet.ops.links import Border, Cover, Extent, Score
from jaxdet.types import Array, Batch, Detections

# How the official weights want their images (facts, gssd_reference 6); phases in their own order.
OFFICIAL_DATA = {
    "phases": ("arterial", "delayed", "portal", "precontrast"),
    "window_hu": (-150.0, 250.0),
    "pipeline": "ssd",
    "input": "official",
}
SKIPS_EMPTY_IMAGES = True  # of its evaluator: facts, gssd_reference 8.1
PREDICT = {"extent": "cells"}  # boxes for users end behind their last px, as all others do
SOURCES = {  # the levels that have scores, finest first
    "4s": ("conv3_3", "conv4_3", "conv5_3", "conv7"),
    "2s": ("conv2_2", "conv3_3", "conv4_3", "conv5_3", "conv7"),
}
STRIDES = {"4s": 4, "2s": 2}
PIXEL, LINK = 2, 16  # scores of a cell: no, yes; and the same of each of 8 neighbours
Level = Literal["conv2_2", "conv3_3", "conv4_3", "conv5_3", "conv7"]


@config
class Config:
    """Defaults are the official PixelLink++, but for `border` and `score` (departs).

    Each field is a row of a table, or a question.
    """

    version: Literal["4s", "2s"] = "4s"  # px of a cell; 2s with alignment has no working reference
    image_size: int = 300  # px, square
    channels: int = 12  # phase-major, three slices each
    phases: int = 4
    num_classes: int = 1  # a cell is lesion or not: there is one class
    width: float = 1.0  # times the channels of all layers; the official weights have 1
    groups: int = 4  # of the trunk's convolutions; 1 is plain PixelLink
    fuse: Literal["conv1x1", "none"] = "conv1x1"  # no ReLU follows, unlike GSSD's
    fuse_norm: Literal["none", "batch"] = "none"  # the paper does not say
    neck: Literal["sum", "cascade"] = "sum"  # the paper does not say
    attention_trunk: Literal["self_gate", "none"] = "self_gate"  # SA at base
    attention_heads: Literal["self_gate", "none"] = "self_gate"  # SA at fusion
    gate_pool: Literal[1, 2, 4, 8] = 2  # the down-sample factor D
    interphase: Literal["shared", "grouped", "per_phase"] = "shared"
    gate: Literal["projected", "raw"] = "projected"  # before W_o: as the paper's Fig. 2 draws it
    align: Literal["deform", "none"] = "deform"  # the DC module
    align_groups: int = 4  # 1: one offset for all phases
    # Without attention in the trunk there is no gate, and it is "features" whatever this says
    align_input: Literal["features+gate", "features+stopped_gate", "features"] = "features+gate"
    align_at: Level = "conv3_3"  # the level that alignment follows; its output flows on
    align_conv: Literal["dense", "grouped"] = "dense"  # grouped: as the paper's Fig. 2 draws it
    # Of the offsets' convolution. The code draws it as all others; zero is GSSD++'s
    align_start: Literal["xavier", "zero"] = "xavier"
    # Of VGG's convolutions. As the code draws them, what comes out of conv7 is some 1e-7 of what
    # goes in, at 4 groups and full width, and learning begins late; he keeps the scale (departs)
    trunk_start: Literal["xavier", "he"] = "xavier"
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the convolutions; the rest is float32
    grouping: Grouping = "auto"  # how groups are computed
    # loss
    truth: Literal["box", "mask"] = "box"  # what lesion cells are: of the box, or of the lesion
    cover: Cover = "official"  # of the box: a cell more where it ends between two. touched: no more
    border: Border = "clean"  # official: links that leave the image wrap
    neg_ratio: float = 3.0  # hard negatives for each positive
    # decode
    pixel_threshold: float = 0.2
    link_threshold: float = 0.8
    score: Score = "cells"  # of a lesion: the mean of its cells. pixels: as the code, see ops.links
    score_threshold: float = 0.0
    min_cells: int = 1  # smaller components are none
    extent: Extent = "official"  # cells: a px more on the right and below
    max_detections: int = 100

    def check(self) -> None:
        """Refuses groups that are no phases, more than one class, and a level that is none."""
        linked.check(self, "PixelLink")
        for name in ("groups",) + (("align_groups",) if self.align != "none" else ()):
            if getattr(self, name) not in (1, self.phases):
                legal = f"1 or {self.phases}" if self.phases > 1 else "1"
                raise ValueError(
                    f"model.{name} wants {legal}, the number of phases; got {getattr(self, name)}"
                )
        if self.align_at not in SOURCES[self.version]:
            raise ValueError(
                f"model.align_at wants {', '.join(SOURCES[self.version])} in version "
                f"{self.version}; got {self.align_at!r}"
            )
        _check_width(self)


def _check_width(cfg: "Config") -> None:
    """Refuses a width at which layers do not divide into the parts that look at them."""
    attends = {cfg.attention_trunk, cfg.attention_heads} != {"none"}
    apart = cfg.phases if cfg.interphase != "shared" else 1
    level = math.lcm(cfg.groups, 8 * apart if attends else 1)
    if cfg.align != "none":
        level = math.lcm(level, cfg.phases)
    finest = {"4s": 256, "2s": 128}[cfg.version]  # channels of the smallest level, at width 1
    sizes = sorted({*vgg.WIDTHS.values(), vgg.TOP})
    parts = {size: level if size >= finest else cfg.groups for size in sizes}
    for size, multiple in parts.items():
        if (got := max(round(size * cfg.width), 1)) % multiple:
            step = max(multiple / size for size, multiple in parts.items())
            raise ValueError(
                f"model.width wants a multiple of {step:.6g}, so that all layers divide into "
                f"groups, phases and the parts of attention; got {cfg.width}: {got} channels are "
                f"no multiple of {multiple}"
            )


class Outputs(NamedTuple):
    """Raw answers of every cell of `stride` px; always float32."""

    pixel_logits: Float[Array, "B H W 2"]  # no lesion, lesion
    link_logits: Float[Array, "B H W 16"]  # neighbour i of ops.links.NEIGHBOURS: 2i no, 2i + 1 yes


class PixelLink(nn.Module):
    """Phase-major slices [B, S, S, C] in [0, 1] (or uint8) to Outputs; S is cfg.image_size."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Outputs:
        """`train`: by the statistics of the batch of all replicas; one power iteration.

        Departs: the reference iterates twice a step, as it computes its attention twice, and
        differentiates the second: on the goldens its gradients there differ by up to 0.4 %.
        """
        cfg = self.cfg
        linked.check_images(x, cfg)
        made = {"norm": "none", "dtype": jnp.dtype(cfg.dtype), "grouping": cfg.grouping}
        made |= {"groups": cfg.groups, "start": cfg.trunk_start}
        block = functools.partial(scaled, cfg.width, **made)
        found: list[Outputs] = []

        def scored(level: str, x: Array) -> Array:
            if level not in SOURCES[cfg.version]:
                return x
            x, scores = _scored(cfg, level, x, train=train)
            found.append(scores)
            return x

        x = vgg.stage(1, block, images.to_unit(x).astype(cfg.dtype), train=train)
        for stage, level in enumerate(("conv2_2", "conv3_3", "conv4_3", "conv5_3"), 2):
            x = scored(level, vgg.stage(stage, block, pool.halve(x, ceil=True), train=train))
        scored("conv7", vgg.top(block, x, train=train))
        pixel, link = zip(*found, strict=True)
        return Outputs(_joined(cfg, "pixel", pixel), _joined(cfg, "link", link))


def _scored(cfg: Config, level: str, x: Array, *, train: bool) -> tuple[Array, Outputs]:
    """What flows on from a level, attended and perhaps aligned; and its scores."""
    dtype, k = jnp.dtype(cfg.dtype), SOURCES[cfg.version].index(level)
    x, gated = _attention(cfg, cfg.attention_trunk, f"attend_{k}")(x, train=train)
    x = ALIGN[cfg.align if level == cfg.align_at else "none"](
        phases=cfg.phases,
        guide=cfg.align_input,
        offset_groups=cfg.align_groups,
        weight_groups=cfg.phases if cfg.align_conv == "grouped" else 1,
        offset_start=cfg.align_start,
        dtype=dtype,
        name=f"align_{k}",
    )(x, gated)
    seen, _ = _attention(cfg, cfg.attention_heads, f"look_{k}")(x, train=train)
    fuse = FUSE[cfg.fuse](norm=cfg.fuse_norm, relu=False, dtype=dtype, name=f"fuse_{k}")
    seen = fuse(seen, train=train)
    head = functools.partial(_head, dtype)
    return x, Outputs(head(f"pixel_{k}", PIXEL, seen), head(f"link_{k}", LINK, seen))


def _attention(cfg: Config, word: str, name: str) -> nn.Module:
    return gate.GATE[word](
        pool=cfg.gate_pool,
        phases=cfg.phases,
        interphase=cfg.interphase,
        told=cfg.gate,
        dtype=jnp.dtype(cfg.dtype),
        grouping=cfg.grouping,
        start="xavier",
        name=name,
    )


def _head(dtype: jnp.dtype, name: str, features: int, x: Array) -> Array:
    return Conv(features, dtype=dtype, start="xavier", name=name)(x).astype(jnp.float32)


def _joined(cfg: Config, name: str, levels: tuple[Array, ...]) -> Array:
    """Scores of all levels, finest first, as those of the finest (Deng 2018, Fig. 3).

    The coarser ones are grown and added; the neck "cascade" keeps all sums on the way, side by
    side. A 1x1 convolution ends it.
    """
    sums = [levels[-1]]
    for finer in reversed(levels[:-1]):
        sums.append(resample.align_corners(sums[-1], *finer.shape[1:3]) + finer)
    if cfg.neck == "cascade":
        sides = levels[0].shape[1:3]
        sums.append(jnp.concatenate([resample.align_corners(x, *sides) for x in sums], -1))
    return _head(jnp.dtype("float32"), name, levels[0].shape[-1], sums[-1])


def loss(out: Outputs, batch: Batch, *, cfg: Config) -> dict[str, Array]:
    """Cross-entropy of cells "pixel" and of links "link"; "total" is 2 pixel + link."""
    told = linked.targets(batch, out.pixel_logits.shape[1:3], STRIDES[cfg.version], cfg)
    return pixel_link(*out, told, neg_ratio=cfg.neg_ratio)


def decode(out: Outputs, *, cfg: Config) -> Detections:
    """The surest components, in px: the extent of their cells, scored as `cfg.score` says."""
    return linked.decode(*out, STRIDES[cfg.version], cfg)


count, decode_officially = linked.count, linked.decode_officially


def aligned(cfg: Config) -> tuple[int, float, float]:
    """Number of the level that alignment follows; middle of its first place and the step, px."""
    level = SOURCES[cfg.version].index(cfg.align_at)
    step = {"conv2_2": 2.0, "conv3_3": 4.0, "conv4_3": 8.0}.get(cfg.align_at, 16.0)
    return level, step / 2, step


def build(cfg: Config) -> Detector:
    """The Detector of a Config."""
    bind = functools.partial
    return Detector(PixelLink(cfg), bind(loss, cfg=cfg), bind(decode, cfg=cfg))
