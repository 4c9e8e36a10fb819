"""The code of docs/statistics.md prints what the page says it prints."""

import contextlib
import io
import pathlib
import re

PAGE = pathlib.Path(__file__).parents[2] / "docs/statistics.md"
BLOCKS = re.compile(r"^```python\n(.*?)^```\n\n^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_page_prints_what_it_says():
    page = PAGE.read_text()
    blocks = BLOCKS.findall(page)
    assert len(blocks) == page.count("```python") == 4
    names: dict = {}
    for code, wanted in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(PAGE), "exec"), names)
        assert printed.getvalue() == wanted


def test_the_page_names_what_is_there():
    linked = re.findall(r"\]\((\.\.[^)]*)\)", PAGE.read_text())
    assert linked
    for path in linked:
        assert (PAGE.parent / path).is_file()
