"""From what `jaxdet reproduce` was asked to the experiment of each row.

Asked -> Study: the scale with its overrides, where the set lies -> Experiment of a row
"""

import dataclasses
import pathlib
from typing import Any, Literal

from jaxdet import models
from jaxdet.config import Data, Evaluate, Experiment, Train, to_json
from jaxdet.data import phantom
from jaxdet.study import scales
from jaxdet.study.papers import Row, Scores
from jaxdet.study.scales import Scale

PROTOCOL = "yolo"  # of the paper: ultralytics' own evaluator
GREY_COPIES = 3  # channels of a detector without a map: the grey slice, as an RGB pipeline has it
# Of `flags`, those that change no number: where the set lies, and how it is gone about.
START, START_SEED = "start", 1  # the common start's folder in OUT; the seed of its patients
MOVABLE = ("path", "siamese.convolution", "siamese.rematerialise")


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the verb was told; None and empty mean as the scale says."""

    table: str
    scale: scales.Name = "tiny"
    folds: int | None = None
    seed: int = 0  # of the folds and of all first weights
    epochs: int | None = None  # of the detectors
    siamese_epochs: int | None = None
    path: str = ""  # the folder of prepared sets; OUT/sets
    builder: str = ""  # the prepared set; the phantom of the scale
    optimizer: Literal["adamw", "auto"] | None = None  # of the detectors
    rows: tuple[str, ...] = ()  # all


@dataclasses.dataclass(frozen=True)
class Study:
    """A scale with all overrides, and its data as a one-channel Data of no fold in particular."""

    scale: Scale
    data: Data
    seed: int


def study(asked: Asked, out: pathlib.Path) -> Study:
    """What was asked, resolved. ValueError for numbers that mean nothing."""
    plain = scales.SCALES[asked.scale]
    train = _replaced(plain.train, epochs=asked.epochs, optimizer=asked.optimizer, seed=asked.seed)
    siamese = _replaced(plain.siamese_train, epochs=asked.siamese_epochs, seed=asked.seed)
    scale = _replaced(plain, folds=asked.folds, train=train, siamese_train=siamese)
    data = Data(
        source="tfds",
        path=asked.path or str(out / "sets"),
        builder=asked.builder or scale.builder,
        image_size=scale.side_px,
        channels=1,
        window_hu=scales.WINDOW_HU,
        split="fold",
        folds=scale.folds,
        split_seed=asked.seed,
        cache="ram",
        augment=scale.augment,
    )
    return Study(scale, data, asked.seed)


def flags(asked: Asked, study: Study) -> dict[str, Any]:
    """What decides the numbers of all tables in a folder, as reproduce.json keeps it.

    Which table and which rows is not in it: a folder may hold several tables, which share rows.
    """
    scale = study.scale
    plain = ("folds", "side_px", "yolo", "free_slices", "start_epochs")
    recipes = ("train", "augment", "siamese", "siamese_train")
    return {
        "scale": asked.scale,
        "seed": study.seed,
        "path": study.data.path,
        "builder": study.data.builder,
        **{name: getattr(scale, name) for name in plain},
        **{
            f"{name}.{field}": value
            for name in recipes
            for field, value in to_json(getattr(scale, name)).items()
        },
    }


def is_phantom(builder: str) -> bool:
    """Whether this prepared set can be made here: a phantom of a size of its table."""
    name, _, size = builder.partition("/")
    return size in phantom.SETS.get(name.removeprefix("phantom_"), {}) and "_" in name


def is_built(row: Row) -> bool:
    """Whether the row's detector exists yet."""
    return _model_name(row, "n") in models.DETECTORS


def has_start(study: Study) -> bool:
    """Whether all detectors begin with the weights of one that saw other phantom patients."""
    return study.scale.start_epochs > 0 and is_phantom(study.data.builder)


def start(study: Study, classes: int) -> Experiment:
    """The experiment of that common start: YOLOv8 on the phantom's patients of the next seed."""
    data = dataclasses.replace(
        study.data,
        builder=f"{study.data.builder}_seed{START_SEED}",
        channels=GREY_COPIES,
        split="patient",
        fractions=(0.9, 0.1, 0.0),
    )
    return Experiment(
        model=models.config(f"yolov8{study.scale.yolo}", channels=GREY_COPIES, num_classes=classes),
        data=data,
        train=dataclasses.replace(study.scale.train, epochs=study.scale.start_epochs),
        evaluate=Evaluate(protocol=PROTOCOL),
    )


def detector(study: Study, row: Row, classes: int, out: pathlib.Path | None = None) -> Experiment:
    """The experiment of a detector's row; its fold is set by the cross-validation.

    PCA-YOLO reads one grey channel and takes over the Siamese of `siamese_folder` in `out` (without
    `out` it would train its own); any other reads three copies. A model that is no YOLOv8 is
    trained by the same recipe, in its default size. With `out`, a common start (`has_start`) is
    OUT/start, whose patients are others of the same names.
    """
    train = study.scale.train
    if out and has_start(study):
        train = dataclasses.replace(train, init_from=str(out / START), init_patients="others")
    name, fields = _model_name(row, study.scale.yolo), {"num_classes": classes, **row.fields}
    if row.model == "pca_yolo":
        fields |= {
            "size": study.scale.yolo,
            "siamese": scales.siamese_config(study.scale, row.parts),
            "siamese_train": study.scale.siamese_train,
            "siamese_from": str(siamese_folder(study, row.parts, out) / "fold_{fold}")
            if out
            else "",
        }
    else:
        known = {field.name for field in dataclasses.fields(models.config(name))}
        usual = {"channels": GREY_COPIES, "image_size": study.scale.side_px}
        fields |= {key: value for key, value in usual.items() if key in known}
    model = models.config(name, **fields)
    return Experiment(
        model=model,
        data=dataclasses.replace(study.data, channels=models.raw_channels(model)),
        train=train,
        evaluate=Evaluate(protocol=PROTOCOL, split="test"),
    )


def siamese(study: Study, parts: int) -> Experiment:
    """The experiment of the Siamese network for so many patches on a side, alone."""
    return Experiment(
        model=scales.siamese_config(study.scale, parts),
        data=study.data,
        train=study.scale.siamese_train,
        evaluate=Evaluate(protocol=PROTOCOL, split="test"),
    )


def siamese_folder(study: Study, parts: int, out: pathlib.Path) -> pathlib.Path:
    """OUT/siamese_m with fold_0, fold_1 ...: RUNs that all rows of that m share."""
    return out / f"siamese_m{scales.patch_side(study.scale, parts)}"


def parts_of(rows: tuple[Row | Scores, ...]) -> tuple[int, ...]:
    """For how many patches on a side these rows want Siamese networks, each once."""
    wanted = [row.parts for row in rows if isinstance(row, Scores) or row.model == "pca_yolo"]
    return tuple(dict.fromkeys(wanted))


def _model_name(row: Row, size: str) -> str:
    return f"yolov8{size}" if row.model == "yolov8" else row.model


def _replaced(value: Scale | Train, **changes: Any) -> Any:
    return dataclasses.replace(value, **{k: v for k, v in changes.items() if v is not None})
