"""YOLO: a data.yaml, and one text file an image with rows `class cx cy width height`.

Centre and size are fractions of the image. The label file of .../images/a/b.png is
.../labels/a/b.txt; an image without one, or with an empty one, is background. The layout is that of
the public YOLO data sets.
"""

import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from jaxdet.data import images, yaml_subset
from jaxdet.data.formats import Faulty, Row, Truth, different, number, read_text, sound

SPLITS = ("train", "val", "test")
_ROUNDING = 1e-5  # a fraction may exceed 1 by this much: printed decimals
_FIELDS = ("class", "cx", "cy", "width", "height")


def read(
    path: str | os.PathLike, split: str, faulty: Faulty = "error"
) -> tuple[tuple[str, ...], list[Truth]]:
    """Class names, and one Truth for each image of a split, sorted by path within each entry.

    `path` is data.yaml or its folder. `Truth.file` is the path of the image. A split that data.yaml
    does not name, a missing folder or image, and a broken label row are a ValueError with file and
    line.
    """
    yaml, content = read_config(path)
    names, found = _names(yaml, content), _images(yaml, content, split)
    truths = [_truth(image, len(names), faulty) for image in found]
    if found and not any(label_path(image).is_file() for image in found):
        warnings.warn(
            f"{yaml}: not one of {len(found)} {split} images has a label file; the first would be"
            f" {label_path(found[0])}",
            stacklevel=2,
        )
    return names, truths


def read_config(path: str | os.PathLike) -> tuple[pathlib.Path, dict]:
    """The path of data.yaml and what it says: path, train, val, test, nc and names, where given."""
    yaml = pathlib.Path(path)
    yaml = yaml / "data.yaml" if yaml.is_dir() else yaml
    return yaml, yaml_subset.read(yaml, ("path", *SPLITS, "nc", "names"))


def root(path: str | os.PathLike) -> pathlib.Path:
    """The folder of the data set: the field `path` of data.yaml, from where data.yaml lies."""
    yaml, content = read_config(path)
    return yaml.parent / str(content.get("path") or "")


def read_rows(path: str | os.PathLike, height: int, width: int, num_classes: int) -> list[Row]:
    """The boxes of one label file, none if it is missing; a broken row is a ValueError."""
    path = pathlib.Path(path)
    lines = read_text(path).split("\n") if path.is_file() else []
    return [
        _row(line.split(), f"{path}:{i}", height, width, num_classes)
        for i, line in enumerate(lines, 1)
        if line.strip()
    ]


def write(
    folder: str | os.PathLike, class_names: Sequence[str], splits: Mapping[str, Sequence[Truth]]
) -> None:
    """Write data.yaml and labels/<split>/<name>.txt; the images belong into images/<split>/<name>.

    `Truth.file` is the name below images/<split>. The format has no place for crowd boxes: they are
    a ValueError, because as ordinary boxes they would be taught and scored.
    """
    folder = pathlib.Path(folder)
    for split, truths in splits.items():
        (folder / "images" / split).mkdir(parents=True, exist_ok=True)
        for truth in truths:
            inside = pathlib.PurePath(truth.file)
            if inside.is_absolute() or ".." in inside.parts:
                raise ValueError(f"{truth.file}: wanted a name below {folder / 'images' / split}")
            if truth.crowd.any():
                raise ValueError(
                    f"{truth.file}: YOLO cannot say crowd, and {int(truth.crowd.sum())} boxes are;"
                    " leave them out first"
                )
            file = (folder / "labels" / split / truth.file).with_suffix(".txt")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(_lines(truth)), encoding="utf-8")
    content = {split: f"images/{split}" for split in splits}
    yaml_subset.write(folder / "data.yaml", {**content, "nc": len(class_names)}, class_names)


def label_path(image: pathlib.Path) -> pathlib.Path:
    """The label file of an image: the last folder "images" in its path becomes "labels"."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return pathlib.Path(*parts).with_suffix(".txt")


def _names(yaml: pathlib.Path, content: dict) -> tuple[str, ...]:
    names, count = content.get("names"), content.get("nc")
    if isinstance(names, dict):
        wanted = [str(i) for i in range(len(names))]
        if sorted(names) != sorted(wanted):
            raise ValueError(f"{yaml}: the keys of names must be 0 to {len(names) - 1}: {names}")
        names = [names[key] for key in wanted]
    if not isinstance(names, list):
        raise ValueError(f"{yaml}: names must be a list or a dict of class names; got {names!r}")
    if count is not None and str(count) != str(len(names)):
        raise ValueError(f"{yaml}: nc is {count}, but there are {len(names)} names")
    try:
        return different(names)
    except ValueError as error:
        raise ValueError(f"{yaml}: {error}") from None


def _images(yaml: pathlib.Path, content: dict, split: str) -> list[pathlib.Path]:
    entries = content.get(split)
    if not entries or isinstance(entries, dict):
        raise ValueError(f"{yaml}: it names no {split!r} split; it has {', '.join(content)}")
    base = root(yaml)
    found = []
    for entry in [entries] if isinstance(entries, str) else entries:
        place = base / entry
        if not place.exists() and entry.startswith("../"):
            # Roboflow writes ../train/images beside a data.yaml that lies next to train/.
            place = base / entry.removeprefix("../")
        if place.is_dir():
            found += sorted(
                file for file in place.rglob("*") if file.suffix.lower() in images.SUFFIXES
            )
        elif place.suffix == ".txt" and place.is_file():
            found += _listed(place, base)
        else:
            raise ValueError(f"{yaml}: {split} is {entry!r}: no folder and no .txt at {place}")
    return found


def _listed(file: pathlib.Path, base: pathlib.Path) -> list[pathlib.Path]:
    found = []
    for i, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        places = [folder / line.strip() for folder in (file.parent, base)]
        place = next((place for place in places if place.is_file()), None)
        if place is None:
            raise ValueError(f"{file}:{i}: there is no image {places[0]}")
        found.append(place)
    return found


def _truth(image: pathlib.Path, num_classes: int, faulty: Faulty) -> Truth:
    height, width = images.size(image)
    rows = read_rows(label_path(image), height, width, num_classes)
    return sound(str(image), height, width, rows, faulty)


def _row(words: list[str], where: str, height: int, width: int, num_classes: int) -> Row:
    if len(words) != 5:
        raise ValueError(f"{where}: expected 5 columns ({' '.join(_FIELDS)}), got {len(words)}")
    label, cx, cy, wide, high = map(number, words, [where] * 5, _FIELDS)
    if label != int(label) or not 0 <= label < num_classes:
        raise ValueError(
            f"{where}: class is {words[0]}; wanted a whole number from 0 to {num_classes - 1}"
        )
    largest = max((cx, cy, wide, high), key=abs)
    if abs(largest) > 1 + _ROUNDING:
        raise ValueError(
            f"{where}: looks like pixels (max {abs(largest):g} > 1); wanted fractions of the image"
        )
    x0, x1 = (cx - wide / 2) * width, (cx + wide / 2) * width
    y0, y1 = (cy - high / 2) * height, (cy + high / 2) * height
    return Row((x0, y0, x1, y1), int(label), where)


def _lines(truth: Truth) -> list[str]:
    scale = np.array([truth.width, truth.height] * 2, np.float64)
    x0, y0, x1, y1 = (truth.boxes_xyxy.astype(np.float64) / scale).T
    columns = np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=1)
    return [
        f"{label} {' '.join(f'{value:.9f}' for value in row)}\n"
        for label, row in zip(truth.labels, columns, strict=True)
    ]
