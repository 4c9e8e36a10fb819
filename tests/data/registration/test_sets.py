import dataclasses

import numpy as np
import pytest

from jaxdet.data.registration import portal, sets

SETTINGS = sets.Settings("affine", "three cases")


@pytest.fixture(scope="module")
def cases(case_of):
    return [case_of(shift=(i, -i)) for i in range(3)]


@pytest.fixture(scope="module")
def made(cases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "one"
    return sets.register_all(cases, folder, SETTINGS, progress=False)


def same(a, b):
    for field in dataclasses.fields(a):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
        else:
            assert one == other and type(one) is type(other)


def test_files_hold_the_registered_cases(cases, made):
    assert [file.name for file in made] == ["00000.npz", "00001.npz", "00002.npz"]
    for case, file in zip(cases, made, strict=True):
        same(sets.read(file), portal.to_portal(case, "affine"))


def test_two_workers_write_the_same_bytes(cases, made, tmp_path, capsys):
    files = sets.register_all(cases, tmp_path / "two", SETTINGS, workers=2)
    assert "affine: 100%" in capsys.readouterr().err
    for one, two in zip(made, files, strict=True):
        same(sets.read(one), sets.read(two))


class Watched:
    """Cases that say which of them were asked for."""

    def __init__(self, case):
        self.case, self.asked = case, []

    def __len__(self):
        return 3

    def __getitem__(self, index):
        self.asked.append(index)
        return self.case


def test_what_is_there_is_kept(cases, tmp_path):
    sets.register_all(cases[:1] * 3, tmp_path, SETTINGS, progress=False)
    (tmp_path / "00001.npz").unlink()
    (tmp_path / "00001.part").write_bytes(b"cut off")
    again = Watched(cases[0])
    sets.register_all(again, tmp_path, SETTINGS, progress=False)
    assert again.asked == [1]
    same(sets.read(tmp_path / "00001.npz"), sets.read(tmp_path / "00000.npz"))
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", *[".npz"] * 3]


def test_a_folder_has_one_kind_of_cases(cases, made):
    folder = made[0].parent
    for changed in (
        {"method": "rigid"}, {"seed": 1}, {"source": "others"}, {"per_slice": False},
        {"backend": "elastix"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"was begun with .* name another folder"):
            sets.register_all(cases, folder, dataclasses.replace(SETTINGS, **changed))
    with pytest.raises(ValueError, match=r'was begun with .*"cases": 3'):
        sets.register_all(cases[:2], folder, SETTINGS)


def test_a_case_that_fails_stops_the_rest_and_is_named(cases, tmp_path):
    bad = dataclasses.replace(cases[0], annotated="delayed", name="patient q slice 9")
    for workers in (1, 2):
        with pytest.raises(ValueError, match="patient q slice 9: has no delayed phase"):
            sets.register_all(
                [bad, bad], tmp_path / str(workers), SETTINGS, workers=workers, progress=False
            )


def test_faults_of_folders_and_words(cases, tmp_path):
    with pytest.raises(ValueError, match="wanted a method of rigid, affine, nonrigid"):
        sets.register_all(cases, tmp_path, sets.Settings("demons", ""))
    with pytest.raises(ValueError, match="wants 1 worker or more; got 0"):
        sets.register_all(cases, tmp_path, SETTINGS, workers=0)
    assert not any(tmp_path.iterdir())
    assert sets.register_all([], tmp_path / "none", SETTINGS, workers=2, progress=False) == []
    (tmp_path / "5.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"has \.npz files and no settings\.json"):
        sets.register_all(cases, tmp_path, SETTINGS)
    for file in ("5.npz", "6.npz"):
        with pytest.raises(ValueError, match=rf"{file}: no case of a registered set"):
            sets.read(tmp_path / file)


def test_boxes_without_masks_are_kept(cases, tmp_path):
    case = dataclasses.replace(cases[0], annotated="portal", lesions=None, livers=None)
    (file,) = sets.register_all([case], tmp_path, SETTINGS, progress=False)
    found = sets.read(file)
    assert found.lesions is None and found.livers is None
    np.testing.assert_array_equal(found.boxes_xyxy, case.boxes_xyxy)
