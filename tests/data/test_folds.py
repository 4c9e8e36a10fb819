import warnings

import numpy as np
import pytest

from jaxdet.data import folds

FRACTIONS = (0.7, 0.15, 0.15)


def entries(num_patients, seed=0, most=9):
    sizes = np.random.default_rng(seed).integers(1, most, num_patients)
    return [f"p{i:03d}" for i, size in enumerate(sizes) for _ in range(size)]


@pytest.mark.parametrize("seed", range(5))
def test_a_patient_is_never_parted_and_shares_are_met(seed):
    patients = entries(60, seed)
    part = folds.assign(patients, FRACTIONS, seed)
    for patient in set(patients):
        assert len({p for q, p in zip(patients, part, strict=True) if q == patient}) == 1
    share = np.bincount(part, minlength=3) / len(patients)
    np.testing.assert_allclose(share, FRACTIONS, atol=8 / len(patients))  # the largest patient


def test_equal_patients_meet_the_shares_exactly():
    part = folds.assign([f"p{i}" for i in range(100)], FRACTIONS, 3)
    assert np.bincount(part).tolist() == [70, 15, 15]


def test_the_order_of_entries_does_not_matter_and_the_seed_does():
    patients = np.array(entries(40))
    order = np.random.default_rng(1).permutation(len(patients))
    part = folds.assign(patients.tolist(), FRACTIONS, 7)
    np.testing.assert_array_equal(folds.assign(patients[order].tolist(), FRACTIONS, 7), part[order])
    assert (folds.assign(patients.tolist(), FRACTIONS, 8) != part).any()


def test_the_split_is_that_of_last_year():
    # A changed split would put test patients of old checkpoints into training.
    part = folds.assign([f"p{i}" for i in range(10)], FRACTIONS, 0)
    assert part.tolist() == [2, 0, 0, 0, 0, 0, 1, 1, 0, 0]


def test_weights_balance_what_they_count():
    patients = [f"p{i}" for i in range(200)]
    boxes = np.random.default_rng(0).integers(0, 20, 200)
    part = folds.assign(patients, [1, 1, 1, 1], 0, boxes)
    assert np.ptp(np.bincount(part, boxes)) <= 20
    # Patients without a box are shared out by number.
    assert np.ptp(np.bincount(part[boxes == 0], minlength=4)) <= 1
    assert np.bincount(folds.assign(patients, [1, 1], 0, [0] * 200)).tolist() == [100, 100]


def lesions(num_patients, seed):
    return np.ceil(np.random.default_rng(seed).lognormal(1.5, 1, num_patients)).astype(int)


def test_folds_of_twenty_uneven_patients_have_nearly_as_many_boxes():
    names, ratios, shares = [f"p{i}" for i in range(20)], [], []
    for seed in range(60):
        boxes = lesions(20, seed)
        has = np.bincount(folds.fold_of(names, 5, seed, boxes), boxes)
        ratios.append(has.max() / has.min())
        part = folds.split_of_fold(names, 5, 0, seed, boxes, 0.125)
        shares.append(boxes[part == 1].sum() / boxes[part != 2].sum())
    assert np.median(ratios) < 1.3
    np.testing.assert_allclose(shares, 0.125, atol=0.05)


def test_every_wanted_part_gets_weight_where_there_is_enough():
    names, boxes = np.array([f"p{i}" for i in range(12)]), np.array([5] * 6 + [0] * 6)
    for seed in range(20):
        for tested in range(3):
            part = folds.split_of_fold(names.tolist(), 3, tested, seed, boxes, 0.125)
            assert (np.bincount(part, boxes) > 0).all()
        # As many as parts, then fewer: each to a part of its own, and nobody is without patients.
        for there in (3, 2):
            few = np.array([1] * there + [0] * 4)
            part = folds.assign(names[: len(few)].tolist(), (0.9, 0.05, 0.05), seed, few)
            assert (np.bincount(part, few) > 0).sum() == there == np.bincount(part, few).sum()
            assert set(part.tolist()) == {0, 1, 2}


def test_a_huge_patient_does_not_choose_the_weights():
    names, boxes = [f"p{i}" for i in range(20)], [1] * 19 + [40]
    for seed in range(10):
        for tested in range(5):
            assert folds.split_of_fold(names, 5, tested, seed, boxes, 0.125)[19] != 1


def test_weighted_folds_are_drawn_from_the_seed_and_the_patients_only():
    names, boxes = np.array(entries(20)), lesions(len(entries(20)), 1)
    parts = [folds.fold_of(names.tolist(), 5, seed, boxes) for seed in range(20)]
    assert len({part.tobytes() for part in parts}) == 20
    together = {(parts[i][:, None] == parts[i]).tobytes() for i in range(20)}
    assert len(together) == 20  # not only the folds' numbers differ
    order = np.random.default_rng(1).permutation(len(names))
    again = folds.fold_of(names[order].tolist(), 5, 3, boxes[order])
    np.testing.assert_array_equal(again, parts[3][order])


def test_weighted_folds_stay_those_of_last_year():
    names = [f"p{i}" for i in range(8)]
    assert folds.fold_of(names, 3, 0, [9, 1, 0, 4, 4, 0, 2, 7]).tolist() == [0, 1, 1, 1, 1, 0, 2, 2]


@pytest.mark.parametrize("count", [3, 4, 5])
def test_every_wanted_part_gets_a_patient(count):
    patients = [f"p{i}" for i in range(count)]
    for seed in range(20):
        part = folds.assign(patients, (0.98, 0.01, 0.01), seed)
        assert set(part.tolist()) == {0, 1, 2}
        part = folds.assign(patients, (0.99, 0.01, 0.0), seed, [100] + [1] * (count - 1))
        assert set(part.tolist()) == {0, 1}


def test_too_few_patients_are_an_error():
    with pytest.raises(ValueError, match="3 parts want as many patients; there are 2"):
        folds.assign(["a", "b", "a", "b"], FRACTIONS, 0)
    with pytest.raises(ValueError, match="3 parts want as many patients; there are 0"):
        folds.assign([], FRACTIONS, 0)


@pytest.mark.parametrize("parts", [(), (0.0, 0.0), (1.0, -0.1), (float("nan"), 1.0)])
def test_shares_must_be_shares(parts):
    with pytest.raises(ValueError, match="shares of the parts want"):
        folds.assign(["a", "b"], parts, 0)


@pytest.mark.parametrize("weights", [[1], [1, -1]])
def test_weights_must_be_one_an_entry(weights):
    with pytest.raises(ValueError, match="weights want 2 numbers >= 0"):
        folds.assign(["a", "b"], [1, 1], 0, weights)


def test_folds_validate_every_entry_once():
    patients = entries(23)
    pairs = folds.folds(patients, 5, 0)
    together = np.concatenate([val for _, val in pairs])
    assert sorted(together.tolist()) == list(range(len(patients)))
    for train, val in pairs:
        assert len(train) + len(val) == len(patients) and len(val)
        assert not {patients[i] for i in train} & {patients[i] for i in val}


def test_more_folds_than_patients_is_an_error():
    with pytest.raises(ValueError, match="5 folds want at least 5 patients; there are 4: ask"):
        folds.folds(["a", "b", "c", "d", "d"], 5, 0)
    with pytest.raises(ValueError, match="2 folds want at least 2 patients; there are 1"):
        folds.fold_of(["a", "a"], 2, 0)
    with pytest.raises(ValueError, match="at least 2 folds; got 1"):
        folds.folds(["a", "b"], 1, 0)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_a_fold_is_tested_and_the_others_are_parted_by_patient(k):
    patients = np.array(entries(23))
    weights = np.random.default_rng(1).integers(0, 4, len(patients))
    tested_in = folds.fold_of(patients.tolist(), k, 3, weights)
    vals = []
    for fold in range(k):
        part = folds.split_of_fold(patients.tolist(), k, fold, 3, weights, 0.25)
        np.testing.assert_array_equal(part == 2, tested_in == fold)
        names = [set(patients[part == i]) for i in range(3)]
        assert all(names) and sum(map(len, names)) == len(set().union(*names)) == 23
        rest = weights[part != 2].sum()
        assert abs(weights[part == 1].sum() - 0.25 * rest) <= 32  # the heaviest patient, 8 x 3
        vals.append(names[1])
    assert len(set(map(frozenset, vals))) == k  # not the same few choose all weights
    order = np.random.default_rng(2).permutation(len(patients))
    again = folds.split_of_fold(patients[order].tolist(), k, 0, 3, weights[order], 0.25)
    part = folds.split_of_fold(patients.tolist(), k, 0, 3, weights, 0.25)
    np.testing.assert_array_equal(again, part[order])


def test_without_a_share_nobody_is_val():
    part = folds.split_of_fold(["a", "b", "c", "c"], 2, 1, 0)
    assert set(part.tolist()) == {0, 2}


def test_folds_stay_those_of_last_year():
    patients = [f"p{i}" for i in range(8)]
    assert folds.fold_of(patients, 3, 0).tolist() == [2, 1, 0, 2, 0, 0, 1, 1]
    assert folds.split_of_fold(patients, 3, 1, 0, None, 0.3).tolist() == [0, 2, 0, 0, 1, 0, 2, 2]


@pytest.mark.parametrize(
    ("patients", "k", "tested", "message"),
    [
        (["a", "b"], 2, 0, "outside fold 0 of 2 there is 1 patient.*test_fold"),
        (["a", "b", "c"], 2, 2, "a fold of 2 is 0 to 1; got 2"),
        (["a", "b", "c"], 2, -1, "a fold of 2 is 0 to 1; got -1"),
        (["a", "b", "c"], 4, 0, "4 folds want at least 4 patients; there are 3"),
    ],
)
def test_a_fold_that_cannot_be(patients, k, tested, message):
    with pytest.raises(ValueError, match=message):
        folds.split_of_fold(patients, k, tested, 0, None, 0.1)


def test_digest_names_the_split():
    names, parts = ["a", "b", "c"], [0, 1, 0]
    digest = folds.digest(names, parts)
    assert len(digest) == 16 and digest == folds.digest(names[::-1], np.array(parts[::-1]))
    assert digest != folds.digest(names, [0, 1, 1]) != folds.digest(["a", "b", "d"], [0, 1, 1])
    with pytest.raises(ValueError, match="3 names with 2 parts"):
        folds.digest(names, [0, 1])


def test_the_official_split_of_280_and_natural_order():
    names = [f"HCC_{i}" for i in range(280)]
    part = folds.official(names)
    assert np.bincount(part).tolist() == [216, 54, 10]
    assert part[:54].tolist() == [1] * 54 and part[270:].tolist() == [2] * 10
    # By value, not by letter: HCC_9 is before HCC_10; slices of a patient stay together.
    order = np.random.default_rng(0).permutation(280)
    shuffled = [names[i] for i in order for _ in range(2)]
    np.testing.assert_array_equal(folds.official(shuffled), np.repeat(part[order], 2))
    assert np.bincount(folds.official(names[:15])).tolist() == [4, 1, 10]


@pytest.mark.parametrize("count", [0, 1, 14])
def test_too_few_patients_for_the_official_split(count):
    with pytest.raises(ValueError, match=f"at least 15 patients; there are {count}:.*draws one"):
        folds.official([str(i) for i in range(count)] * 2)


def test_natural_order():
    names = ["p10", "p2", "b", "10", "9", "p2a", "", "p02"]
    assert sorted(names, key=folds.natural) == ["", "9", "10", "b", "p2", "p02", "p2a", "p10"]


def test_a_fold_without_a_lesion_is_a_warning():
    patients = [f"p{i}" for i in range(8)]
    with pytest.warns(UserWarning, match=r"fold \d of 4 has \d entries and no lesion among them"):
        folds.folds(patients, 4, 0, [1, 1, 0, 0, 0, 0, 0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folds.folds(patients, 4, 0, [1] * 8)
        folds.folds(patients, 4, 0)
