import math

import numpy as np
import pytest

from jaxdet.data.registration import dice


def test_dice_by_hand():
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert math.isnan(dice.dice(a, b))
    a[:2], b[1:3] = True, True
    assert dice.dice(a, b) == dice.dice(b, a) == 0.5
    assert dice.dice(a, a) == 1 and dice.dice(a, ~a) == 0 and dice.dice(a, b & False) == 0


def test_mismatch_is_with_the_portal_phase(case_of):
    case = case_of()
    found = dice.mismatch(case.livers, case.phases)
    assert list(found) == ["precontrast", "arterial"]
    assert found["precontrast"] == 1  # drawn in place
    assert found["arterial"] == dice.dice(case.livers[..., 1], case.livers[..., 2])
    with pytest.raises(ValueError, match="wants that phase"):
        dice.mismatch(case.livers[..., :2], ("arterial", "delayed"))
    with pytest.raises(ValueError, match="wanted one a phase"):
        dice.mismatch(case.livers, ("arterial", "portal"))


def test_zeros_and_empty_pairs_are_left_out_and_counted():
    found = dice.average(np.array([[0.5, 0.0], [np.nan, 1.0]]))
    assert found == (0.75, 2, 2)
    none = dice.average(np.zeros(3))
    assert math.isnan(none.mean) and none[1:] == (0, 3)
    assert dice.average(np.zeros(0))[1:] == (0, 0)


def above_50(hu):
    return hu > 50


def test_a_segmenter_is_found_by_its_name(case_of, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "my_livers", sys.modules[__name__])
    found = dice.livers_of(case_of(), dice.segmenter("my_livers:above_50"))
    np.testing.assert_array_equal(found, case_of().hu[..., [1, 4, 7]] > 50)
    with pytest.raises(ValueError, match=r"module:function\"; got 'my_livers'"):
        dice.segmenter("my_livers")
    with pytest.raises(ValueError, match="cannot be loaded: No module named"):
        dice.segmenter("no_such_module_here:f")
    with pytest.raises(ValueError, match=r"cannot be loaded: module .* has no attribute"):
        dice.segmenter("my_livers:below")
    with pytest.raises(ValueError, match="is a module, no function"):
        dice.segmenter("my_livers:math")
    with pytest.raises(ValueError, match=r"precontrast phase: the liver .* gave int16 \(48, 48\)"):
        dice.livers_of(case_of(), lambda hu: hu)
