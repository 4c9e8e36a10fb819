"""Pascal VOC: one XML file an image; pixels count from 1 and the last one belongs to the box.

So x0 = xmin - 1 and x1 = xmax in our pixels (VOC development kit 2012, section 3). Equal numbers
(xmin = xmax) would be one pixel by that rule; annotation tools write them for a click without a
drag, and no object is one pixel wide, so they are read as a box without width: degenerate.
"""

import os
import pathlib
import xml.etree.ElementTree as ET
from collections.abc import Sequence

import numpy as np

from jaxdet.data.formats import Faulty, Row, Truth, number, sound

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def read(path: str | os.PathLike, class_names: Sequence[str], faulty: Faulty = "error") -> Truth:
    """The Truth of one XML file. `Truth.file` is its <filename>; difficult objects are crowd.

    A class that is not among `class_names`, a missing or non-numeric field, a file without the size
    of the image, broken XML and a DOCTYPE are a ValueError that names file and object.
    """
    path = pathlib.Path(path)
    root = _root(path)
    height, width = (_length(root, path, side) for side in ("height", "width"))
    rows = [_row(entry, i, class_names, path) for i, entry in enumerate(root.iter("object"), 1)]
    return sound(_text(root, "filename", str(path)), height, width, rows, faulty)


def class_names(paths: Sequence[str | os.PathLike]) -> tuple[str, ...]:
    """Every class that occurs in these XML files, sorted."""
    found = set()
    for path in map(pathlib.Path, paths):
        found |= {_text(entry, "name", str(path)) for entry in _root(path).iter("object")}
    return tuple(sorted(found))


def write(path: str | os.PathLike, class_names: Sequence[str], truth: Truth) -> None:
    """Write one XML file, read back within 1e-3 px. Crowd becomes difficult; area is lost."""
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = truth.file
    size = ET.SubElement(root, "size")
    for side, value in (("width", truth.width), ("height", truth.height)):
        ET.SubElement(size, side).text = str(value)
    for box, label, crowd in zip(truth.boxes_xyxy, truth.labels, truth.crowd, strict=True):
        entry = ET.SubElement(root, "object")
        ET.SubElement(entry, "name").text = class_names[label]
        ET.SubElement(entry, "difficult").text = str(int(crowd))
        corners = ET.SubElement(entry, "bndbox")
        for side, text in zip(_SIDES, _one_based(box), strict=True):
            ET.SubElement(corners, side).text = text
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


class _NoDoctype(ET.TreeBuilder):
    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        # Entities live there: a few lines of them grow to gigabytes, or name other files.
        raise ValueError(f"has a DOCTYPE ({name}), which is refused: remove it")


def _root(path: pathlib.Path) -> ET.Element:
    try:
        return ET.fromstring(path.read_bytes(), ET.XMLParser(target=_NoDoctype()))
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except ET.ParseError as error:
        raise ValueError(f"{path}:{error.position[0]}: broken XML: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _text(entry: ET.Element, name: str, where: str) -> str:
    text = (entry.findtext(name) or "").strip()
    if not text:
        raise ValueError(f"{where}: <{entry.tag}> has no <{name}>")
    return text


def _length(root: ET.Element, path: pathlib.Path, side: str) -> int:
    value = number(_text(root, f"size/{side}", str(path)), str(path), side)
    if value < 1 or value != int(value):
        raise ValueError(f"{path}: the {side} of the image is {value:g}")
    return int(value)


def _row(entry: ET.Element, i: int, class_names: Sequence[str], path: pathlib.Path) -> Row:
    name = _text(entry, "name", f"{path}: object {i}")
    where = f"{path}: object {i} ({name})"
    if name not in class_names:
        raise ValueError(f"{where}: unknown class; known are {', '.join(class_names)}")
    texts = [_text(entry, f"bndbox/{side}", where) for side in _SIDES]
    x0, y0, x1, y1 = map(number, texts, [where] * 4, _SIDES)
    box = (x0 - 1, y0 - 1, x0 - 1 if x1 == x0 else x1, y0 - 1 if y1 == y0 else y1)
    said = ", ".join(f"{side} {text}" for side, text in zip(_SIDES, texts, strict=True))
    difficult = entry.findtext("difficult", "0").strip() == "1"
    return Row(box, list(class_names).index(name), f"{where}, {said} (from 1)", difficult)


def _one_based(box_xyxy: np.ndarray) -> list[str]:
    x0, y0, x1, y1 = np.round(box_xyxy.astype(np.float64), 4)
    # One pixel exactly would be equal numbers, which are read as no box: half a thousandth keeps
    # it.
    x1, y1 = (high + 5e-4 if high == low + 1 else high for low, high in ((x0, x1), (y0, y1)))
    return [f"{value:.4f}".rstrip("0").rstrip(".") for value in (x0 + 1, y0 + 1, x1, y1)]
