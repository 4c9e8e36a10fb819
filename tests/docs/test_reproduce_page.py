"""docs/reproduce.md says what the scales are, and names fields that are there."""

import pathlib
import re
import typing

import pytest

from jaxdet.study import asked as asking
from jaxdet.study import asked_gssd, papers, papers_gssd, scales, scales_gssd

PAGE = pathlib.Path(__file__).parents[2] / "docs/reproduce.md"
FIELD = re.compile(r"^\| [^|]+ \| `([\w.]+)` \| `([^`]*)` \| ([^|]*)\|$", re.MULTILINE)


GSSD = "# GSSD++"  # the title of the second paper's part
LINKS = "## What PixelLink leaves open"  # of its other family


@pytest.fixture(scope="module")
def page():
    return PAGE.read_text().split(f"\n{GSSD}\n")[0]


@pytest.fixture(scope="module")
def gssd_page():
    return PAGE.read_text().split(f"\n{GSSD}\n")[1].split(f"\n{LINKS}\n")[0]


def paper_row():
    """The experiment of PCA-YOLO's own row at the paper's scale."""
    study = asking.study(asking.Asked("pca-table2", "paper"), pathlib.Path("out"))
    return asking.detector(study, papers.PCA, 1)


def gssd_row(row):
    """The experiment of such a row at the paper's scale."""
    study = asked_gssd.study(asked_gssd.Asked("gssd-table1", "paper"), pathlib.Path("out"))
    return asked_gssd.experiment(study, row, 0, classes=1)


def test_the_scale_tables_are_those_of_the_code(page, gssd_page):
    for head, *rows, told in ((*scales.table(), page), (*scales_gssd.table(), gssd_page)):
        wanted = [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * 4, *rows)]
        assert "\n".join(wanted) in told


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


@pytest.mark.parametrize(
    ("row", "title", "questions"),
    [(papers_gssd.GSSD_PP, GSSD, 16), (papers_gssd.PIXELLINK_PP, LINKS, 13)],
)
def test_the_open_questions_of_gssd_are_fields_with_all_their_words(row, title, questions):
    _, part = PAGE.read_text().split(f"\n{title}\n")
    found, experiment = FIELD.findall(part.split(f"\n{LINKS}\n")[0]), gssd_row(row)
    assert len(found) == questions
    for path, default, other in found:
        *groups, name = path.split(".")
        part = experiment
        for group in groups:
            part = getattr(part, group)
        assert str(getattr(part, name)) == default, path
        hint = typing.get_type_hints(type(part))[name]
        words = {str(word) for word in typing.get_args(hint)}
        told = {default, *re.findall(r"`([^`]+)`", other), *re.findall(r"\b\d+\b", other)}
        if words:
            assert told >= words and {word for word in told if not word.isdigit()} <= words, path


def test_the_commands_of_the_page_are_there():
    page = PAGE.read_text()
    tables = {table: papers.rows for table in papers.TABLES}
    tables |= {table: papers_gssd.rows for table in papers_gssd.TABLES}
    for table, flags in re.findall(r"jaxdet reproduce (\S+) (--.*)", page):
        named = re.search(r"--rows ((?:\w+ ?)+)", flags)
        assert tables[table](table, tuple(named[1].split()) if named else ())
    for path in re.findall(r"\]\((\.\.?/?[^)]*|\w+\.md)\)", page):
        assert (PAGE.parent / path).is_file()
    for config in re.findall(r"configs/\w+\.py", page):
        assert (PAGE.parents[1] / config).is_file()
