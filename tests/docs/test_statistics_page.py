"""The code of docs/statistics.md prints what the page says it prints."""

import contextlib
import io
import json
import pathlib
import re

from jaxdet.metrics import statistics

PAGE = pathlib.Path(__file__).parents[2] / "docs/statistics.md"
BLOCKS = re.compile(  # of code, and what it prints where it prints something
    r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL
)


def test_the_page_prints_what_it_says():
    page = PAGE.read_text()
    blocks = BLOCKS.findall(page)
    assert len(blocks) == page.count("```python") == 6
    assert sum(bool(wanted) for _, wanted in blocks) == page.count("```text") == 5
    names: dict = {}
    for code, wanted in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(PAGE), "exec"), names)
        assert printed.getvalue() == wanted


def test_the_page_reads_the_files_of_evaluate(tmp_path):
    (code,) = [code for code, _ in BLOCKS.findall(PAGE.read_text()) if "def performances" in code]
    names: dict = {"st": statistics}
    exec(compile(code, str(PAGE), "exec"), names)
    keys = ["iou30", "iou50", "iou70", "iobb30", "iobb50", "iobb70"]
    (tmp_path / "metrics").mkdir()
    for split, first in (("val", 10), ("test", 20)):
        row = {"protocol": "l0sg"} | {key: (first + i) / 100 for i, key in enumerate(keys)}
        content = {"protocols": [row | {"protocol": "coco", "iou30": 0.9}, row]}
        (tmp_path / "metrics" / f"{split}_l0sg.json").write_text(json.dumps(content))
    got = names["performances"](tmp_path)
    wanted = [0.10, 0.11, 0.12, 0.13, 0.14, 0.15, 0.21, 0.24]
    assert got == dict(zip(statistics.EIGHT_METRICS, wanted, strict=True))


def test_the_page_names_what_is_there():
    linked = re.findall(r"\]\((\.\.[^)]*)\)", PAGE.read_text())
    assert linked
    for path in linked:
        assert (PAGE.parent / path).is_file()
