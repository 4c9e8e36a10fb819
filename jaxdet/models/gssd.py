"""SSD, GSSD and GSSD++: one detector whose convolutions keep the phases of a CT apart.

SSD     Liu 2016, on all channels at once.
GSSD    Lee 2018, arXiv:1807.00436: a group of channels for each phase, fused by 1x1 convolutions.
GSSD++  Lee 2021, arXiv:2112.01535: self-attention in the trunk and before each head, and on
        conv4_3 a deformable convolution that aligns the phases, led by what attention found.

    image -> VGG16 to conv4_3 -> attend -> align -> conv7 -> attend -> extras, each -> attend
                                   |                  |                  |
                            (L2 norm) attend, fuse -> heads, at every level

The official code (facts, gssd_reference 1 and 2) is what is built; where the paper says otherwise a
field has both. "GSSD (Portal Only)" is data.phases = ("portal",) * 4.
"""

import functools
import math
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxdet.config import config
from jaxdet.losses.multibox import multibox
from jaxdet.models.detector import Detector
from jaxdet.nn import gate, pool, vgg
from jaxdet.nn.align import ALIGN
from jaxdet.nn.fuse import FUSE
from jaxdet.nn.grouped import Conv, Grouping, scaled
from jaxdet.nn.norm import L2Norm
from jaxdet.ops import detect, images, priors
from jaxdet.types import Array, Batch, Detections

# Behind conv7, by image size: channels of the 1x1 convolution, then of one with kernel, stride and
# padding. Each pair is a level.
EXTRAS = {
    300: ((256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 1, 0), (128, 256, 3, 1, 0)),
    512: (
        (256, 512, 3, 2, 1),
        (128, 256, 3, 2, 1),
        (128, 256, 3, 2, 1),
        (128, 256, 3, 2, 1),
        (128, 256, 4, 1, 1),
    ),
}
# How the official weights want their images (facts, gssd_reference 6); phases in their own order.
OFFICIAL_DATA = {
    "phases": ("arterial", "delayed", "portal", "precontrast"),
    "window_hu": (-150.0, 250.0),
    "pipeline": "ssd",
    "input": "official",
}
LEVELS = ("conv4_3", "conv7", "conv8_2", "conv9_2", "conv10_2", "conv11_2", "conv12_2")
Level = Literal["conv4_3", "conv7", "conv8_2", "conv9_2", "conv10_2", "conv11_2", "conv12_2"]


@config
class Config:
    """Defaults are the official GSSD++. Each field is a row of an ablation table, or a question."""

    image_size: Literal[300, 512] = 300  # px, square; 512 has no working reference
    channels: int = 12  # phase-major, three slices each
    phases: int = 4
    num_classes: int = 1  # without background
    width: float = 1.0  # times the channels of all layers; the official weights have 1
    groups: int = 4  # of all convolutions of trunk and extras; 1 is plain SSD
    norm: Literal["batch", "none"] = "batch"  # behind every convolution of trunk and extras
    fuse: Literal["conv1x1", "none"] = "conv1x1"
    fuse_norm: Literal["batch", "none"] = "batch"
    attention_trunk: Literal["self_gate", "none"] = "self_gate"  # SA at base
    attention_heads: Literal["self_gate", "none"] = "self_gate"  # SA at fusion
    gate_pool: Literal[1, 2, 4, 8] = 1  # the down-sample factor D
    interphase: Literal["shared", "grouped", "per_phase"] = "shared"
    gate: Literal["projected", "raw"] = "projected"  # before W_o: as the paper's Fig. 2 draws it
    align: Literal["deform", "none"] = "deform"  # the DC module
    align_groups: int = 4  # 1: one offset for all phases
    # Without attention in the trunk there is no gate, and it is "features" whatever this says
    align_input: Literal["features+gate", "features+stopped_gate", "features"] = "features+gate"
    align_at: Level = "conv4_3"  # the level that alignment follows; its output flows on
    align_conv: Literal["dense", "grouped"] = "dense"  # grouped: as the paper's Fig. 2 draws it
    align_start: Literal["zero", "xavier"] = "zero"  # of the offsets' convolution
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the convolutions; the rest is float32
    grouping: Grouping = "auto"  # how groups are computed
    # loss
    match_threshold: float = 0.5
    neg_ratio: float = 3.0  # hard negatives for each positive
    # decode
    score_threshold: float = 0.01
    iou_threshold: float = 0.45
    nms_candidates: int = 200  # of a class
    max_detections: int = 200

    def check(self) -> None:
        """Refuses groups that are no phases, and a level that this image size has not."""
        if self.phases < 1:
            raise ValueError(f"model.phases wants 1 or more; got {self.phases}")
        if self.channels < 1 or self.channels % self.phases:
            raise ValueError(
                f"model.channels wants a multiple of the {self.phases} phases; got {self.channels}"
            )
        if not 0 < self.width <= 4:
            raise ValueError(f"model.width wants more than 0, at most 4; got {self.width}")
        for name in ("groups",) + (("align_groups",) if self.align != "none" else ()):
            if getattr(self, name) not in (1, self.phases):
                legal = f"1 or {self.phases}" if self.phases > 1 else "1"
                raise ValueError(
                    f"model.{name} wants {legal}, the number of phases; got {getattr(self, name)}"
                )
        there = LEVELS[: len(EXTRAS[self.image_size]) + 2]
        if self.align_at not in there:
            raise ValueError(
                f"model.align_at wants {', '.join(there)} at {self.image_size} px; got "
                f"{self.align_at!r}"
            )
        _check_width(self)


def _check_width(cfg: "Config") -> None:
    """Refuses a width at which layers do not divide into the parts that look at them."""
    attends = {cfg.attention_trunk, cfg.attention_heads} != {"none"}
    apart = cfg.phases if cfg.interphase != "shared" else 1
    level = math.lcm(cfg.groups, 8 * apart if attends else 1)
    if cfg.align != "none":
        level = math.lcm(level, cfg.phases)
    finest = 256  # channels of the smallest level, at width 1
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
    """Raw answers in the reference's order of priors: level, row, column, box; always float32."""

    deltas: Float[Array, "B A 4"]  # encoded offsets from the priors: ops.deltas
    class_logits: Float[Array, "B A K"]  # background first
    priors_cxcywh: Float[Array, "A 4"]  # fractions of the image


class GSSD(nn.Module):
    """Phase-major slices [B, S, S, C] in [0, 1] (or uint8) to Outputs; S is cfg.image_size."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Outputs:
        """`train`: by the statistics of the batch of all replicas; one power iteration."""
        cfg = self.cfg
        _check(x, cfg)
        made = {"norm": cfg.norm, "dtype": jnp.dtype(cfg.dtype), "grouping": cfg.grouping}
        block = functools.partial(scaled, cfg.width, groups=cfg.groups, **made)
        extra = functools.partial(block, start="xavier")

        x = images.to_unit(x).astype(cfg.dtype)
        x = pool.halve(vgg.stage(1, block, x, train=train))
        x = pool.halve(vgg.stage(2, block, x, train=train))
        x = pool.halve(vgg.stage(3, block, x, train=train), ceil=True)
        x = _attend_and_align(cfg, 0, vgg.stage(4, block, x, train=train), train=train)
        levels = [_fused(cfg, 0, L2Norm(name="l2_norm")(x), train=train)]
        x = vgg.stage(5, block, pool.halve(x), train=train)
        x = _attend_and_align(cfg, 1, vgg.top(block, x, train=train), train=train)
        levels.append(_fused(cfg, 1, x, train=train))
        for k, (few, features, kernel, stride, padding) in enumerate(EXTRAS[cfg.image_size], 2):
            x = extra(few, 1, name=f"conv{k + 6}_1")(x, train=train)
            x = extra(features, kernel, stride, padding, name=f"conv{k + 6}_2")(x, train=train)
            x = _attend_and_align(cfg, k, x, train=train)
            levels.append(_fused(cfg, k, x, train=train))

        layout = priors.SSD[cfg.image_size]
        shapes, counts = [level.shape[1:3] for level in levels], priors.boxes_a_cell(layout)
        deltas = [_head(cfg, f"box_{k}", 4 * counts[k], x) for k, x in enumerate(levels)]
        classes = cfg.num_classes + 1
        logits = [_head(cfg, f"class_{k}", classes * counts[k], x) for k, x in enumerate(levels)]
        boxes = jnp.asarray(priors.ssd(shapes, layout))
        return Outputs(_joined(deltas, 4), _joined(logits, classes), boxes)


def _attend_and_align(cfg: Config, k: int, x: Array, *, train: bool) -> Array:
    """What flows on from level k: attended, and aligned if it is the level that alignment follows.

    The gate beside the features says where something is: it leads the offsets (Lee 2021, Fig. 2).
    """
    x, found = _attention(cfg, cfg.attention_trunk, f"attend_{k}")(x, train=train)
    word = cfg.align if LEVELS[k] == cfg.align_at else "none"
    return ALIGN[word](
        phases=cfg.phases,
        guide=cfg.align_input,
        offset_groups=cfg.align_groups,
        weight_groups=cfg.phases if cfg.align_conv == "grouped" else 1,
        offset_start=cfg.align_start,
        dtype=jnp.dtype(cfg.dtype),
        name=f"align_{k}",
    )(x, found)


def _fused(cfg: Config, k: int, x: Array, *, train: bool) -> Array:
    """What the heads of level k see: attended on a branch of its own, then phases fused."""
    x, _ = _attention(cfg, cfg.attention_heads, f"look_{k}")(x, train=train)
    made = {"norm": cfg.fuse_norm, "dtype": jnp.dtype(cfg.dtype)}
    return FUSE[cfg.fuse](**made, name=f"fuse_{k}")(x, train=train)


def _attention(cfg: Config, word: str, name: str) -> nn.Module:
    return gate.GATE[word](
        pool=cfg.gate_pool,
        phases=cfg.phases,
        interphase=cfg.interphase,
        told=cfg.gate,
        dtype=jnp.dtype(cfg.dtype),
        grouping=cfg.grouping,
        name=name,
    )


def _head(cfg: Config, name: str, features: int, x: Array) -> Array:
    return Conv(features, 3, dtype=jnp.dtype(cfg.dtype), start="xavier", name=name)(x)


def _joined(levels: list[Array], last: int) -> Array:
    """Levels [B, H, W, boxes * last] one behind the other, [B, A, last], float32."""
    flat = [x.reshape(x.shape[0], -1, last) for x in levels]
    return jnp.concatenate(flat, 1).astype(jnp.float32)


def _check(x: Array, cfg: Config) -> None:
    wanted = (cfg.image_size, cfg.image_size, cfg.channels)
    if x.ndim != 4 or x.shape[1:] != wanted:
        raise ValueError(
            f"this model wants images [B, {', '.join(map(str, wanted))}], for which its priors are "
            f"made; got {list(x.shape)}. Set data.image_size to {cfg.image_size} (or "
            f"model.image_size, 300 or 512, to the data's) and model.channels to the data's "
            "channels: a number of slices for each of its phases"
        )


def loss(out: Outputs, batch: Batch, *, cfg: Config) -> dict[str, Array]:
    """Smooth L1 of boxes "box", cross-entropy with hard negatives "class", their sum "total"."""
    return multibox(
        out.deltas,
        out.class_logits,
        out.priors_cxcywh,
        batch.boxes_xyxy / cfg.image_size,
        batch.labels,
        neg_ratio=cfg.neg_ratio,
        threshold=cfg.match_threshold,
    )


def decode(out: Outputs, *, cfg: Config) -> Detections:
    """The surest boxes that overlap no surer one, in px; they may leave the image, as SSD's do."""
    one_image = functools.partial(
        detect.ssd,
        priors_cxcywh=out.priors_cxcywh,
        image_size=cfg.image_size,
        score_threshold=cfg.score_threshold,
        iou_threshold=cfg.iou_threshold,
        candidates=cfg.nms_candidates,
        max_detections=cfg.max_detections,
    )
    return jax.vmap(one_image)(out.class_logits, out.deltas)


def aligned(cfg: Config) -> tuple[int, float, float]:
    """Number of the level that alignment follows, and where its places lie in the image, in px.

    The middle of the first place, and the step to the next: by the geometry of pooling and
    convolutions (8 px for conv4_3), not by dividing sides: 300 / 38 is not 8, as the last place
    reaches beyond the image.
    """
    level = LEVELS.index(cfg.align_at)
    start, step = (4.0, 8.0) if level == 0 else (8.0, 16.0)
    for _, _, kernel, stride, padding in EXTRAS[cfg.image_size][: max(level - 1, 0)]:
        start, step = start + step * ((kernel - 1) / 2 - padding), step * stride
    return level, start, step


def build(cfg: Config) -> Detector:
    """The Detector of a Config."""
    bind = functools.partial
    return Detector(GSSD(cfg), bind(loss, cfg=cfg), bind(decode, cfg=cfg))
