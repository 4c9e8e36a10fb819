"""CSV: a header and one row a box, `file,x0,y0,x1,y1`, in pixels; what a spreadsheet writes.

    file,x0,y0,x1,y1,class,patient
    a/slice_041.png,100,120,131.5,148,tumour,p07
    a/slice_055.png,,,,,,p07              <- an image without a lesion

The columns come in any order and in capitals or not; others are not looked at. Parted by comma,
semicolon or tab, as the header is. For metrics in mm and by phase there may be the columns
diameter_mm (of the row's lesion), pixel_mm (the side of a pixel) and phase (on which the lesions of
the image were drawn); an empty cell is not known.
"""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

from jaxdet.data import images
from jaxdet.data.formats import Faulty, Row, Truth, different, number, read_text, sound

_FILE = ("file", "filename", "image", "path")
_CLASS = ("class", "label")
_CORNERS = (("x0", "y0", "x1", "y1"), ("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"))
_SIDES = ("x", "y", "w", "h")
_ONE_CLASS = ("lesion",)  # where the file has no column for it

Size = Callable[[str], tuple[int, int]]
_Line = tuple[str, dict[str, str]]  # "file:line" and the cells by column


def read(
    path: str | os.PathLike,
    faulty: Faulty = "error",
    *,
    classes: Sequence[str] = (),
    size_of: Size | None = None,
) -> tuple[tuple[str, ...], list[Truth]]:
    """Class names, and one Truth for each image, in the order of the file.

    Boxes are corners x0, y0, x1, y1 (or xmin, ymin, xmax, ymax, or x1, y1, x2, y2), the last two
    exclusive, or x, y, w, h. A row whose four cells are empty is an image without a lesion. Class
    names are `classes`, else those of the column class or label (sorted, whole numbers by value),
    else "lesion". The size of an image is in the columns width and height, else `size_of(file)`
    tells (height, width); by default from the image, which lies beside the CSV or in its images/.
    What is of an image and not of a box (size, pixel_mm, phase) is read in its first row.
    A missing or doubled column, a row of another length, a cell that is no number, mm that are not
    above 0, an unknown class, an image said to be without a lesion and given one, and an image that
    cannot be found are a ValueError with file and line.
    """
    path = pathlib.Path(path)
    lines = _lines(path)
    file, box = _column(path, lines, _FILE), _box_columns(path, lines)
    kind = _column(path, lines, _CLASS, needed=False)
    boxed = [line for line in lines[1:] if any(line[1][name] for name in box)]
    names = _names(path, classes, boxed, kind)
    rows: dict[str, list[Row]] = {}
    first: dict[str, _Line] = {}  # where an image comes first
    for where, cells in lines[1:]:
        if not cells[file]:
            raise ValueError(f"{where}: the column {file} is empty; wanted the name of an image")
        earlier = first.setdefault(cells[file], (where, cells))
        found, empty = rows.setdefault(cells[file], []), not any(cells[name] for name in box)
        if earlier[0] != where and (empty or not found):
            raise ValueError(
                f"{where}: {cells[file]} comes again (first {earlier[0]}), and one of its rows has"
                " no box: it cannot be with and without a lesion"
            )
        if not empty:
            found.append(_row(where, cells, box, _label(where, cells, kind, names)))
    look_up = size_of or (lambda name: images.size(_beside(path, name)))
    return names, [_truth(first[name], name, rows[name], faulty, look_up) for name in rows]


def patients(path: str | os.PathLike) -> dict[str, str]:
    """The patient of each image, from the column patient; {} where there is none.

    An empty cell and an image of two patients are a ValueError with file and line.
    """
    path = pathlib.Path(path)
    lines = _lines(path)
    file = _column(path, lines, _FILE)
    if "patient" not in lines[0][1]:
        return {}
    found: dict[str, str] = {}
    for where, cells in lines[1:]:
        if not cells["patient"]:
            raise ValueError(f"{where}: the column patient is empty; name one in every row")
        if found.setdefault(cells[file], cells["patient"]) != cells["patient"]:
            raise ValueError(
                f"{where}: {cells[file]} is of patient {cells['patient']}, and of patient"
                f" {found[cells[file]]} in an earlier row"
            )
    return found


def _lines(path: pathlib.Path) -> list[_Line]:
    """The header (each column under its own name) and the rows that are not blank."""
    text = read_text(path)
    start = text.split("\n", 1)[0]
    reader = csv.reader(text.splitlines(), delimiter=max(",;\t", key=start.count))
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        twice = sorted({name for name in header if name and header.count(name) > 1})
        if twice:
            raise ValueError(f"{path}:1: columns that come twice: {twice}")
        lines = [(f"{path}:1", dict.fromkeys(header, ""))]
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if any(cell.strip() for cell in row):
                if len(row) != len(header):
                    raise ValueError(f"{where}: expected {len(header)} columns, got {len(row)}")
                cells = (cell.strip() for cell in row)
                lines.append((where, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: broken CSV: {error}") from None
    return lines


def _column(
    path: pathlib.Path, lines: list[_Line], names: Sequence[str], needed: bool = True
) -> str:
    """Which of these names is a column; "" where none is and none is needed."""
    found = [name for name in names if name in lines[0][1]]
    if len(found) > 1 or (needed and not found):
        raise ValueError(
            f"{path}:1: wanted one column of {', '.join(names)}; got {', '.join(lines[0][1])}"
        )
    return found[0] if found else ""


def _box_columns(path: pathlib.Path, lines: list[_Line]) -> tuple[str, ...]:
    found = [names for names in (*_CORNERS, _SIDES) if set(names) <= set(lines[0][1])]
    if len(found) != 1:
        wanted = " or ".join(",".join(names) for names in (*_CORNERS, _SIDES))
        raise ValueError(f"{path}:1: wanted columns {wanted}; got {', '.join(lines[0][1])}")
    return found[0]


def _names(
    path: pathlib.Path, classes: Sequence[str], boxed: list[_Line], kind: str
) -> tuple[str, ...]:
    if classes or not kind:
        return different(classes or _ONE_CLASS)
    found = {cells[kind] for _, cells in boxed if cells[kind]}
    if not found:
        raise ValueError(f"{path}: no row with a box has a {kind}; name the classes: data.classes")
    whole = all(name.isdecimal() for name in found)
    return tuple(sorted(found, key=int if whole else str))


def _label(where: str, cells: dict[str, str], kind: str, names: tuple[str, ...]) -> int:
    if not kind and len(names) == 1:
        return 0
    if not kind or cells[kind] not in names:
        got = repr(cells[kind]) if kind else "no column for it"
        raise ValueError(f"{where}: class is {got}; wanted one of {', '.join(names)}")
    return names.index(cells[kind])


def _row(where: str, cells: dict[str, str], columns: tuple[str, ...], label: int) -> Row:
    a, b, c, d = (number(cells[name], where, name) for name in columns)
    corners = (a, b, a + c, b + d) if columns == _SIDES else (a, b, c, d)
    return Row(corners, label, where, diameter_mm=_mm(where, cells, "diameter_mm"))


def _beside(path: pathlib.Path, name: str) -> pathlib.Path:
    places = [path.parent / name, path.parent / "images" / name]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ValueError(
            f"there is no image {name} in {path.parent} or its images/; columns width and height"
            " would tell its size"
        )
    return found


def _truth(line: _Line, name: str, rows: list[Row], faulty: Faulty, size_of: Size) -> Truth:
    where, cells = line
    if "width" in cells and "height" in cells:
        height, width = (_whole(cells[side], where, side) for side in ("height", "width"))
    else:
        try:
            height, width = size_of(name)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    pixel_mm = _mm(where, cells, "pixel_mm")
    return dataclasses.replace(
        sound(name, height, width, rows, faulty),
        pixel_mm=None if pixel_mm is None else (pixel_mm, pixel_mm),
        phase=cells.get("phase", ""),
    )


def _mm(where: str, cells: dict[str, str], column: str) -> float | None:
    """A length in a column that may be missing or empty: None."""
    if not cells.get(column):
        return None
    value = number(cells[column], where, column)
    if value <= 0:
        raise ValueError(f"{where}: {column} is {cells[column]}; wanted mm above 0, or nothing")
    return value


def _whole(text: str, where: str, side: str) -> int:
    value = number(text, where, side)
    if value != int(value) or value < 1:
        raise ValueError(f"{where}: {side} is {text}; wanted a whole number of px")
    return int(value)
