"""2.5-D stacks: which number of which voxel lies in which channel, and what a missing phase is."""

import dataclasses

import numpy as np
import pytest

from jaxdet.data import images, slices
from jaxdet.types import PHASES, Study, Volume

EYE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def make_study(phases=PHASES, depth: int = 5) -> Study:
    """HU = 1000 x phase + 100 x slice + 10 x row + column."""
    z, y, x = np.indices((depth, 3, 4), np.float32)
    volumes = {
        phase: Volume(
            1000 * PHASES.index(phase) + 100 * z + 10 * y + x,
            (1.0, 1.0, 2.0),
            (0.0, 0.0, 0.0),
            EYE,
            phase,
        )
        for phase in phases
    }
    return Study("anna", volumes, None, {}, "portal")


def test_windows_of_the_papers():
    assert slices.window(150, 50) == slices.WINDOW_PCA_YOLO == (-25, 125)
    assert slices.WINDOW_GSSD == slices.window(400, 50) == (-150, 250)
    with pytest.raises(ValueError, match="width above 0 HU; got 0"):
        slices.window(0, 50)


def test_channels_are_phase_major_feet_to_head():
    image = slices.stack(make_study(), 2)
    assert image.shape == (3, 4, 12) and image.dtype == np.float32
    for p in range(4):
        for i, z in enumerate((1, 2, 3)):
            assert image[2, 3, 3 * p + i] == 1000 * p + 100 * z + 23
    parts = dict(slices.by_phase(image))
    assert list(parts) == list(PHASES) and (parts["portal"] == image[..., 6:9]).all()


def test_edges_are_no_centres():
    study = make_study()
    assert list(slices.centres(study)) == [1, 2, 3]
    assert list(slices.centres(study, neighbours=1)) == [0, 1, 2, 3, 4]
    assert list(slices.centres(study, neighbours=5)) == [2]
    assert list(slices.centres(make_study(depth=2))) == []
    for z in (-1, 0, 4, 5):
        with pytest.raises(ValueError, match=rf"patient anna: slice {z} has .* wanted 1 to 3"):
            slices.stack(study, z)
    with pytest.raises(ValueError, match="a study with more slices"):
        slices.stack(make_study(depth=2), 1)
    with pytest.raises(ValueError, match="wanted 1, 3, 5"):
        slices.stack(study, 2, neighbours=2)


def test_portal_only_of_table_1():
    image = slices.stack(make_study(), 1, phases=("portal",) * 4)
    portal = slices.stack(make_study(), 1)[..., 6:9]
    assert np.array_equal(image, np.tile(portal, 4))
    assert np.array_equal(slices.stack(make_study(("portal",)), 1, ("portal",) * 4), image)


def test_row_25_a_missing_phase():
    study = make_study(("precontrast", "portal", "delayed"))
    whole = slices.stack(make_study(), 2)
    with pytest.raises(ValueError, match=r"patient anna has no arterial phase.*missing="):
        slices.stack(study, 2)
    others = [0, 1, 2, 6, 7, 8, 9, 10, 11]
    for policy in ("zero", "portal"):
        image = slices.stack(study, 2, missing=policy)
        assert np.array_equal(image[..., others], whole[..., others])
        assert slices.substitutes(study, missing=policy) == {"arterial": policy}
        wanted = whole[..., 6:9] if policy == "portal" else np.full((3, 4, 3), -1024)
        assert np.array_equal(image[..., 3:6], wanted)
    air = slices.stack(study, 2, missing="zero")[..., 3:6]
    assert not images.to_range(air, slices.WINDOW_GSSD).any()
    assert slices.substitutes(make_study(), missing="zero") == {}
    with pytest.raises(ValueError, match="anna has no portal phase that could stand"):
        slices.stack(make_study(("arterial",)), 2, missing="portal")
    with pytest.raises(ValueError, match="anna has no portal phase that could stand"):
        slices.stack(dataclasses.replace(study, volumes={}), 2, missing="zero")


def test_row_26_unknown_phases():
    with pytest.raises(ValueError, match=r"phases want names of precontrast, .* got .'venous'"):
        slices.stack(make_study(), 2, phases=("venous",))
    with pytest.raises(ValueError, match="phases want names"):
        slices.stack(make_study(), 2, phases=())


def test_row_27_a_wrong_number_of_channels():
    with pytest.raises(ValueError, match=r"4 phases \(precontrast, .*12 channels; got 3"):
        slices.by_phase(np.zeros((2, 2, 3), np.float32))


def test_row_28_phases_of_different_shape():
    study = make_study()
    odd = dataclasses.replace(study.volumes["arterial"], spacing_mm=(1.0, 1.0, 3.0))
    study = dataclasses.replace(study, volumes=study.volumes | {"arterial": odd})
    with pytest.raises(
        ValueError, match="anna: the phases precontrast and arterial have different"
    ):
        slices.stack(study, 2)
