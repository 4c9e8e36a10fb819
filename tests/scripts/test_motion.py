"""The motion that the four-phase set is drawn with gives the Dice of paper 2's Table II."""

import importlib.util
import pathlib

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "scripts" / "reproduce" / "motion.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("motion_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_motion_everything_lies_on_itself(script):
    told = script.measure(seed=0, patients=2, slices=1, factor=0.0)
    # The separable and the displaced form of a solid differ by rounding.
    assert told["dice_mean"] == pytest.approx(1.0, abs=2e-3)
    assert told["box_shift_median_mm"] < 1.5  # a pixel is 3 mm here


@pytest.mark.slow
def test_unregistered_livers_have_the_papers_dice(script):
    told = script.measure(seed=2, patients=120, slices=1)
    assert told["dice_mean"] == pytest.approx(0.90, abs=0.01)
    assert told["box_shift_median_mm"] > 3.0
