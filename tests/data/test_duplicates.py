import warnings

import cv2
import numpy as np
import pytest

from jaxdet.data import duplicates, images


def picture(seed, dtype=np.int16):
    rng = np.random.default_rng(seed)
    coarse = rng.normal(40, 80, (24, 24)).astype(np.float32)
    smooth = cv2.resize(coarse, (128, 128), interpolation=cv2.INTER_CUBIC)
    return (smooth + rng.normal(0, 5, (128, 128)))[..., None].astype(dtype)


def apart(a, b):
    return (int(duplicates.near(a), 16) ^ int(duplicates.near(b), 16)).bit_count()


def test_equal_pixels_and_only_those_are_exact():
    one = picture(0)
    assert duplicates.exact(one) == duplicates.exact(one.copy())
    assert duplicates.exact(one[::-1][::-1]) == duplicates.exact(one)
    for other in (one + 1, one.astype(np.float32), one.reshape(64, 256, 1), picture(1)):
        assert duplicates.exact(other) != duplicates.exact(one)


def test_near_sees_through_noise_and_tells_pictures_apart():
    one = picture(0)
    noisy = one + np.random.default_rng(9).normal(0, 3, one.shape).astype(np.int16)
    assert apart(one, noisy) <= duplicates.NEAR_BITS
    half = cv2.resize(one[..., 0], (64, 64), interpolation=cv2.INTER_AREA)[..., None]
    assert apart(one, half) <= duplicates.NEAR_BITS
    others = [apart(one, picture(seed)) for seed in range(1, 30)]
    assert min(others) > 4 * duplicates.NEAR_BITS
    assert duplicates.near(np.full((32, 32, 3), 7, np.uint8)) == "0" * 64
    assert duplicates.near(np.zeros((2, 3, 1), np.float32)) == "0" * 64


def test_a_patient_or_picture_in_two_splits_is_found():
    patients = {"train": ["Ann", "bob"], "val": ["eve"], "test": ["ann ", "bob"]}
    found = duplicates.in_two_splits(patients)
    assert found == ["patient Ann (test and train)", "patient bob (test and train)"]
    pixels = {"train": ["a", "b"], "val": ["b"], "test": ["c", "d"]}
    names = {"train": ["p1", "p1"], "val": ["p2"], "test": ["p3", "p3"]}
    (sentence,) = duplicates.in_two_splits(names, pixels)
    assert sentence == "the same pixels under p1 and p2 (train and val)"
    assert duplicates.in_two_splits({}) == []
    assert duplicates.in_two_splits({"train": ["a", "a"]}, {"train": ["x", "x"]}) == []


def test_pictures_that_look_alike_are_a_warning_with_names():
    one, two = duplicates.near(picture(0)), duplicates.near(picture(1))
    flipped = f"{int(one, 16) ^ 1:064x}"
    texts, names = [one, two, flipped, "0" * 64, "0" * 64], list("abcde")
    with pytest.warns(UserWarning, match=r"1 pairs of pictures look alike .*: a and c"):
        pairs = duplicates.warn_of_alike(texts, ["p", "q", "r", "s", "t"], names)
    assert pairs == [(0, 2)]
    assert duplicates.warn_of_alike(texts, ["p", "q", "P ", "s", "t"], names) == []
    assert duplicates.warn_of_alike([], [], []) == []


def test_warning_agrees_with_counting_bit_by_bit():
    rng = np.random.default_rng(0)
    texts = [f"{int(v):064x}" for v in rng.integers(1, 1 << 32, 60)]
    people = [str(i) for i in range(60)]
    wanted = [
        (i, j)
        for i in range(60)
        for j in range(i + 1, 60)
        if (int(texts[i], 16) ^ int(texts[j], 16)).bit_count() <= duplicates.NEAR_BITS
    ]
    with pytest.warns(UserWarning, match=f"{len(wanted)} pairs"):
        assert duplicates.warn_of_alike(texts, people, people) == wanted


def test_real_patients_do_not_look_alike(shared):
    folder = shared / "data" / "msd_task03_liver" / "images"
    files = sorted(folder.glob("flipped_*.jpg"))[::4]
    patients = [file.name.split("_")[1] for file in files]
    texts = [duplicates.near(images.read(file, 1)) for file in files]
    assert len(set(patients)) > 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert duplicates.warn_of_alike(texts, patients, patients) == []
