"""YOLOv8: an anchor-free one-stage detector (Jocher 2023; facts from the classic ultralytics 8.2).

image -> backbone (strides 8, 16, 32) -> neck (down and up again) -> head, two branches a level

The rivals of PCA-YOLO put attention after the stages that give the three levels, in the backbone or
in the neck (Table 1 of its paper, which does not say where; facts). Whatever follows such a stage
reads what the attention gives: the next stage too, not the neck alone.
"""

import functools
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxdet.config import config
from jaxdet.losses.bce import bce
from jaxdet.losses.dfl import dfl, expectation
from jaxdet.models.detector import Detector
from jaxdet.nn.attention import ATTENTION
from jaxdet.nn.conv import ConvNorm, torch_default
from jaxdet.nn.csp import SPPF, C2f, upsample2
from jaxdet.ops import anchors, assign, images, nms, overlap, replicas
from jaxdet.types import Array, Batch, Detections

STRIDES = (8, 16, 32)
BINS = 16
MULTIPLE = STRIDES[-1]  # px that both sides of an image must be a multiple of
# Config fields of the classic predict mode, where evaluation wants every class of an anchor.
PREDICT = {"multi_label": False}
# depth factor, width factor, most channels before the width factor
SCALES = {
    "n": (0.33, 0.25, 1024),
    "s": (0.33, 0.50, 1024),
    "m": (0.67, 0.75, 768),
    "l": (1.00, 1.00, 512),
    "x": (1.00, 1.25, 512),
}
# The stages that give the three levels, the finest first: C2f 4 and 6 and SPPF 9, or C2f 15, 18, 21
SITES = {"backbone": ("stage3", "stage4", "sppf"), "neck": ("top3", "bottom4", "bottom5")}
# How many of them have attention, from the deepest up: self-attention is for few places.
REACH = {"none": 3, "channel": 3, "self": 1, "mtnet": 3}


@config
class Config:
    """Defaults are the classic YOLOv8 (ultralytics 8.2); what changed later has a name here."""

    size: Literal["n", "s", "m", "l", "x"] = "n"
    channels: int = 3
    num_classes: int = 80
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the convolutions; the rest is float32
    box_bias: float = 1.0  # start of the box logits; 2.0 since ultralytics 8.4
    attention: Literal["none", "channel", "self", "mtnet"] = "none"  # self: deepest level alone
    attention_at: Literal["backbone", "neck"] = "backbone"
    attention_position: Literal["none", "sincos"] = "none"  # of "self" only
    # loss
    box_gain: float = 7.5
    class_gain: float = 0.5
    dfl_gain: float = 1.5
    assign_top_k: int = 10
    assign_alpha: float = 0.5
    assign_beta: float = 6.0
    small_boxes: Literal["classic", "widened"] = "classic"  # widened: sides to 16 px, since 8.4
    # decode
    score_threshold: float = 0.001
    iou_threshold: float = 0.7
    max_detections: int = 300
    nms_candidates: int = 3000  # most probable pairs that enter suppression; the reference: 30000
    multi_label: bool = True  # one anchor may answer with several classes
    per_class_nms: bool = True

    def check(self) -> None:
        """ValueError for positions where nothing attends by place."""
        if self.attention_position != "none" and self.attention != "self":
            raise ValueError(
                f"model.attention_position={self.attention_position!r} is for "
                f"model.attention='self'; got {self.attention!r}. Set one of them back"
            )


class Outputs(NamedTuple):
    """Raw answers, anchors of stride 8, then 16, then 32, each level row-major; always float32."""

    box_logits: Float[Array, "B A 64"]  # left, top, right, bottom; 16 distances in cells each
    class_logits: Float[Array, "B A K"]
    centres_px: Float[Array, "A 2"]
    strides_px: Float[Array, "A"]


class YOLOv8(nn.Module):
    """Images [B, H, W, C] in [0, 1] (or uint8) to Outputs; H and W are multiples of 32."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Outputs:
        """`train`: by the statistics of the batch of all replicas, which update the kept ones."""
        cfg = self.cfg
        _check(x, cfg)
        x = images.to_unit(x).astype(cfg.dtype)
        c3, c4, c5 = Backbone(cfg, name="backbone")(x, train=train)
        levels = Neck(cfg, name="neck")(c3, c4, c5, train=train)
        boxes, classes = Head(cfg, name="head")(levels, train=train)
        centres, strides = anchors.grid([level.shape[1:3] for level in levels], STRIDES)
        return Outputs(boxes, classes, jnp.asarray(centres), jnp.asarray(strides))


class Backbone(nn.Module):
    """Five halvings; gives the features at strides 8, 16 and 32."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array, Array]:
        """Images [B, H, W, C] in [0, 1] to three levels, the finest first."""
        dtype = jnp.dtype(self.cfg.dtype)
        width, depth = functools.partial(_width, self.cfg), functools.partial(_depth, self.cfg)
        x = ConvNorm(width(64), 3, 2, dtype, name="stem")(x, train=train)
        levels = []
        plan = [(2, 128, 3), (3, 256, 6), (4, 512, 6), (5, 1024, 3)]
        for i, features, blocks in plan:
            x = ConvNorm(width(features), 3, 2, dtype, name=f"down{i}")(x, train=train)
            stage = C2f(width(features), depth(blocks), True, dtype, name=f"stage{i}")
            x = stage(x, train=train)
            x = _attend(self.cfg, f"stage{i}", x, train=train)
            levels.append(x)
        c5 = SPPF(width(1024), dtype, name="sppf")(x, train=train)
        return levels[1], levels[2], _attend(self.cfg, "sppf", c5, train=train)


class Neck(nn.Module):
    """A path aggregation network: context goes down to the fine levels, then detail up again."""

    cfg: Config

    @nn.compact
    def __call__(self, c3: Array, c4: Array, c5: Array, *, train: bool) -> list[Array]:
        """The backbone's three levels to three of the same sides, the finest first."""
        dtype = jnp.dtype(self.cfg.dtype)

        def c2f(features: int, name: str, *inputs: Array) -> Array:
            stage = C2f(_width(self.cfg, features), _depth(self.cfg, 3), False, dtype, name=name)
            x = stage(jnp.concatenate(inputs, axis=-1), train=train)
            return _attend(self.cfg, name, x, train=train)

        def down(features: int, name: str, x: Array) -> Array:
            return ConvNorm(_width(self.cfg, features), 3, 2, dtype, name=name)(x, train=train)

        top4 = c2f(512, "top4", upsample2(c5), c4)
        p3 = c2f(256, "top3", upsample2(top4), c3)
        p4 = c2f(512, "bottom4", down(256, "down4", p3), top4)
        p5 = c2f(1024, "bottom5", down(512, "down5", p4), c5)
        return [p3, p4, p5]


class Head(nn.Module):
    """A box and a class branch a level, joined over the levels, [B, A, 64] and [B, A, K]."""

    cfg: Config

    @nn.compact
    def __call__(self, levels: list[Array], *, train: bool) -> tuple[Array, Array]:
        """The neck's levels to box and class logits of all anchors, float32."""
        cfg = self.cfg
        finest = levels[0].shape[-1]
        box_width = max(16, finest // 4, 4 * BINS)
        class_width = max(finest, min(cfg.num_classes, 100))
        boxes, classes = [], []
        for i, (x, stride) in enumerate(zip(levels, STRIDES, strict=True)):
            # The prior of a class at the start: five objects on a 640 px image, at any image size.
            prior = float(np.log(5 / cfg.num_classes / (640 / stride) ** 2))
            box = Branch(box_width, 4 * BINS, cfg.box_bias, cfg.dtype, name=f"box_{i}")
            cls = Branch(class_width, cfg.num_classes, prior, cfg.dtype, name=f"class_{i}")
            boxes.append(box(x, train=train).reshape(x.shape[0], -1, 4 * BINS))
            classes.append(cls(x, train=train).reshape(x.shape[0], -1, cfg.num_classes))
        joined = jnp.concatenate(boxes, axis=1), jnp.concatenate(classes, axis=1)
        return joined[0].astype(jnp.float32), joined[1].astype(jnp.float32)


class Branch(nn.Module):
    """Two 3x3 convolutions and a 1x1 one with a bias that starts at a known value."""

    width: int
    outputs: int
    bias: float
    dtype: str

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """One level [B, H, W, F] to [B, H, W, outputs]."""
        dtype = jnp.dtype(self.dtype)
        x = ConvNorm(self.width, 3, dtype=dtype, name="conv1")(x, train=train)
        x = ConvNorm(self.width, 3, dtype=dtype, name="conv2")(x, train=train)
        start = nn.initializers.constant(self.bias)
        out = nn.Conv(
            self.outputs,
            (1, 1),
            dtype=dtype,
            kernel_init=torch_default,
            bias_init=start,
            name="out",
        )
        return out(x)


def loss(out: Outputs, batch: Batch, *, cfg: Config) -> dict[str, Array]:
    """Box (CIoU), class (BCE) and distribution (DFL) losses, each with its gain, and their total.

    All three are divided by the sum of the soft labels over the whole batch of all replicas (at
    least 1); "total" is their sum times the number of images, as in the reference. A batch without
    boxes has box and dfl exactly 0. On a replica the values are its share times the number of
    replicas, so that their mean over the replicas is the value of the whole batch.
    """
    strides = out.strides_px[:, None]
    sides = expectation(out.box_logits, BINS)
    # The classic loss measures boxes in cells, where its small constants act (facts, 2.5).
    centres = out.centres_px / strides
    boxes = jnp.concatenate([centres - sides[..., :2], centres + sides[..., 2:]], axis=-1)
    told = jax.vmap(
        functools.partial(
            assign.task_aligned,
            top_k=cfg.assign_top_k,
            alpha=cfg.assign_alpha,
            beta=cfg.assign_beta,
            smallest_px=16.0 if cfg.small_boxes == "widened" else 0.0,
        ),
        in_axes=(0, 0, None, 0, 0),
    )(
        boxes * strides,
        jax.nn.sigmoid(out.class_logits),
        out.centres_px,
        batch.boxes_xyxy,
        batch.labels,
    )
    truth = jnp.take_along_axis(batch.boxes_xyxy, told.truth[..., None], axis=1) / strides
    label = jnp.take_along_axis(batch.labels, told.truth, axis=1)
    weight = jnp.where(told.foreground, told.score, 0.0)
    soft_label = jax.nn.one_hot(label, cfg.num_classes) * weight[..., None]
    # A background anchor's truth is a row it does not own: its weight of 0 keeps it out.
    true_sides = jnp.concatenate([centres - truth[..., :2], truth[..., 2:] - centres], axis=-1)

    norm = jnp.maximum(replicas.mean(weight.sum()) * replicas.count(), 1.0) / replicas.count()
    box = ((1.0 - overlap.ciou(boxes, truth)) * weight).sum() / norm
    cls = bce(out.class_logits, soft_label).sum() / norm
    distribution = (dfl(out.box_logits, true_sides, BINS) * weight).sum() / norm
    parts = {
        "box": cfg.box_gain * box,
        "cls": cfg.class_gain * cls,
        "dfl": cfg.dfl_gain * distribution,
    }
    images_in_step = batch.labels.shape[0] * replicas.count()
    return {**parts, "total": sum(parts.values()) * images_in_step}


def boxes_and_probs(out: Outputs) -> tuple[Float[Array, "B A 4"], Float[Array, "B A K"]]:
    """Every anchor's box in px (xyxy, not clipped) and class probabilities."""
    sides_px = expectation(out.box_logits, BINS) * out.strides_px[:, None]
    low, high = out.centres_px - sides_px[..., :2], out.centres_px + sides_px[..., 2:]
    return jnp.concatenate([low, high], axis=-1), jax.nn.sigmoid(out.class_logits)


def decode(out: Outputs, *, cfg: Config) -> Detections:
    """The best boxes after suppression, [B, max_detections]; scores at the threshold are dropped.

    Departs: suppression compares labels instead of shifting boxes by 7680 px a class, whose float32
    rounding reaches 0.06 px at class 79; and `nms_candidates` bounds what enters it.
    """

    def one(boxes: Array, probs: Array) -> Detections:
        scores, where, labels = nms.candidates(
            probs, limit=cfg.nms_candidates, multi_label=cfg.multi_label
        )
        scores = jnp.where(scores > cfg.score_threshold, scores, 0.0)
        return nms.greedy(
            boxes[where],
            scores,
            labels,
            iou_threshold=cfg.iou_threshold,
            max_detections=cfg.max_detections,
            per_class=cfg.per_class_nms,
        )

    return jax.vmap(one)(*boxes_and_probs(out))


def build(cfg: Config) -> Detector:
    """The module, its loss and its decode for one Config."""
    bind = functools.partial
    return Detector(YOLOv8(cfg), bind(loss, cfg=cfg), bind(decode, cfg=cfg))


def _width(cfg: Config, features: int) -> int:
    _, factor, most = SCALES[cfg.size]
    return int(np.ceil(min(features, most) * factor / 8)) * 8


def _depth(cfg: Config, blocks: int) -> int:
    return max(round(blocks * SCALES[cfg.size][0]), 1)


def _attend(cfg: Config, stage: str, x: Array, *, train: bool) -> Array:
    """The attention that follows a stage: `cfg.attention` at its sites, "none" at other stages."""
    sites = SITES[cfg.attention_at][-REACH[cfg.attention] :]
    word = dict.fromkeys(sites, cfg.attention).get(stage, "none")
    part = ATTENTION[word](jnp.dtype(cfg.dtype), cfg.attention_position, name=f"{stage}_attention")
    return part(x, train=train)


def _check(x: Array, cfg: Config) -> None:
    if x.ndim != 4 or x.shape[-1] != cfg.channels:
        raise ValueError(
            f"YOLOv8 with model.channels={cfg.channels} wants images [B, H, W, {cfg.channels}]; "
            f"got {x.shape}. Set model.channels and data.channels alike"
        )
    if x.shape[1] % MULTIPLE or x.shape[2] % MULTIPLE:
        legal = [int(np.ceil(side / MULTIPLE)) * MULTIPLE for side in x.shape[1:3]]
        raise ValueError(
            f"YOLOv8 wants sides that are multiples of 32; got {x.shape[1]}x{x.shape[2]}, "
            f"the next are {legal[0]}x{legal[1]}"
        )
