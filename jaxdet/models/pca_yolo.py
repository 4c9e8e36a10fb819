"""PCA-YOLO: where a Siamese network finds a patch to be like a tumour, YOLOv8 looks harder.

Patch-based comparison attention, MIDL 2025 (PMLR 301:994-1007).

    slice -> m x m patches -> Siamese(patch, slice) -> scores y -> g(y) c -> stitched map Y'
    [slice, ..., Y'] -> YOLOv8

The module is YOLOv8 on the augmented slice; `augmented` makes one, and `detect_raw` is both stages
in one program. What the paper leaves open is a field of Config, its default the likelier reading.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Float

from jaxdet.config import Train, config
from jaxdet.models import siamese, yolov8
from jaxdet.models.detector import Detector
from jaxdet.models.siamese import Config as SiameseConfig
from jaxdet.ops import images, patches
from jaxdet.types import Array, Detections

RAW_CHANNELS = 1  # of the slices that come in: one grey value
PREDICT = yolov8.PREDICT
Outputs, loss, decode = yolov8.Outputs, yolov8.loss, yolov8.decode

# The paper's: Adam at 1e-4, 16 pairs, 200 epochs, patience 50. Neither a schedule, nor a clip of
# gradients, nor a moving average is mentioned; the L2 term is in the loss.
SIAMESE_TRAIN = Train(
    epochs=200,
    batch_size=16,
    nominal_batch=16,
    optimizer="adam",
    lr=1e-4,
    final_lr=1.0,
    momentum=0.9,
    weight_decay=0.0,
    warmup_epochs=0.0,
    clip_norm=1e9,
    ema_decay=0.0,
    patience=50,
)


@config
class Config(yolov8.Config):
    """YOLOv8's fields with the paper's size, and how the map is made. m is siamese.patches.side."""

    size: Literal["n", "s", "m", "l", "x"] = "x"
    num_classes: int = 1
    # Of the augmented slice: the grey value so often less one, then the map. 4 is the paper's RGB
    # pipeline with "an additional channel"; 3 is grey, grey, map, which fits COCO weights as it is
    channels: Literal[2, 3, 4] = 4
    normalise: Literal["minmax", "none"] = "minmax"  # g; "none" is Table 2's "w/o g"
    attention_from: Literal["scores", "cam"] = "scores"  # cam: Table 2's Grad-CAM of the patches
    cam_norm: Literal["slice", "patch"] = "slice"  # over what a CAM (no scores) is normalised
    c: float = 255.0  # weight of the map in grey levels of 255
    quantize_uint8: bool = False  # whole grey levels, as of maps that were kept as PNG
    map_pad: float = 0.0  # of the map where mosaic, affine, perspective (and letterbox) pad
    fit: Literal["in_fold", "cross_fit"] = "in_fold"  # cross_fit: no training map by who saw it
    cross_folds: int = 4
    siamese: SiameseConfig = SiameseConfig()
    siamese_train: Train = SIAMESE_TRAIN
    # A Siamese RUN of the same split to take instead of training one; {fold} is data.fold.
    siamese_from: str = ""

    def check(self) -> None:
        """Refuses pairs and numbers that mean nothing."""
        super().check()
        if not 0 < self.c <= 255:
            raise ValueError(f"Config.c wants more than 0, at most 255 grey levels; got {self.c}")
        if not 0 <= self.map_pad <= 1:
            raise ValueError(f"Config.map_pad wants 0 to 1; got {self.map_pad}")
        if self.cross_folds < 2:
            raise ValueError(f"Config.cross_folds wants 2 or more; got {self.cross_folds}")
        if self.attention_from == "cam" and self.normalise == "none":
            raise ValueError(
                'a CAM has no range of its own: attention_from="cam" wants normalise="minmax"'
            )
        if self.attention_from == "scores" and self.cam_norm == "patch":
            raise ValueError(
                'a patch has one score, which cannot be normalised over it: cam_norm="patch" wants'
                ' attention_from="cam"'
            )
        if self.siamese.channels != RAW_CHANNELS:
            raise ValueError(
                f"Config.siamese.channels wants {RAW_CHANNELS}, the grey slice; got"
                f" {self.siamese.channels}"
            )
        if self.siamese_from and self.fit == "cross_fit":
            raise ValueError(
                'fit="cross_fit" trains networks of its own, so siamese_from has no meaning'
            )


def build(cfg: Config) -> Detector:
    """YOLOv8 on augmented slices [B, S, S, cfg.channels]; its loss and its decode."""
    return yolov8.build(cfg)


def attention(
    cfg: Config, variables: Any, slices: Float[Array, "B S S 1"]
) -> Float[Array, "B n"] | Float[Array, "B S S"]:
    """What the Siamese says, not normalised: probabilities of the n patches, or a stitched CAM."""
    answers = {"scores": siamese.score, "cam": siamese.cam}
    return answers[cfg.attention_from](cfg.siamese, variables, slices)


def weighted(cfg: Config, said: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """g(y) c / 255 of `attention`'s answer, of its shape, in [0, 1] (Eq. 1 and 2).

    g is the min-max over the slice: some patch of every slice has 1, also where there is no tumour.
    Where all values are equal it is 0: no attention. In the paper the map is g c on grey values of
    0 to 255, and YOLOv8 divides both by 255.
    """
    tiles = cfg.attention_from == "cam" and cfg.cam_norm == "patch"
    part = patches.crop(said[..., None], cfg.siamese.patches.side) if tiles else said
    if cfg.normalise == "minmax":
        flat = part.reshape(-1, *part.shape[2:]) if tiles else part
        part = patches.minmax(flat).reshape(part.shape)
    values = patches.stitch(part)[..., 0] if tiles else part
    values = values * (cfg.c / 255.0)
    return jnp.round(values * 255.0) / 255.0 if cfg.quantize_uint8 else values


def attention_map(
    cfg: Config, variables: Any, slices: Float[Array, "B S S 1"]
) -> Float[Array, "B S S 1"]:
    """The map Y' of raw slices in [0, 1], of the same sides, in [0, 1]; `variables`: Siamese's."""
    values = weighted(cfg, attention(cfg, variables, slices))
    if values.ndim == 2:
        values = patches.spread(values, cfg.siamese.patches.side)
    return values[..., None]


def augmented(
    cfg: Config, slices: Float[Array, "B S S 1"], maps: Float[Array, "B S S 1"]
) -> Float[Array, "B S S C"]:
    """X' of Eq. 2: the grey slice cfg.channels - 1 times, then the map."""
    return jnp.concatenate([*[slices] * (cfg.channels - 1), maps], axis=-1)


def detect_raw(cfg: Config) -> Callable[[Any, Array], Detections]:
    """Both stages: ({"detector", "siamese"}, raw slices [B, S, S, 1]) -> Detections.

    Slices are uint8, or floats in [0, 1]; HU or other ranges are not noticed here, for values are
    not known under jit: the data room windows them.
    ValueError for slices of another number of channels or with a side that m does not divide.
    """
    detector = build(cfg)

    def detect(variables: Any, slices: Array) -> Detections:
        if slices.ndim != 4 or slices.shape[-1] != RAW_CHANNELS:
            raise ValueError(
                f"PCA-YOLO wants raw slices [B, S, S, {RAW_CHANNELS}]; got {slices.shape}. It makes"
                " the map and the other channels itself"
            )
        slices = images.to_unit(slices)
        maps = attention_map(cfg, variables["siamese"], slices)
        return detector.detect(variables["detector"], augmented(cfg, slices, maps))

    return detect
