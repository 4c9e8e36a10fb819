"""Which patient goes where? Splits and folds from one function, by patient and never by slice."""

import hashlib
import json
import re
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

OFFICIAL_TEST, OFFICIAL_VAL = 10, 0.2  # patients; share of the others
OFFICIAL_LEAST = 15  # patients, so that each split gets one
ORDERS = 64  # in which patients are dealt by weight; the best balanced of them is kept


def assign(
    patients: Sequence[str],
    parts: Sequence[float | int],
    seed: int,
    weights: Sequence[int] | Int[np.ndarray, "N"] | None = None,
) -> Int[np.ndarray, "N"]:
    """The part of each of N entries, such that all entries of a patient share one.

    `parts` are the wanted shares (any scale; a share of 0 stays empty). `weights` says what a share
    is a share of: entries when None, else for instance boxes; patients of weight 0 are shared out
    by number. The answer depends on the seed and the patients with their weights, not on the order
    of entries. Patients in an order drawn from the seed go to the part that lacks most; every
    wanted part gets one, and one with weight as far as there are enough. Fewer patients than wanted
    parts is a ValueError; no entries at all is too.

    With weights 64 orders are tried, because a few large patients make one order a poor deal. Kept
    is the one whose parts are closest to the wanted shares of the weight (the largest deviation
    counts), then to those of the number of patients, then the first.
    """
    share = np.asarray(parts, np.float64)
    if share.ndim != 1 or not (np.isfinite(share).all() and (share >= 0).all() and share.sum() > 0):
        raise ValueError(f"shares of the parts want numbers >= 0 and one > 0; got {list(parts)}")
    names, which = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    wanted = share > 0
    if len(names) < wanted.sum():
        raise ValueError(f"{wanted.sum()} parts want as many patients; there are {len(names)}")
    counts = np.ones(len(which)) if weights is None else np.asarray(weights, np.float64)
    if counts.shape != which.shape or (counts < 0).any():
        raise ValueError(f"weights want {len(which)} numbers >= 0, one an entry; got {weights}")
    weight = np.bincount(which, counts, minlength=len(names))
    share = share / share.sum()
    orders = 1 if weights is None else ORDERS
    order = np.stack([_shuffled(names, seed, deal) for deal in range(orders)])
    part = _dealt(order, weight, share)
    return min(part, key=lambda one: _deviations(one, weight, share))[which]


def folds(
    patients: Sequence[str],
    k: int,
    seed: int,
    weights: Sequence[int] | Int[np.ndarray, "N"] | None = None,
) -> list[tuple[Int[np.ndarray, "T"], Int[np.ndarray, "V"]]]:
    """k pairs of positions (training, validation); every entry is validated once.

    A patient is on one side only. k < 2 and k above the number of patients are a ValueError. A fold
    without any weight, such as one without a lesion, is a warning with the counts.
    """
    part = fold_of(patients, k, seed, weights)
    if weights is not None:
        _warn_of_empty(np.bincount(part, weights, minlength=k), np.bincount(part, minlength=k))
    return [(np.flatnonzero(part != i), np.flatnonzero(part == i)) for i in range(k)]


def fold_of(
    patients: Sequence[str],
    k: int,
    seed: int,
    weights: Sequence[int] | Int[np.ndarray, "N"] | None = None,
) -> Int[np.ndarray, "N"]:
    """The fold, 0 to k - 1, in which each of N entries is tested; all entries of a patient in one.

    Drawn by `assign` in equal shares of the weights. ValueError as in `folds`.
    """
    there = len(set(patients))
    if k < 2:
        raise ValueError(f"cross-validation wants at least 2 folds; got {k}")
    if there < k:
        raise ValueError(f"{k} folds want at least {k} patients; there are {there}: ask for fewer")
    return assign(patients, [1.0] * k, seed, weights)


def split_of_fold(
    patients: Sequence[str],
    k: int,
    tested: int,
    seed: int,
    weights: Sequence[int] | Int[np.ndarray, "N"] | None = None,
    val_share: float = 0.0,
) -> Int[np.ndarray, "N"]:
    """0 train, 1 val, 2 test of each of N entries, when fold `tested` of k is the test.

    Of the other patients val gets about `val_share` of the weights and one patient at least, drawn
    anew for every fold, so that not the same few choose all weights; with 0 nobody. ValueError as
    in `folds`, for a fold outside 0 to k - 1, and where the others are too few for train and val.
    """
    if not 0 <= tested < k:
        raise ValueError(f"a fold of {k} is 0 to {k - 1}; got {tested}")
    test = fold_of(patients, k, seed, weights) == tested
    part = np.where(test, 2, 0)
    if not val_share:
        return part
    rest = [str(patient) for patient, out in zip(patients, test, strict=True) if not out]
    if len(set(rest)) < 2:
        raise ValueError(
            f"outside fold {tested} of {k} there is 1 patient, and train and val want one each: add"
            ' patients, or let the test fold choose the weights (selection "test_fold")'
        )
    # A seed of its own: with the outer one the same patients would be val in almost every fold.
    own = int.from_bytes(hashlib.sha256(f"{seed} {k} {tested}".encode()).digest()[:4], "big")
    counts = None if weights is None else np.asarray(weights)[~test]
    part[~test] = assign(rest, [1 - val_share, val_share], own, counts)
    return part


def official(patients: Sequence[str]) -> Int[np.ndarray, "N"]:
    """0 train, 1 val, 2 test of each of N entries, by the fixed split of GSSD++'s code.

    Subjects sorted by name, numbers in it by value: the last ten are test, the first fifth of the
    others (rounded down) val, the rest train; 280 give 216, 54 and 10 (Lee 2021; facts,
    gssd_baselines 0.7). Fewer than 15 subjects are a ValueError: one split would be empty.
    """
    names = sorted(set(patients), key=natural)
    if len(names) < OFFICIAL_LEAST:
        raise ValueError(
            f"the official split wants at least {OFFICIAL_LEAST} patients; there are {len(names)}:"
            ' data.split="patient" draws one'
        )
    others = len(names) - OFFICIAL_TEST
    val = int(OFFICIAL_VAL * others)
    part = dict(zip(names, [1] * val + [0] * (others - val) + [2] * OFFICIAL_TEST, strict=True))
    return np.array([part[patient] for patient in patients], np.int64)


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts numbers in names by value: p2 before p10."""
    pieces = re.split(r"(\d+)", name)
    return [(0, int(text), "") if text.isdecimal() else (1, 0, text) for text in pieces if text]


def _warn_of_empty(weight: np.ndarray, entries: np.ndarray) -> None:
    for fold in np.flatnonzero(weight == 0):
        warnings.warn(
            f"fold {fold} of {len(weight)} has {entries[fold]} entries and no lesion among them:"
            " its score says nothing. Fewer patients than folds have one: use fewer folds",
            stacklevel=3,
        )


def digest(names: Sequence[str], parts: Sequence[int] | Int[np.ndarray, "N"]) -> str:
    """16 hexadecimal digits that change when an entry changes its part, and not with the order."""
    if len(names) != len(parts):
        raise ValueError(f"{len(names)} names with {len(parts)} parts")
    pairs = sorted((str(name), int(part)) for name, part in zip(names, parts, strict=True))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]


def _dealt(
    order: Int[np.ndarray, "O P"], weight: Float[np.ndarray, "P"], share: Float[np.ndarray, "K"]
) -> Int[np.ndarray, "O P"]:
    """The part of each patient, when they are dealt in each of the orders; all orders at a time."""
    # Two ledgers: patients with weight are dealt by weight, those without by number.
    ledgers = np.outer([weight.sum(), (weight == 0).sum()], share)
    lacks, rows = np.tile(ledgers, (len(order), 1, 1)), np.arange(len(order))
    empty = np.tile(share > 0, (len(order), 1))
    bare, part = empty.copy(), np.zeros_like(order)  # bare: wanted and without any weight
    heavy = np.full(len(order), (weight > 0).sum())  # patients with weight that are still to come
    for left, i in zip(range(order.shape[1], 0, -1), order.T, strict=True):
        weighs = weight[i] > 0
        ledger, amount = np.where(weighs, 0, 1), np.where(weighs, weight[i], 1.0)
        # The last patients are kept for the parts that have none yet, the last with weight for
        # those that have no weight. An empty part is bare too, so that both can be had.
        saved = (weighs & (heavy <= bare.sum(axis=1)))[:, None]
        allowed = np.where(saved, bare, share > 0)
        allowed = np.where((left <= empty.sum(axis=1))[:, None], empty, allowed)
        to = np.argmax(np.where(allowed, lacks[rows, ledger], -np.inf), axis=1)
        part[rows, i] = to
        lacks[rows, ledger, to] -= amount
        empty[rows, to] = False
        bare[rows, to] &= ~weighs
        heavy -= weighs
    return part


def _deviations(
    part: Int[np.ndarray, "P"], weight: Float[np.ndarray, "P"], share: Float[np.ndarray, "K"]
) -> tuple[float, ...]:
    """How far the worst part is from its share of the weight, and from that of the patients."""
    deviations = []
    for amount in (weight, np.ones(len(part))):
        has = np.bincount(part, amount, minlength=len(share))
        deviation = np.abs(has - share * amount.sum()).max() / max(amount.sum(), 1.0)
        deviations.append(round(float(deviation), 9))  # equal ones must not differ by float noise
    return tuple(deviations)


def _shuffled(names: np.ndarray, seed: int, deal: int) -> Int[np.ndarray, "P"]:
    # By hash, not by a NumPy generator, whose stream may change from one release to the next.
    start = f"{seed} {deal}" if deal else f"{seed}"  # the first is the one of a deal without weight
    keys = [hashlib.sha256(f"{start}\0{name}".encode()).digest() for name in names]
    return np.array(sorted(range(len(names)), key=keys.__getitem__))
