"""Priors against the reference's own, by hand, and where the feature maps do not fit."""

import numpy as np
import pytest

from jaxdet.ops import priors

LAYOUTS = {"v2": priors.SSD[300], "v2_512": priors.SSD[512]}


def shapes(layout):
    return [(level.side, level.side) for level in layout.levels]


@pytest.mark.parametrize("name", LAYOUTS)
def test_equal_the_reference(shared, name):
    golden = np.load(shared / "golden/gssd_golden_misc.npz")[f"prior/{name}"]
    np.testing.assert_array_equal(priors.ssd(shapes(LAYOUTS[name]), LAYOUTS[name]), golden)


@pytest.mark.parametrize(
    ("layout", "total", "kinds"),
    [
        (priors.SSD[300], 8732, (4, 6, 6, 6, 4, 4)),
        (priors.SSD[512], 24564, (4, 6, 6, 6, 6, 4, 4)),
    ],
)
def test_counts(layout, total, kinds):
    boxes = priors.ssd(shapes(layout), layout)
    assert boxes.shape == (total, 4) and boxes.dtype == np.float32
    assert priors.boxes_a_cell(layout) == kinds
    assert total == sum(h * w * k for (h, w), k in zip(shapes(layout), kinds, strict=True))


def test_first_rows_by_hand():
    first = priors.ssd(shapes(priors.SSD[300]), priors.SSD[300])[:5]
    side, root = 0.1, 2**0.5
    wanted = [
        (4 / 300, 4 / 300, side, side),
        (4 / 300, 4 / 300, side * root, side * root),  # sqrt(30 * 60) / 300
        (4 / 300, 4 / 300, side * root, side / root),
        (4 / 300, 4 / 300, side / root, side * root),
        (12 / 300, 4 / 300, side, side),  # the next column, not the next row
    ]
    np.testing.assert_allclose(first, wanted, rtol=1e-6)


def test_sides_end_at_the_image():
    last = priors.ssd(shapes(priors.SSD[300]), priors.SSD[300])[-4:]
    # sqrt(264 * 315) / 300 is 0.961; 0.88 * sqrt 2 is 1.245, which becomes 1.
    wanted = [(0.88, 0.88), (0.961249, 0.961249), (1.0, 0.622254), (0.622254, 1.0)]
    np.testing.assert_allclose(last[:, 2:], wanted, rtol=1e-5)
    np.testing.assert_array_equal(last[:, :2], np.full((4, 2), 0.5, np.float32))


@pytest.mark.parametrize(
    "change",
    [
        lambda maps: [(40, 40), *maps[1:]],
        lambda maps: maps[:-1],
        lambda maps: [(38, 37), *maps[1:]],
        lambda maps: [],
    ],
)
def test_other_maps_are_named(change):
    came = change(shapes(priors.SSD[300]))
    with pytest.raises(ValueError, match=r"images of 300 px stand on .*\(38, 38\)") as fault:
        priors.ssd(came, priors.SSD[300])
    assert str(came) in str(fault.value)
