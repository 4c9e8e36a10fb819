"""What an experiment is: frozen dataclasses, from a Python file, overridden on the command line.

Every field is checked when it is set: an unknown name is refused with the nearest known one, a
value outside its Literal with the words that are allowed. A finished config writes itself as JSON
and back.
"""

import dataclasses
import difflib
import functools
import math
import types
import typing
from typing import Any, Generic, Literal, TypeVar, Union, dataclass_transform

M = TypeVar("M")
Protocol = Literal["coco", "voc", "voc07", "yolo", "l0sg", "l0sg07", "fixed"]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type) -> type:
    """A frozen, keyword-only dataclass that names unknown fields and checks every value."""
    cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    plain_init = cls.__init__
    fields = {f.name for f in dataclasses.fields(cls)}

    @functools.wraps(plain_init)
    def checked_init(self, **values):
        for name in values.keys() - fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(fields))}"
            raise ValueError(f"{cls.__qualname__} has no field {name!r}: {hint}")
        plain_init(self, **values)
        for name, wanted in typing.get_type_hints(cls).items():
            if name in fields and not _fits(getattr(self, name), wanted):
                got = getattr(self, name)
                raise ValueError(f"{cls.__qualname__}.{name} wants {_words(wanted)}; got {got!r}")
        check = getattr(self, "check", None)
        if check is not None:
            check()

    cls.__init__ = checked_init
    return cls


def _fits(value: Any, wanted: Any) -> bool:
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any or isinstance(wanted, TypeVar):
        return True
    if origin is Literal:
        return any(value == a and type(value) is type(a) for a in args)
    if origin in (Union, types.UnionType):
        return any(_fits(value, a) for a in args)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(_fits(v, args[0]) for v in value)
        return len(value) == len(args) and all(map(_fits, value, args))
    if wanted is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or wanted)


def _words(wanted: Any) -> str:
    if typing.get_origin(wanted) is Literal:
        return "one of " + ", ".join(repr(a) for a in typing.get_args(wanted))
    if typing.get_origin(wanted) in (Union, types.UnionType):
        return " or ".join(_words(a) for a in typing.get_args(wanted))
    return getattr(wanted, "__name__", str(wanted)) if not typing.get_args(wanted) else str(wanted)


def _at_least(cfg: Any, least: int, *names: str) -> None:
    for name in names:
        if not getattr(cfg, name) >= least:  # NaN fails too
            kind, got = type(cfg).__qualname__, getattr(cfg, name)
            raise ValueError(f"{kind}.{name} wants {least} or more; got {got}")


def _above_zero(cfg: Any, *names: str) -> None:
    for name in names:
        if not getattr(cfg, name) > 0:
            kind, got = type(cfg).__qualname__, getattr(cfg, name)
            raise ValueError(f"{kind}.{name} wants more than 0; got {got}")


@config
class Augment:
    """What happens to a training image. Probabilities and ranges; the defaults are YOLOv8's own."""

    mosaic: float = 1.0  # probability of joining four images on one canvas
    mixup: float = 0.0  # probability of blending a second sample in, Beta(32, 32)
    degrees: float = 0.0  # rotation, +- degrees
    translate: float = 0.1  # shift, +- fraction of the side
    scale: float = 0.5  # size, times 1 +- scale
    shear: float = 0.0  # +- degrees
    perspective: float = 0.0  # +- perspective terms of the matrix, 0 to 0.001
    hsv_h: float = 0.015  # hue, +- fraction; colour images only
    hsv_s: float = 0.7  # saturation, +- fraction
    hsv_v: float = 0.4  # value, +- fraction
    flip_lr: float = 0.5  # probability
    flip_ud: float = 0.0  # probability
    close_mosaic: int = 10  # last epochs without mosaic and mixup

    def check(self) -> None:
        """Refuses what cannot be drawn from."""
        for name in ("mosaic", "mixup", "flip_lr", "flip_ud"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Augment.{name} is a probability; got {getattr(self, name)}")
        if not 0 <= self.scale < 1:
            raise ValueError(f"Augment.scale wants 0 <= scale < 1; got {self.scale}")


@config
class SSDAugment:
    """What happens to a training image of the SSD family (Liu 2016), as GSSD's own code has it.

    The same move and the same draw for all channels: phases and neighbours stay together.
    """

    # official: brightness and contrast before the picture is brought to its range, which undoes
    # them all but for the border of the expansion; effective: last, and clipped to the range, as
    # the paper means it
    photometric: Literal["official", "effective", "none"] = "effective"
    brightness: float = 32 / 255  # +- fraction of the range, half of the time
    contrast: tuple[float, float] = (0.5, 1.5)  # factor, half of the time
    expand: float = 1.5  # the picture lies on a canvas of up to so many times its sides; 1: never
    expand_probability: float = 1.0  # Liu 2016: 0.5, with a ratio up to 4
    # official: all five crops of SSD are free ones, as their condition never holds; iou: each
    # crop reaches its IoU of .1, .3, .7 or .9 with every box it keeps, or any
    crop: Literal["official", "iou", "none"] = "official"
    mirror: float = 0.5  # probability, left to right
    jitter: float = 0.0  # of each box coordinate, +- fraction of the side; the code's default: .01

    def check(self) -> None:
        """Refuses what cannot be drawn from."""
        for name in ("expand_probability", "mirror"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"SSDAugment.{name} is a probability; got {getattr(self, name)}")
        _at_least(self, 1, "expand")
        _at_least(self, 0, "brightness", "jitter")
        if not 0 < self.contrast[0] <= self.contrast[1]:
            raise ValueError(f"SSDAugment.contrast wants 0 < low <= high; got {self.contrast}")


@config
class Data:
    """Where the images come from, how they are read and split."""

    source: Literal["phantom", "coco", "yolo", "voc", "csv", "tfds"] = "phantom"
    path: str = ""  # COCO, VOC: the folder; YOLO: data.yaml; CSV: the file; tfds: where sets lie
    builder: str = ""  # of source="tfds": the prepared set, such as "phantom_sltd/tiny"
    phases: tuple[str, ...] = ()  # of source="tfds": the channels in this order; empty: as stored
    image_size: int = 640  # px, the square that enters the model
    channels: int = 3
    classes: tuple[str, ...] = ()  # empty: as the source says
    window_hu: tuple[float, float] | None = None  # (low, high) to [0, 1]; for CT and 16-bit images
    pad: tuple[float, ...] = (114 / 255,)  # fractions of the range: one, or one a channel
    maps: int = 0  # so many of the last channels are maps, no picture: colours leave them alone
    max_boxes: int = 100  # an image with more is an error
    faulty_boxes: Literal["error", "clip", "drop"] = "error"  # outside, inverted or degenerate ones
    # given: its own lists; patient: drawn by patient; official: GSSD++'s; fold: cross-validation's
    split: Literal["given", "patient", "official", "fold"] = "given"
    patient_pattern: str = ""  # regular expression on the file's path; group 1 is the patient
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)  # train, val, test of split="patient"
    split_seed: int = 0  # of split="patient" and "fold"
    folds: int = 5  # of split="fold": patients fall into so many, equal in boxes
    fold: int = 0  # the one that is tested, 0 to folds - 1
    # of split="fold": what is dealt. slice: images, so that one patient's may be on both sides; it
    # is there to show how much such a leaky split flatters (facts, pca_yolo 1)
    split_unit: Literal["patient", "slice"] = "patient"
    selection: Literal["nested", "test_fold"] = "nested"  # val: patients held out; or the tested
    val_share: float = 0.125  # of selection="nested": val's share of the boxes not tested
    cache: Literal["none", "ram"] = "none"  # keep decoded images in memory
    threads: int = 2  # reading threads
    pipeline: Literal["yolo", "ssd"] = "yolo"  # how training images are augmented
    ssd: SSDAugment = SSDAugment()  # of pipeline="ssd"; `augment` is that of "yolo"
    lesions: bool = False  # lesion masks come with the boxes, for losses that are made from masks
    # official: as GSSD's own code has it, in training and evaluation: 8 bits, Pillow's resizing,
    # minus `official_mean`, min-max over all channels; clean: float, none of these
    input: Literal["clean", "official"] = "clean"
    official_mean: float = 49 / 255  # of input="official": subtracted; also the canvas of expand
    # Pillow's own filter of input="official": bicubic since Pillow 7, nearest before
    official_filter: Literal["bicubic", "nearest"] = "bicubic"
    phantom_patients: int = 60  # of source="phantom"
    phantom_slices: int = 4  # a patient
    seed: int = 0  # of the phantom
    augment: Augment = Augment()

    def check(self) -> None:
        """Refuses sizes, shares and windows that mean nothing."""
        _at_least(self, 1, "image_size", "channels", "max_boxes")
        _at_least(self, 0, "threads", "seed", "split_seed")
        _at_least(self, 2, "folds")
        if not 0 <= self.fold < self.folds:
            raise ValueError(
                f"Data.fold wants 0 to {self.folds - 1}, as folds says; got {self.fold}"
            )
        if not 0 < self.val_share < 1:
            raise ValueError(f"Data.val_share is a share between 0 and 1; got {self.val_share}")
        if self.window_hu is not None and not self.window_hu[0] < self.window_hu[1]:
            raise ValueError(f"Data.window_hu wants (low, high), low < high; got {self.window_hu}")
        if min(self.fractions) < 0 or not sum(self.fractions) > 0:
            raise ValueError(f"Data.fractions wants shares >= 0, one > 0; got {self.fractions}")
        if not 0 <= self.maps < self.channels:
            raise ValueError(
                f"Data.maps wants 0 to {self.channels - 1}, fewer than channels; got {self.maps}"
            )
        if self.input == "official" and self.pipeline != "ssd":
            raise ValueError(
                'Data.input="official" is of the SSD family\'s pipeline: set data.pipeline="ssd"'
            )
        if self.lesions and self.pipeline != "ssd":
            raise ValueError(
                "Data.lesions: masks go through the SSD family's pipeline only: set"
                ' data.pipeline="ssd", or data.lesions=False'
            )
        if self.lesions and self.source != "tfds":
            raise ValueError(
                f"Data.lesions wants masks, and source={self.source!r} has only boxes: set"
                ' data.source="tfds" and data.builder, a set made by `jaxdet data make`, or'
                " data.lesions=False"
            )
        if len(self.pad) not in (1, self.channels):
            raise ValueError(
                f"Data.pad wants one value or {self.channels}, one a channel; got {len(self.pad)}"
            )


@config
class Patches:
    """How a slice is cut into patches for the Siamese network, labelled and jittered (PCA-YOLO)."""

    side: int = 64  # px; the paper's m: 64, 128 or 256
    # When a patch holds a tumour. any: a box shares min_overlap_px px^2 or more with it; centre: a
    # box's centre lies in it; box_share, patch_share: min_share of the box's, of the patch's area
    label: Literal["any", "centre", "box_share", "patch_share"] = "any"
    min_overlap_px: float = 1.0  # px^2; 0: any part of a pixel
    min_share: float = 0.5
    # append: jittered copies of these shares of the patches beside them; online: so many of the
    # patches themselves are jittered. The paper's "100 % of the positive, 20 % of the negative"
    jitter_mode: Literal["append", "online"] = "append"
    jitter_positive: float = 1.0
    jitter_negative: float = 0.2
    jitter_scale: tuple[float, float] = (0.8, 1.25)  # Ghiasi 2021: standard scale jittering
    jitter_flip: float = 0.5  # probability, left to right
    jitter_pad: Literal["mean", "zero", "edge", "reflect"] = "mean"  # around a patch that shrank
    negative_share: float = 1.0  # of a slice's negatives that an epoch visits; the paper: all

    def check(self) -> None:
        """Refuses shares and scales that mean nothing."""
        _above_zero(self, "side")
        if not 0 <= self.min_overlap_px < math.inf:
            raise ValueError(
                f"Patches.min_overlap_px wants 0 or more, finite; got {self.min_overlap_px}"
            )
        for name in ("jitter_positive", "jitter_negative", "jitter_flip", "negative_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Patches.{name} is a share; got {getattr(self, name)}")
        if not 0 < self.min_share <= 1:
            got = self.min_share
            raise ValueError(f"Patches.min_share wants more than 0, at most 1; got {got}")
        if not 0 < self.jitter_scale[0] <= self.jitter_scale[1] <= 10:
            raise ValueError(
                f"Patches.jitter_scale wants 0 < low <= high <= 10; got {self.jitter_scale}"
            )


def check_side(image_side: int, m: int, multiple: int = 1) -> None:
    """ValueError, naming the nearest legal image sides, unless patches of m px tile the image.

    With `multiple` the side must be a multiple of that as well, as a detector's strides want it.
    """
    if min(m, multiple) < 1:
        raise ValueError(f"patches and strides want sides of 1 px or more; got {m} and {multiple}")
    step = math.lcm(m, multiple)
    if image_side >= step and image_side % step == 0:
        return
    below = max(image_side // step * step, step)
    strides = f" and strides of {multiple} px" if multiple > 1 else ""
    other = f", or the patches' side to a divisor of {image_side}"
    raise ValueError(
        f"an image side of {image_side} px does not divide into patches of {m} px{strides}: the"
        f" nearest legal sides are {below} and {below + step}. Set data.image_size to one of them"
        + (other if image_side >= 1 and image_side % multiple == 0 else "")
    )


@config
class Train:
    """How long and how hard. The defaults are the classic YOLOv8 recipe (8.2)."""

    epochs: int = 100
    batch_size: int = 16  # over all devices and processes
    nominal_batch: int = 64  # gradients are summed until about so many images were seen
    seed: int = 0
    optimizer: Literal["auto", "sgd", "adam", "adamw"] = "auto"
    lr: float = 0.01
    final_lr: float = 0.01  # fraction of lr at the end
    # steps: times `drop_factor` at each of `drops`, shares of all steps (GSSD: 30,000 and 50,000 of
    # 60,000); `final_lr` is not used
    schedule: Literal["linear", "cosine", "steps"] = "linear"
    drops: tuple[float, ...] = (1 / 2, 5 / 6)
    drop_factor: float = 0.1
    momentum: float = 0.937  # of SGD; beta1 of Adam
    nesterov: bool = True  # of SGD
    weight_decay: float = 5e-4
    decay: Literal["kernels", "all"] = "kernels"  # which parameters; all: biases and scales too
    warmup_epochs: float = 3.0
    warmup_min_steps: int = 100
    warmup_momentum: float = 0.8
    warmup_bias_lr: float = 0.1
    clip_norm: float = 10.0  # global gradient norm; 0 never clips
    ema_decay: float = 0.9999
    ema_tau: float = 2000.0  # steps
    patience: int = 100  # epochs without a better fitness; 0 never stops
    fitness: Literal["classic", "map", "ap50"] = "classic"  # 0.1 AP50 + 0.9 AP50-95, AP50-95, AP50
    freeze: tuple[str, ...] = ()  # regular expressions on parameter paths such as "backbone/"
    lr_factors: tuple[tuple[str, float], ...] = ()  # (pattern, factor) on parameter paths
    # first_drop: the factors end there, as in GSSD's own code, whose schedule forgets them
    lr_factors_until: Literal["end", "first_drop"] = "end"
    init_from: str = ""  # a RUN whose weights start this one
    # check: nobody that it was trained on may be scored; others: it was trained on other people,
    # whatever their names
    init_patients: Literal["check", "others"] = "check"
    evaluate_every: int = 1  # epochs
    log_every: int = 10  # steps

    def check(self) -> None:
        """Refuses numbers that no run can have."""
        _at_least(self, 1, "epochs", "batch_size", "nominal_batch", "evaluate_every", "log_every")
        _at_least(self, 0, "lr", "final_lr", "weight_decay", "warmup_epochs", "warmup_bias_lr")
        _at_least(self, 0, "momentum", "warmup_momentum", "ema_decay", "warmup_min_steps", "seed")
        _at_least(self, 0, "clip_norm")
        _above_zero(self, "ema_tau", "drop_factor")
        if not all(0 < share < 1 for share in self.drops) or sorted(self.drops) != [*self.drops]:
            raise ValueError(f"Train.drops wants rising shares between 0 and 1; got {self.drops}")
        if self.lr_factors_until == "first_drop" and not (self.schedule == "steps" and self.drops):
            raise ValueError('Train.lr_factors_until="first_drop" wants schedule="steps" and drops')
        if 0 < self.patience < self.evaluate_every:
            raise ValueError(
                f"Train.patience is {self.patience} epochs, but only every {self.evaluate_every} "
                "are evaluated: nothing could ever be better. Raise patience"
            )


@config
class Evaluate:
    """How a model is scored."""

    protocol: Protocol = "yolo"
    batch_size: int = 16
    split: Literal["train", "val", "test"] = "val"
    # official: as the authors' code draws lesions of PixelLink and MSCR, on the host
    boxes: Literal["model", "official"] = "model"

    def check(self) -> None:
        """Refuses an empty batch."""
        _at_least(self, 1, "batch_size")


@config
class Experiment(Generic[M]):
    """One run: a model's Config, its data, its training and its evaluation."""

    model: M
    data: Data = Data()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()


def to_json(value: Any) -> Any:
    """A config as plain dicts and lists."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [to_json(v) for v in value] if isinstance(value, tuple) else value


def from_json(cls: type, value: dict) -> Any:
    """The config that `to_json` wrote. A field that this version does not know is an error."""
    hints = typing.get_type_hints(cls)
    return cls(**{k: _rebuild(hints.get(k), v) for k, v in value.items()})


def _rebuild(wanted: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(wanted) and isinstance(value, dict):
        return from_json(wanted, value)
    return tuple(_rebuild(None, v) for v in value) if isinstance(value, list) else value
