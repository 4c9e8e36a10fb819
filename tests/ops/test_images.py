"""Pixels to numbers."""

import numpy as np
import pytest

from jaxdet.ops import images


def test_bytes_become_fractions_and_floats_stay():
    grey = np.array([0, 51, 255], np.uint8)
    assert np.asarray(images.to_unit(grey)).tolist() == pytest.approx([0, 0.2, 1])
    fine = np.array([0.123456], np.float32)
    assert images.to_unit(fine)[0] == fine[0]


def test_sixteen_bits_need_a_window():
    with pytest.raises(ValueError, match="window_hu"):
        images.to_unit(np.zeros(3, np.uint16))
