"""The scorecard holds what the single rooms say, and one row a patient."""

import json

import numpy as np
import pytest

from jaxdet import metrics
from jaxdet.metrics import facts
from jaxdet.metrics.average_precision import judge, prepare
from jaxdet.metrics.facts import Facts
from jaxdet.metrics.protocols import PROTOCOLS
from jaxdet.metrics.scorecard import per_patient, scorecard

BOX = np.array([[0, 0, 10, 10.0]])
OTHER = np.array([[50, 50, 60, 60.0]])
NONE = np.zeros((0, 4))


def hand_case():
    """Four slices of three patients: a hit and a miss, a false box, a lesion-free one, a hit."""
    truths = [
        (np.concatenate([BOX, OTHER]), np.zeros(2, int)),
        (NONE, np.zeros(0, int)),
        (NONE, np.zeros(0, int)),
        (BOX, np.zeros(1, int)),
    ]
    found = [
        (BOX, np.array([0.9]), np.zeros(1, int)),
        (BOX, np.array([0.7]), np.zeros(1, int)),
        (NONE, np.zeros(0), np.zeros(0, int)),
        (np.concatenate([BOX, BOX]), np.array([0.8, 0.2]), np.zeros(2, int)),
    ]
    known = Facts(
        ("b", "b", "c", "a"),
        ("portal", "portal", "arterial", "arterial"),
        np.full((4, 2), 0.8),
        (np.array([8.0, 30]), np.zeros(0), np.zeros(0), np.array([12.0])),
        (np.array([1.0, 7]), np.zeros(0), np.zeros(0), np.array([12.0])),
    )
    return found, truths, known


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_holds_what_the_rooms_say(protocol):
    found, truths, known = hand_case()
    card, audit = scorecard(found, truths, ["tumour"], known, protocol=protocol, samples=20)
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    summary = metrics.summarise(found, truths, ["tumour"], protocol, curves=True)
    assert {key: card[key] for key in summary} == summary
    assert card["protocols"] == metrics.compare(found, truths)
    assert card["patients"] == 3
    assert [one["units"] for one in card["froc"]] == [4, 4, 3, 4, 3]
    assert card["interval"]["value"] == pytest.approx(card["ap50"])
    assert card["interval"]["patients"] == 3
    score = card["threshold"]
    assert card["audit"]["score_thresholds"] == [score]
    assert card["audit"]["errors"]["missed"] == sum(e.kind == "missed" for e in audit.errors) == 1
    strata = metrics.strata(
        found, truths, known, protocol=protocol, thresholds=[0.5], score_threshold=score
    )
    assert card["strata"] == strata
    levels = [metrics.levels(found, truths, known, name, (score,)) for name in ("slice", "patient")]
    assert card["levels"] == levels
    assert levels[0]["without_lesion"] == 2 and levels[1]["without_lesion"] == 1


@pytest.mark.parametrize(("score", "false"), [(0.75, (0, 0)), (0.7, (1, 0)), (0.1, (1, 1))])
def test_a_row_a_patient(score, false):
    found, truths, known = hand_case()
    rules, at = PROTOCOLS["coco"], np.array([0.5])
    verdict = judge(prepare(found, truths, rules, "iou"), at, rules)
    b, a = false
    assert per_patient(verdict, known, score) == [
        {"patient": "b", "slices": 2, "lesions": 2, "found": 1, "false": b, "surest": 0.9},
        {"patient": "c", "slices": 1, "lesions": 0, "found": 0, "false": 0, "surest": None},
        {"patient": "a", "slices": 1, "lesions": 1, "found": 1, "false": a, "surest": 0.8},
    ]
    card = scorecard(found, truths, ["tumour"], known, protocol="coco", samples=20).numbers
    assert card["per_patient"] == per_patient(verdict, known, card["threshold"])


def test_without_facts_every_image_is_a_patient():
    found, truths, _ = hand_case()
    card = scorecard(found, truths, ["tumour"], protocol="coco", samples=20).numbers
    assert [row["patient"] for row in card["per_patient"]] == [f"image {i}" for i in range(4)]
    assert card["strata"]["phase"][0]["name"] == "unknown"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("found", "truths"),
    [
        ([], []),
        ([(NONE, np.zeros(0), np.zeros(0))], [(NONE, np.zeros(0))]),
        ([(BOX, np.ones(1), np.zeros(1))], [(NONE, np.zeros(0))]),
        ([(NONE, np.zeros(0), np.zeros(0))], [(BOX, np.zeros(1))]),
        ([(BOX[:, [2, 3, 0, 1]], np.ones(1), np.zeros(1))], [(BOX[:, [0, 0, 0, 0]], np.zeros(1))]),
    ],
    ids=["nothing", "empty", "no truth", "no detection", "zero area"],
)
def test_degenerate_sets_have_a_defined_answer(found, truths, protocol):
    card = scorecard(found, truths, ["tumour"], protocol=protocol, samples=10).numbers
    json.dumps(card, allow_nan=False)  # no NaN anywhere
    assert card["interval"]["low"] is None and card["interval"]["why"]
    assert (card["ap50"] is None) == (not any(len(t[0]) for t in truths))


def test_what_pixellink_skips_has_a_name_of_its_own():
    found, truths, known = hand_case()
    found[0] = found[2]  # the slice with two lesions is without a detection now
    plain = scorecard(found, truths, ["tumour"], known, protocol="l0sg", samples=10).numbers
    skip = scorecard(
        found, truths, ["tumour"], known, protocol="l0sg", samples=10, skip_empty_images=True
    ).numbers
    assert (plain["truths"], skip["truths"]) == (3, 1)
    assert (plain["protocol"], skip["protocol"]) == ("l0sg", "l0sg, PixelLink")
    assert skip["ap50"] == pytest.approx(3 * plain["ap50"])
    assert skip["interval"]["value"] == pytest.approx(skip["ap50"])
    rows = {row["protocol"]: row["iou50"] for row in skip["protocols"]}
    assert rows["l0sg, PixelLink"] == pytest.approx(skip["ap50"])
    assert rows["l0sg"] == pytest.approx(plain["ap50"])
    # The other sections count every lesion, under the protocol without the skip.
    for section in ("strata", "froc", "levels", "per_patient", "audit"):
        theirs = skip[section]
        if section in ("strata", "levels", "audit", "per_patient") and (
            plain["threshold"] != skip["threshold"]
        ):
            continue  # read at another score
        assert theirs == plain[section]
    assert skip["audit"]["protocol"] == "l0sg" and skip["audit"]["truths"]["all"] == 3
    assert [row["lesions"] for row in skip["per_patient"]] == [2, 0, 1]


def test_truths_in_a_batch():
    boxes, labels = np.stack([BOX, BOX]), np.zeros((2, 1), int)
    card = scorecard([(boxes, np.ones((2, 1)), labels)], [(boxes, labels)], ["a"], samples=10)
    assert card.numbers["images"] == card.numbers["patients"] == 2
    assert card.numbers["protocols"][0]["iou50"] == 1


def test_logits_are_refused():
    found, truths, known = hand_case()
    found[1] = (BOX, np.array([-1.5]), np.zeros(1, int))
    with pytest.raises(ValueError, match=r"probabilities; image 1 has -1.5"):
        scorecard(found, truths, ["tumour"], known)


def test_a_score_in_float32_meets_its_threshold_everywhere():
    score = np.array([0.7], np.float32)  # 0.699999988 in float64
    found, truths = [(BOX, score, np.zeros(1, int))], [(BOX, np.zeros(1, int))]
    rules, at = PROTOCOLS["coco"], np.array([0.5])
    verdict = judge(prepare(found, truths, rules, "iou"), at, rules)
    assert per_patient(verdict, facts.unknown([1]), 0.7)[0]["found"] == 1
    assert metrics.levels(found, truths, score_thresholds=0.7)["at"][0]["sensitivity"] == 1
    strata = metrics.strata(found, truths, score_threshold=0.7)
    assert strata["phase"][0]["recall_at_score"] == [1.0]
    assert metrics.audit(found, truths, score_threshold=0.7).truths["found"] == 1


def test_scores_that_are_no_numbers_name_the_image():
    found, truths, known = hand_case()
    found[1] = (BOX, np.array([np.nan]), np.zeros(1, int))
    with pytest.raises(ValueError, match=r"image 1 .* score that is NaN"):
        scorecard(found, truths, ["tumour"], known)
