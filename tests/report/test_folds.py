"""The table of a cross-validation."""

import pytest

from jaxdet.metrics.audit import audit, to_json
from jaxdet.report import folds
from jaxdet.study import crossval, versus

METRICS = crossval.METRICS
AUDIT = to_json(audit([], [], score_threshold=0.25, protocol="yolo"))


def result(ap50s, against=(), **fields):
    rows = [
        {
            "fold": i,
            "images": 10 + i,
            "patients": 2,
            "truths": 0 if value is None else 7,
            "threshold": None,
            **dict.fromkeys((*METRICS, *crossval.OVERLAPS), value),
        }
        for i, value in enumerate(ap50s)
    ]
    return {
        "k": len(rows),
        "selection": "nested",
        "split_unit": "patient",
        "folds_digest": "0123456789abcdef",
        "protocol": "yolo",
        "folds": rows,
        **crossval.summarise(rows),
        "test_share": 0.5,
        "audit": AUDIT,
        "against": versus.compare(rows, against, METRICS, 0.5),
        **fields,
    }


def test_a_row_a_fold_then_mean_and_sd():
    lines = folds.fold_table(result([0.5, 0.6, 0.7])).splitlines()
    assert lines[0] == "3 folds, selection nested, digest 0123456789abcdef"
    assert "protocol yolo; 33 images, 6 patients, 21 truths" in lines[1]
    assert "ddof 1" in lines[1]
    head = ["fold", "images", "patients", "truths", "P", "R", "AP50", "AP75", "AP50-95"]
    assert lines[2].split() == head
    assert lines[4].split() == ["fold", "1", "11", "2", "7"] + ["0.6000"] * 5
    assert lines[6].split() == ["mean"] + ["0.6000"] * 5
    assert lines[7].split() == ["+-", "SD"] + ["0.1000"] * 5
    assert len({len(line) for line in lines[2:8]}) == 1
    # The second block: paper 2's overlaps.
    assert lines[8] == "" and "IoBB" in lines[9]
    assert lines[10].split() == ["fold", "IoU30", "IoU50", "IoU70", "IoBB30", "IoBB50", "IoBB70"]
    assert lines[14].split() == ["mean"] + ["0.6000"] * 6
    assert lines[15].split() == ["+-", "SD"] + ["0.1000"] * 6
    # The verdicts of all folds together.
    assert lines[16] == "" and lines[17].startswith("verdicts, protocol yolo")
    assert [line.split()[0] for line in lines[18:]] == ["truths", "this", "detections", "this"]


def test_folds_without_truth_are_in_no_mean_and_it_is_said():
    told = folds.fold_table(result([0.5, None, 0.7, None]))
    assert "AP50: mean of 2 folds; not defined in fold 1, 3" in told
    assert "mean" in told and "0.6000" in told
    assert "nan" not in told.lower()


@pytest.mark.parametrize(
    ("ap50s", "mean", "sd"), [([None, None], "n/a", "n/a"), ([0.5, None], "0.5000", "n/a")]
)
def test_too_few_folds_are_not_available(ap50s, mean, sd):
    lines = folds.fold_table(result(ap50s)).splitlines()
    assert lines[5].split() == ["mean"] + [mean] * 5
    assert lines[6].split() == ["+-", "SD"] + [sd] * 5


def test_selection_by_the_test_fold_says_that_it_flatters():
    told = folds.fold_table(result([0.5, 0.6], selection="test_fold"))
    assert "weights were chosen on the tested images: these numbers flatter" in told
    assert "images were dealt" not in told
    told = folds.fold_table(result([0.5, 0.6], split_unit="slice"))
    assert "images were dealt, not patients: who is tested was trained on" in told


def test_tests_against_a_rival():
    theirs = result([0.4, 0.55, 0.5])["folds"]
    told = folds.fold_table(result([0.5, 0.6, 0.7], [versus.Rival("runs/b", theirs, AUDIT)]))
    table = told.split("against ")[1].splitlines()
    assert table[0] == (
        "runs/b: p-values of paired tests; corrected t has test share 0.500, Holm is of corrected t"
        " over all rivals and metrics"
    )
    row = table[4].split()
    assert row[:5] == ["AP50", "3", "0.6000", "0.4833", "+0.1167"]
    # t = 0.116667 / (0.0763763 / sqrt 3) = 2.6458, 2 degrees of freedom; corrected: / sqrt 2.5
    assert row[5:] == ["0.118", "0.059", "0.236", "1.000", "0.250"]


def test_a_test_that_is_not_defined_is_not_available_and_says_why():
    theirs = result([0.5, 0.6])["folds"]
    told = folds.fold_table(result([0.5, 0.6], [versus.Rival("b", theirs, AUDIT)]))
    assert told.count("n/a (all differences are 0)") == 5
    told = folds.fold_table(result([0.5, None], [versus.Rival("b", theirs, AUDIT)]))
    assert "n/a (n = 1)" in told
    assert "nan" not in told.lower()


def test_a_tiny_p_is_no_zero():
    theirs = result([0.1001, 0.2002, 0.3])["folds"]
    told = folds.fold_table(result([0.9, 1.0, 1.1], [versus.Rival("b", theirs, AUDIT)]))
    assert "< 0.001" in told


def test_verdicts_of_rivals_stand_beside_ours():
    theirs = result([0.5, 0.6])["folds"]
    counts = {**AUDIT["truths"], "all": 4, "found": 3, "merged": 1}
    rivals = [
        versus.Rival("this", theirs, {**AUDIT, "truths": counts}),
        versus.Rival("old", theirs, {**AUDIT, "threshold": 0.3}),
    ]
    lines = folds.fold_table(result([0.5, 0.6], rivals)).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("verdicts"))
    assert lines[first + 2].split()[:3] == ["this", "0.250", "0"]
    rival = lines[first + 3].split()
    assert rival[:4] == ["against", "this", "0.250", "4"]
    assert rival[4:6] == ["3", "(75.0%)"]
    assert lines[-1] == "old was audited under another protocol or other overlaps"
