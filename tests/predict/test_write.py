"""Files from detections: COCO results, millimetres, pictures, nothing half written."""

import json

import cv2
import numpy as np
import pytest

from jaxdet.predict import write
from jaxdet.predict.inputs import Slice
from jaxdet.types import Detections, Volume

NAMES = ("tumour", "cyst")


def detections(*rows, padding: int = 2) -> Detections:
    """Rows (x0, y0, x1, y1, score, label), padded."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    table = np.vstack([table, np.tile([0, 0, 0, 0, 0, -1], (padding, 1))])
    return Detections(
        table[:, :4].astype(np.float32),
        table[:, 4].astype(np.float32),
        table[:, 5].astype(np.int32),
    )


def piece(name="a.png", channels=3, size=(40, 60), volume=None, z=None) -> Slice:
    image = np.random.default_rng(0).random((*size, channels)).astype(np.float32)
    return Slice(image, name, volume, z)


def scan() -> Volume:
    hu = np.zeros((20, 40, 60), np.float32)
    return Volume(
        hu,
        (0.5, 0.5, 2.0),
        (-10.0, 20.0, 100.0),
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        "s",
    )


def load(out, name):
    return json.loads((out / name).read_text())


def test_coco_results(tmp_path):
    found = [
        (piece("a.png"), detections((1, 2, 11, 22, 0.4, 1), (5, 5, 9, 9, 0.9, 0))),
        (piece("b.png"), detections((1, 2, 3, 4, 0.1, 0))),
    ]
    counts = write.write(tmp_path, iter(found), NAMES, 0.25)
    assert counts == {"images": 2, "detections": 2, "full": 0}
    first, second = load(tmp_path, "detections.json")
    assert first == {
        "image_id": 1,
        "file_name": "a.png",
        "category_id": 1,
        "category_name": "tumour",
        "bbox": [5.0, 5.0, 4.0, 4.0],
        "score": pytest.approx(0.9),
    }
    assert (second["category_id"], second["bbox"]) == (2, [1.0, 2.0, 10.0, 20.0])
    about = load(tmp_path, "images.json")
    assert [row["id"] for row in about["images"]] == [1, 2]
    assert (about["images"][0]["width"], about["images"][0]["height"]) == (60, 40)
    assert about["categories"] == [{"id": 1, "name": "tumour"}, {"id": 2, "name": "cyst"}]
    assert "LPS" in about["info"]["frame"]


def test_images_with_no_room_left_are_counted(tmp_path):
    found = [
        (piece(name), detections((1, 2, 11, 22, 0.4, 1), padding=rows))
        for name, rows in (("a.png", 0), ("b.png", 1))
    ]
    assert write.write(tmp_path, found, NAMES)["full"] == 1


def test_pycocotools_reads_the_pair(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    write.write(tmp_path, [(piece(), detections((1, 2, 11, 22, 0.4, 1)))], NAMES)
    truth = coco.COCO(str(tmp_path / "images.json"))
    assert len(truth.loadRes(str(tmp_path / "detections.json")).anns) == 1


def test_ct_has_slice_and_millimetres(tmp_path):
    found = [(piece("case.nii.gz", 1, volume=scan(), z=12), detections((10, 4, 20, 8, 0.9, 0)))]
    write.write(tmp_path, found, NAMES)
    (row,) = load(tmp_path, "detections.json")
    assert row["slice"] == 12
    # Pixel centres 10..19 and 4..7: middle (14.5, 5.5).
    assert row["position_mm"] == pytest.approx([-10 + 14.5 * 0.5, 20 + 5.5 * 0.5, 100 + 24.0])
    assert row["size_mm"] == pytest.approx([5.0, 2.0])
    assert (tmp_path / "overlays" / "case_z012.png").is_file()


def test_pictures_and_names(tmp_path):
    names = ["x/a.png", "x_a.jpg", "../../etc/p w.png", "é.png", "A.B.npy"]
    write.write(
        tmp_path,
        [(piece(n, c), detections()) for n, c in zip(names, (1, 2, 3, 4, 5), strict=True)],
        NAMES,
    )
    written = sorted(p.name for p in (tmp_path / "overlays").iterdir())
    assert written == sorted(["x_a.png", "x_a_2.png", "etc_p_w.png", "image.png", "A.B.png"])
    listed = [row["overlay"] for row in load(tmp_path, "images.json")["images"]]
    assert sorted(listed) == written
    assert load(tmp_path, "detections.json") == []
    sheet = cv2.imread(str(tmp_path / "contact_sheet.png"))
    assert sheet.ndim == 3 and sheet.any()
    assert not list(tmp_path.rglob("*part*"))


def test_sheet_shows_the_best_slices_first(tmp_path):
    def one(k, score):
        image = np.full((32, 32, 1), k * 10, np.uint8)
        return Slice(image, f"{k}.png", None, None), detections((0, 0, 2, 2, score, 0))

    scores = np.linspace(0.3, 0.9, 20)
    write.write(tmp_path, [one(k, s) for k, s in enumerate(scores)], NAMES)
    sheet = cv2.imread(str(tmp_path / "contact_sheet.png"))
    side = sheet.shape[1] // write.SHEET_COLUMNS
    assert sheet.shape[0] == 4 * side
    middles = [
        sheet[r * side + side // 2, c * side + side // 2, 0] for r in range(4) for c in range(4)
    ]
    assert middles == [k * 10 for k in range(19, 3, -1)]


def test_ct_neighbours_are_not_shown_as_colour(tmp_path):
    write.write(tmp_path, [(piece("s", 3, volume=scan(), z=3), detections())], NAMES)
    shown = cv2.imread(str(tmp_path / "overlays" / "s_z003.png"))
    assert (shown[..., 0] == shown[..., 1]).all() and (shown[..., 1] == shown[..., 2]).all()


def test_faults(tmp_path):
    with pytest.raises(ValueError, match="nothing to write"):
        write.write(tmp_path, [], NAMES)
    with pytest.raises(ValueError, match=r"a\.png: label 2 has no name among 2 classes"):
        write.write(tmp_path, [(piece(), detections((1, 1, 2, 2, 0.5, 2)))], NAMES)
    with pytest.raises(ValueError, match=r"a\.png: a detection has NaN"):
        write.write(tmp_path, [(piece(), detections((1, np.nan, 2, 2, 0.5, 0)))], NAMES)
    batched = Detections(*(part[None] for part in detections()))
    with pytest.raises(ValueError, match="of one slice"):
        write.write(tmp_path, [(piece(), batched)], NAMES)
    assert not (tmp_path / "detections.json").exists()
