"""The manifest of a cross-validation: which patient is tested in which fold, and a digest of it.

A pure function of the config and the data. Two cross-validations whose digests agree were scored
fold by fold on images of the same names with the same truth, so that their numbers pair. The pixels
of files are not looked at.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxdet.config import Data
from jaxdet.data import folds, sources
from jaxdet.data.sources import Record

FORMAT = 2  # 2: digests see the truth; rows tell of train and val
_NAMED = ("source", "path", "builder", "patient_pattern")  # fields of Data: which images there are
_PHANTOM = ("phantom_patients", "phantom_slices", "seed", "image_size")
_TOLD = 5  # patients that a difference names


def manifest(cfg: Data) -> dict[str, Any]:
    """What DIR/folds.json holds, as plain lists and dicts; cfg.split and cfg.fold play no part.

    Keys: format, k, seed, selection, split_unit, val_share (None where the test fold chooses the
    weights), data (the fields of the config that say which images, and counts of images, patients
    and boxes), folds (one dict each: fold, images, boxes, patients, train_images, val_images,
    val_boxes, val_patients), patients ({name: fold}; by slice {image: fold}), digest. Boxes are
    those that count: all but crowd. Patients stand in natural order. Where the test fold chooses
    the weights val is nobody: 0 and []. Raises and warns as sources.tested_in; too few patients for
    a nested val are a ValueError too.
    """
    records, part = sources.tested_in(cfg)
    nested = cfg.selection == "nested"
    rows = [_row(cfg, records, part, fold) for fold in range(cfg.folds)]
    content = {
        "format": FORMAT,
        "k": cfg.folds,
        "seed": cfg.split_seed,
        "selection": cfg.selection,
        "split_unit": cfg.split_unit,
        "val_share": cfg.val_share if nested else None,
        "data": {
            **{name: getattr(cfg, name) for name in _NAMED},
            **({name: getattr(cfg, name) for name in _PHANTOM} if cfg.source == "phantom" else {}),
            **{name: sum(row[name] for row in rows) for name in ("images", "boxes")},
        },
        "folds": rows,
        "patients": _tested(sources.units(cfg, records), part),
    }
    content["data"]["patients"] = len(_names(records))
    return {**content, "digest": _digest(cfg.selection, rows, records, part)}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """A sentence for each thing in which two manifests differ; empty if the digests agree too.

    Where the data lie (data.path) is no difference.
    """
    told = [
        f"{name}: was {was!r}, now {now!r}"
        for name, was, now in (
            *(
                (name, old.get(name), new[name])
                for name in ("format", "k", "seed", "selection", "split_unit")
            ),
            ("val_share", old.get("val_share"), new["val_share"]),
            *((f"data.{name}", old["data"].get(name), now) for name, now in new["data"].items()),
        )
        if was != now and name != "data.path"
    ]
    told += _moved(old["patients"], new["patients"])
    if not told and old["digest"] != new["digest"]:
        told = ["the names, the boxes or labels of some images have changed"]
    return told


def _row(
    cfg: Data, records: Sequence[Record], part: Int[np.ndarray, "N"], fold: int
) -> dict[str, Any]:
    own = sources.split_of_fold(dataclasses.replace(cfg, fold=fold), records)
    tested = [record for record, p in zip(records, part, strict=True) if p == fold]
    val = [record for record, p in zip(records, own, strict=True) if p == 1]
    return {
        "fold": fold,
        "images": len(tested),
        "boxes": _boxes(tested),
        "patients": _names(tested),
        "train_images": int((own == 0).sum()),
        "val_images": len(val),
        "val_boxes": _boxes(val),
        "val_patients": _names(val),
    }


def _tested(units: Sequence[str], part: Int[np.ndarray, "N"]) -> dict[str, int]:
    """Of every patient, or image if these are dealt, the fold that tests it; fold by fold."""
    fold_of = dict(zip(units, part.tolist(), strict=True))
    return {
        name: fold_of[name]
        for name in sorted(fold_of, key=lambda n: (fold_of[n], folds.natural(n)))
    }


def _boxes(records: Sequence[Record]) -> int:
    return sum(int((~record.crowd).sum()) for record in records)


def _names(records: Sequence[Record]) -> list[str]:
    return sorted({record.patient for record in records}, key=folds.natural)


def _digest(
    selection: str,
    rows: list[dict[str, Any]],
    records: Sequence[Record],
    part: Int[np.ndarray, "N"],
) -> str:
    """16 hexadecimal digits: who is tested where, on which images with which truth; val too."""
    images = sorted(
        (sources.told(r), r.patient, int(fold)) for r, fold in zip(records, part, strict=True)
    )
    said = json.dumps([selection, [row["val_patients"] for row in rows], images])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _moved(old: dict[str, int], new: dict[str, int]) -> list[str]:
    """Patients that came, went or changed their fold."""
    both = [name for name in new if name in old]
    moved = [f"{name} (fold {old[name]} to {new[name]})" for name in both if old[name] != new[name]]
    lists = (
        ("are gone", [name for name in old if name not in new]),
        ("are new", [name for name in new if name not in old]),
        ("have moved", moved),
    )
    return [
        f"{len(names)} patients {what}: {', '.join(names[:_TOLD])}"
        + (" ..." if len(names) > _TOLD else "")
        for what, names in lists
        if names
    ]
