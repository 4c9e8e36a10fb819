"""COCO instances as one JSON file: boxes are [x, y, width, height] in pixels.

The format: https://cocodataset.org/#format-data. A label is the position of the category among all,
by rising id; outlines and other fields are not kept.
"""

import json
import os
import pathlib
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxdet.data.formats import Faulty, Row, Truth, different, read_text, sound


def read(path: str | os.PathLike, faulty: Faulty = "error") -> tuple[tuple[str, ...], list[Truth]]:
    """Class names, and one Truth for each entry of "images", in the file's order.

    `Truth.file` is file_name. A missing list or field, an id that comes twice, an unknown category
    or image, and broken JSON are a ValueError that names file and entry (or line). Annotation id 0
    is a warning: pycocotools takes it for "no match".
    """
    path = pathlib.Path(path)
    content = _content(path)
    images = _by_id(content, "images", path)
    categories = _by_id(content, "categories", path)
    annotations = _by_id(content, "annotations", path)
    if 0 in annotations:
        warnings.warn(
            f"{path}: annotation id 0 means 'no match' to pycocotools; count from 1", stacklevel=2
        )
    try:
        names = different([_field(categories[i], "name", str, path) for i in sorted(categories)])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    label_of = {key: label for label, key in enumerate(sorted(categories))}
    rows: dict[int, list[Row]] = {key: [] for key in images}
    for annotation in annotations.values():
        _add_row(rows, annotation, label_of, path)
    return names, [_truth(images[key], rows[key], faulty, path) for key in images]


def write(path: str | os.PathLike, class_names: Sequence[str], truths: Sequence[Truth]) -> None:
    """Write a file that `read` and pycocotools read. Every id counts from 1."""
    images = [
        {"id": i, "file_name": truth.file, "height": truth.height, "width": truth.width}
        for i, truth in enumerate(truths, 1)
    ]
    annotations = []
    for i, truth in enumerate(truths, 1):
        for box, label, crowd, area in zip(
            truth.boxes_xyxy.astype(np.float64), truth.labels, truth.crowd, truth.area, strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": int(label) + 1,
                    "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(class_names, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    text = json.dumps(content, ensure_ascii=False)
    pathlib.Path(path).write_text(text, encoding="utf-8")


def _content(path: pathlib.Path) -> dict:
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: broken JSON: {error.msg}") from None
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: wanted a COCO object with images; got a {type(content).__name__}"
        )
    return content


def _by_id(content: dict, what: str, path: pathlib.Path) -> dict[int, dict]:
    entries = content.get(what)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f'{path}: no list "{what}"; it has {", ".join(map(repr, content))}')
    ids = [_field(entry, "id", int, path) for entry in entries]
    twice = [key for key, count in Counter(ids).items() if count > 1]
    if twice:
        raise ValueError(f'{path}: ids that come twice in "{what}": {twice[:5]}')
    return dict(zip(ids, entries, strict=True))


def _field(entry: dict, name: str, kind: type, path: pathlib.Path):
    value = entry.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{path}: wanted a field {name!r} ({kind.__name__}) in {str(entry)[:120]}")
    return value


def _add_row(
    rows: dict[int, list[Row]], entry: dict, label_of: dict[int, int], path: pathlib.Path
) -> None:
    where = f"{path}: annotation {entry['id']}"
    image = _field(entry, "image_id", int, path)
    category = _field(entry, "category_id", int, path)
    box = _field(entry, "bbox", list, path)
    if image not in rows:
        raise ValueError(f"{where} belongs to image {image}, which is not in the file")
    if category not in label_of:
        raise ValueError(f"{where} has unknown category {category}; known are {sorted(label_of)}")
    if len(box) != 4 or not all(isinstance(v, int | float) for v in box):
        raise ValueError(f"{where} (image {image}): bbox wants four numbers; got {box}")
    x, y, wide, high = map(float, box)
    area = entry.get("area")
    if area is not None and not (isinstance(area, int | float) and np.isfinite(area)):
        raise ValueError(f"{where}: area is {area!r}, no finite number")
    rows[image].append(
        Row(
            box_xyxy=(x, y, x + wide, y + high),
            label=label_of[category],
            where=f"{where} (image {image})",
            crowd=bool(entry.get("iscrowd", 0)),
            area=None if area is None else float(area),
        )
    )


def _truth(image: dict, rows: list[Row], faulty: Faulty, path: pathlib.Path) -> Truth:
    height, width = (_field(image, side, int, path) for side in ("height", "width"))
    return sound(_field(image, "file_name", str, path), height, width, rows, faulty)
