"""Fig. 5 of GSSD++: what is drawn, and what is left out."""

import pytest
from matplotlib.figure import Figure

from jaxdet.report import by_registration


def row(name, kind, mean, sd=None, state="trained"):
    numbers = {"mean": mean, "sd": sd}
    each = {of: dict.fromkeys(by_registration.PANELS, value) for of, value in numbers.items()}
    return {"name": name, "registration": kind, "state": state, "best": each}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, as Matplotlib holds them."""
    kept, plain = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: kept.append(f) or plain(f, *a, **k))
    return kept


def test_a_line_a_model_over_the_kinds_that_anybody_has(drawn, tmp_path):
    rows = [
        row("gssd", "nonrigid", 0.6, 0.02),
        row("gssd", "none", 0.5),
        row("ssd", "none", None),
        {"name": "mscr", "registration": "rigid", "state": "not built"},
    ]
    by_registration.draw(rows, tmp_path / "sub" / "a.png")
    assert (tmp_path / "sub" / "a.png").stat().st_size > 1000
    (figure,) = drawn
    for ax, title in zip(figure.axes, by_registration.PANELS, strict=True):
        assert ax.get_title() == title
        assert [label.get_text() for label in ax.get_xticklabels()] == ["none", "nonrigid"]
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["gssd", "ssd"]
        assert list(ax.containers[0].lines[0].get_ydata()) == pytest.approx([50, 60])
        assert str(ax.containers[1].lines[0].get_ydata()[0]) == "nan"


def test_nothing_trained_says_so(drawn, tmp_path):
    by_registration.draw([row("gssd", "none", 0.5, state="not trained")], tmp_path / "a.png")
    assert [ax.texts[0].get_text() for ax in drawn[0].axes] == ["nothing is trained"] * 4
