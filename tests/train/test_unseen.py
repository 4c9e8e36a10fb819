"""Whom a RUN was trained on is remembered, and they are never scored by mistake."""

from dataclasses import replace

import numpy as np
import pytest
import toy

from jaxdet import run as runs
from jaxdet.data.sources import Dataset, Record
from jaxdet.train import unseen


@pytest.fixture(autouse=True)
def enlisted(monkeypatch):
    toy.enlist(monkeypatch.setitem)


def dataset(patients, split="test", names=None):
    """A split of images whose pixels nobody reads."""

    def record(patient, name):
        no_boxes = np.zeros((0, 4), np.float32)
        no_labels, none = np.zeros(0, np.int32), np.zeros(0, np.float32)
        return Record(name, patient, no_boxes, no_labels, np.zeros(0, bool), none)

    records = tuple(map(record, patients, names or [f"image {p}" for p in patients]))
    return Dataset(("tumour",), records, split, {}, pixels=lambda i: np.zeros((4, 4, 1), np.uint8))


def make(path, patients=("p2", "p10"), **data):
    facts = {} if patients is None else {"trained_on": list(patients)}
    return runs.create(path, toy.experiment(data=data), ("tumour",), **facts)


def test_patients_of_training_are_sorted_and_told_once():
    assert unseen.trained_on(dataset(["b", "a", "b"])) == ["a", "b"]


def test_the_patients_of_a_start_belong_to_them(tmp_path):
    start = make(tmp_path / "start", ["c", "a"])
    assert unseen.trained_on(dataset(["b", "a"]), start) == ["a", "b", "c"]
    older = make(tmp_path / "older", None)
    assert unseen.trained_on(dataset(["b"]), older) == ["b"]


def test_who_was_trained_on_is_refused(tmp_path):
    run = make(tmp_path / "run", [f"p{i}" for i in range(9)])
    assert unseen.check_unseen(run, dataset(["p10", "q0"])) == "unseen"
    with pytest.raises(ValueError, match=r"trained on 1 of the patients of this test split \(p2\)"):
        unseen.check_unseen(run, dataset(["p10", "p2", "p2"]))
    many = dataset([f"p{i}" for i in range(12)], "val")
    message = r"on 9 of .* val split \(p0, p1, p2, p3, p4 \.\.\.\).*--other-patients"
    with pytest.raises(ValueError, match=message):
        unseen.check_unseen(run, many)


def test_capitals_and_spaces_do_not_hide_a_patient(tmp_path):
    with pytest.raises(ValueError, match="on 1 of the patients"):
        unseen.check_unseen(make(tmp_path / "run", ["Case 7"]), dataset([" CASE 7"]))


def test_the_own_training_split_is_scored_on_purpose_but_no_list_of_other_data(tmp_path):
    run, train = make(tmp_path / "run"), dataset(["p2"], "train")
    assert unseen.check_unseen(run, train) == "training"
    with pytest.raises(ValueError, match="of this train split"):
        unseen.check_unseen(run, train, other_data=True)


def test_where_nothing_is_known_that_is_the_answer(tmp_path):
    run = make(tmp_path / "run", None)
    assert unseen.check_unseen(run, dataset(["p2"])) == "unknown"


def test_a_patient_hidden_in_a_file_name_is_found_by_the_pattern_of_the_run(tmp_path):
    run = make(tmp_path / "run", ["p2"], patient_pattern=r"(p\d+)_")
    # As the evaluate verb does: the experiment is that of the other data.
    other = replace(run.experiment, data=replace(run.experiment.data, patient_pattern=""))
    run, files = replace(run, experiment=other), ["images/p2_3.png", "images/x.png"]
    with pytest.raises(ValueError, match=r"1 of the patients .*\(p2\)"):
        unseen.check_unseen(run, dataset(files, names=files), other_data=True)
    # Who the patient is is known: the file's name does not matter.
    assert unseen.check_unseen(run, dataset(["q", "r"], names=files), other_data=True) == "unseen"


def test_a_split_by_slice_is_said_and_not_refused(tmp_path):
    run = make(tmp_path / "run", split="fold", split_unit="slice")
    for split, told in (("test", "split by slice"), ("train", "training")):
        assert unseen.check_unseen(run, dataset(["p2"], split)) == told
    with pytest.raises(ValueError, match="trained on 1 of the patients"):
        unseen.check_unseen(run, dataset(["p2"]), other_data=True)
    # Only folds are dealt by slice.
    drawn = make(tmp_path / "drawn", split="patient", split_unit="slice")
    with pytest.raises(ValueError, match="trained on 1 of the patients"):
        unseen.check_unseen(drawn, dataset(["p2"]))


@pytest.mark.parametrize("data", [{}, {"seed": 1}, {"source": "coco"}])
def test_a_start_that_knows_the_scored_is_refused_whatever_its_data(tmp_path, data):
    start = make(tmp_path / "start", **data)
    message = r"init_from: .*start was trained on 1 of .* val split \(P2\).*init_patients=.others"
    with pytest.raises(ValueError, match=message):
        unseen.check_start(start, dataset(["P2", "p3"], "val"))
    unseen.check_start(start, dataset(["p3"], "val"))
    unseen.check_start(make(tmp_path / "older", None), dataset(["p2"]))
