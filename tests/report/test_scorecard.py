"""A scorecard as text: every section is there, and what is not defined is never NaN."""

import numpy as np
import pytest

from jaxdet.metrics.facts import Facts
from jaxdet.metrics.protocols import PROTOCOLS
from jaxdet.metrics.scorecard import scorecard
from jaxdet.report import curves
from jaxdet.report import scorecard as text_of

BOX = np.array([[0, 0, 10, 10.0]])
NONE = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
HIT = (BOX, np.array([0.75]), np.zeros(1, int))
TRUTH, FREE = (BOX, np.zeros(1, int)), (np.zeros((0, 4)), np.zeros(0, int))
KNOWN = Facts(
    ("a", "b"),
    ("portal", "arterial"),
    np.ones((2, 2)),
    (np.array([12.0]), np.zeros(0)),
    (np.array([np.nan]), np.zeros(0)),
)


def card(found, truths, known=KNOWN, **options):
    return scorecard(found, truths, ["tumour"], known, samples=20, **options).numbers


def test_every_section_with_its_numbers():
    text = text_of.text(card([HIT, NONE], [TRUTH, FREE], protocol="coco"))
    lines = text.splitlines()
    assert lines[0].startswith("AP, protocol coco")
    assert any(line.startswith("AR-50-95") and "1: 1.0000" in line for line in lines)
    rows = {line.split()[0]: line.split() for line in lines if line}
    for name in PROTOCOLS:
        assert any(line.strip().startswith(f"{name}: ") for line in lines)  # why
    assert rows["10-20"] == ["10-20", "1", "1.000", "1.000", "1.000"]
    assert rows["portal"][1:3] == ["1", "1.000"]
    assert "phases apart, mm: not known" in lines
    assert "below" not in rows  # strata without a lesion are left out
    assert rows["slices"][1:4] == ["1", "1", "1.000"]
    assert any("1 lesion, image, 0.5" in line for line in lines)
    assert any("1/8" in line and "CPM" in line for line in lines)
    assert any(line.startswith("truths") and "merged" in line for line in lines)


@pytest.mark.parametrize("protocol", ["coco", "yolo", "l0sg"])
def test_nothing_prints_nan(protocol):
    for found, truths in (([], []), ([NONE], [FREE]), ([HIT], [FREE]), ([NONE], [TRUTH])):
        text = text_of.text(card(found, truths, None, protocol=protocol))
        assert "nan" not in text.lower().replace("inan", "")
        assert "n/a (" in text  # of the interval: one patient or none


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("training", "TRAINED ON THESE PATIENTS"),
        ("unknown", "does not say whom it was trained on"),
        ("split by slice", "SPLIT BY SLICE: slices of one patient may be on both sides"),
        ("declared others", "declared to be others"),
    ],
)
def test_whose_patients_these_are_comes_first(word, told):
    numbers = card([HIT, NONE], [TRUTH, FREE])
    assert told in text_of.text({**numbers, "patients_are": word}).splitlines()[0]
    assert text_of.text({**numbers, "patients_are": "unseen"}) == text_of.text(numbers)


def test_the_froc_picture(tmp_path):
    for name, (found, truths) in {"some": ([HIT], [TRUTH]), "none": ([], [])}.items():
        curves.froc(card(found, truths, None), tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
