"""docs/reproduce.md says what the scales are, and names fields that are there."""

import pathlib
import re
import typing

import pytest

from jaxdet.study import asked as asking
from jaxdet.study import papers, scales

PAGE = pathlib.Path(__file__).parents[2] / "docs/reproduce.md"
FIELD = re.compile(r"^\| [^|]+ \| `([\w.]+)` \| `([^`]*)` \| ([^|]*)\|$", re.MULTILINE)


@pytest.fixture(scope="module")
def page():
    return PAGE.read_text()


def paper_row():
    """The experiment of PCA-YOLO's own row at the paper's scale."""
    study = asking.study(asking.Asked("pca-table2", "paper"), pathlib.Path("out"))
    return asking.detector(study, papers.PCA, 1)


def test_the_scale_table_is_that_of_the_code(page):
    head, *rows = scales.table()
    wanted = [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * 4, *rows)]
    assert "\n".join(wanted) in page


def test_every_open_question_is_a_field_with_that_default(page):
    found = FIELD.findall(page)
    assert len(found) == 25
    experiment = paper_row()
    for path, default, _ in found:
        value = experiment
        for name in path.split("."):
            value = getattr(value, name)
        assert str(value) == default.strip(), path


def test_the_words_that_a_question_has_are_all_told(page):
    experiment, asked = paper_row(), 0
    for path, default, other in FIELD.findall(page):
        *groups, name = path.split(".")
        part = experiment
        for group in groups:
            part = getattr(part, group)
        hint = typing.get_type_hints(type(part))[name]
        if typing.get_origin(hint) is typing.Literal and isinstance(getattr(part, name), str):
            told = {default, *re.findall(r"`(\w+)`", other)}
            assert told == {*typing.get_args(hint)}, path
            asked += 1
    assert asked >= 10


def test_the_commands_of_the_page_are_there(page):
    for table in re.findall(r"jaxdet reproduce (\S+) --", page):
        assert table in papers.TABLES
    for path in re.findall(r"\]\((\.\.?/?[^)]*|\w+\.md)\)", page):
        assert (PAGE.parent / path).is_file()
    for config in re.findall(r"configs/\w+\.py", page):
        assert (PAGE.parents[1] / config).is_file()
