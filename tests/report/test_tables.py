"""The text table of a summary."""

import numpy as np

from jaxdet.metrics import summarise
from jaxdet.report.tables import ap_table

BOX = np.array([[0, 0, 10, 10.0]])


def summary(names, found=True):
    detections = [(BOX, np.ones(1), np.zeros(1, int))] if found else [([], [], [])]
    return summarise(detections, [(BOX, [0])], names)


def test_the_whole_table():
    lines = ap_table(summary(["lesion", "cyst"])).splitlines()
    assert lines[0].startswith("AP, protocol yolo; P and R at IoU 0.5, score ")
    assert lines[1].split() == ["class", "images", "truths", "P", "R", "AP50", "AP50-95"]
    assert lines[2].split() == ["all", "1", "1", "1.0000", "1.0000", "0.9950", "0.9950"]
    assert lines[3].split() == ["lesion", "1", "1", "1.0000", "1.0000", "0.9950", "0.9950"]
    assert lines[4].split() == ["cyst", "0", "0", "-", "-", "-", "-"]
    assert lines[5].split() == [
        "small",
        "(0-32",
        "px)",
        "-",
        "1",
        "1.0000",
        "1.0000",
        "0.9950",
        "0.9950",
    ]
    assert lines[7].split() == ["large", "(96-...", "px)", "-", "0", "-", "-", "-", "-"]
    assert len(lines) == 8


def test_images_that_hold_no_more_detections_are_told():
    text = ap_table({**summary(["lesion"]), "full": 3})
    assert "; 3 images hold as many detections as fit: model.max_detections" in text
    assert "as fit" not in ap_table({**summary(["lesion"]), "full": 0})
    text = ap_table({**summary(["lesion"]), "full": 3, "left_out": 1444})
    assert "as fit: model.max_detections, 1444 more were found" in text


def test_faults_of_the_data_are_told():
    text = ap_table({**summary(["lesion"]), "faults": {"degenerate": 2}})
    assert text.splitlines()[0].endswith("; boxes clipped or left out: 2 degenerate")


def test_columns_stand_below_each_other_whatever_the_name():
    text = ap_table(summary(["a", "a very long name of a class that has no truth"]))
    assert text.isascii() and "\t" not in text
    assert len({len(line) for line in text.splitlines()[1:]}) == 1


def test_without_truth_there_is_no_score_and_no_number():
    text = ap_table(summarise([([], [], [])], [([], [])], ["lesion"], "coco"))
    assert text.splitlines()[0] == "AP, protocol coco"
    assert text.splitlines()[2].split() == ["all", "1", "0", "-", "-", "-", "-"]


def test_no_detections_is_zero_and_no_dash():
    assert ap_table(summary(["lesion"], found=False)).splitlines()[2].split()[3:] == ["0.0000"] * 4
