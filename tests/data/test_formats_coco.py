import copy
import json
import warnings

import numpy as np
import pytest

from jaxdet.data import formats_coco

GOOD = {
    "images": [
        {"id": 7, "file_name": "ä b.png", "height": 480, "width": 640},
        {"id": 3, "file_name": "c.png", "height": 100, "width": 200},
    ],
    "categories": [{"id": 9, "name": "tumour"}, {"id": 2, "name": "cyst"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 9, "bbox": [10, 20, 30, 40.5], "area": 77},
        {"id": 2, "image_id": 7, "category_id": 2, "bbox": [0, 0, 5, 5], "iscrowd": 1},
    ],
}


def read(folder, content, faulty="error", start=b""):
    file = folder / "Größe 1.json"
    file.write_bytes(start + json.dumps(content, ensure_ascii=False).encode())
    return formats_coco.read(file, faulty)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf\r\n"])
def test_labels_follow_the_rising_category_id(tmp_path, start):
    names, (first, second) = read(tmp_path, GOOD, start=start)
    assert names == ("cyst", "tumour")
    assert first.file == "ä b.png" and (first.height, first.width) == (480, 640)
    np.testing.assert_array_equal(first.boxes_xyxy, [[10, 20, 40, 60.5], [0, 0, 5, 5]])
    assert first.labels.tolist() == [1, 0] and first.crowd.tolist() == [False, True]
    assert first.area.tolist() == [77, 25]  # the outline's where it is given
    assert second.boxes_xyxy.shape == (0, 4)


def test_crowd_and_area_are_written(tmp_path):
    names, truths = read(tmp_path, GOOD)
    formats_coco.write(tmp_path / "b.json", names, truths)
    again = formats_coco.read(tmp_path / "b.json")[1][0]
    assert again.crowd.tolist() == [False, True] and again.area.tolist() == [77, 25]
    written = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    for part in ("images", "categories", "annotations"):
        assert min(entry["id"] for entry in written[part]) == 1


def test_pycocotools_reads_what_is_written(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    names, truths = read(tmp_path, GOOD)
    formats_coco.write(tmp_path / "b.json", names, truths)
    theirs = coco.COCO(str(tmp_path / "b.json"))
    assert [theirs.anns[i]["bbox"] for i in (1, 2)] == [[10, 20, 30, 40.5], [0, 0, 5, 5]]


def change(part, index, **fields):
    content = copy.deepcopy(GOOD)
    content[part][index].update(fields)
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({k: v for k, v in GOOD.items() if k != "images"}, r'no list "images"; it has'),
        ({k: v for k, v in GOOD.items() if k != "annotations"}, r'no list "annotations"'),
        ({**GOOD, "categories": []}, "there is no class name"),
        ([], "wanted a COCO object"),
        (change("images", 1, id=7), r'ids that come twice in "images": \[7\]'),
        (change("annotations", 1, id=1), r'ids that come twice in "annotations": \[1\]'),
        (change("categories", 1, id=9), r'ids that come twice in "categories": \[9\]'),
        (change("categories", 1, name="tumour"), r"class names come twice: \['tumour'\]"),
        (
            change("annotations", 0, category_id=4),
            r"annotation 1 has unknown category 4; .*\[2, 9\]",
        ),
        (change("annotations", 0, image_id=4), "annotation 1 belongs to image 4"),
        (change("annotations", 0, bbox=[1, 2, 3]), "bbox wants four numbers"),
        (change("annotations", 0, bbox=[1, 2, 3, "4"]), "bbox wants four numbers"),
        (change("annotations", 0, bbox=[1, 2, float("nan"), 4]), "annotation 1 .*NaN"),
        (change("annotations", 0, area=float("inf")), "area is inf"),
        (change("annotations", 0, bbox=[1, 2, -3, 4]), r"annotation 1 \(image 7\): .* inverted"),
        (change("annotations", 0, bbox=[1, 2, 0, 4]), "degenerate"),
        (change("annotations", 0, bbox=[630, 2, 20, 4]), "partly outside"),
        (change("images", 0, width=None), r"wanted a field 'width' \(int\)"),
    ],
)
def test_faults_name_the_file_and_the_entry(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"Größe 1\.json: .*{message}|Größe 1\.json: {message}"):
        read(tmp_path, content)


def test_broken_json_names_the_line(tmp_path):
    (tmp_path / "a.json").write_text('{\n"images": [,]}')
    with pytest.raises(ValueError, match=r"a\.json:2: broken JSON"):
        formats_coco.read(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe{\0}\0")
    with pytest.raises(ValueError, match=r"a\.json: is not UTF-8"):
        formats_coco.read(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"none\.json: there is no such file"):
        formats_coco.read(tmp_path / "none.json")


def test_annotation_id_0_is_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="annotation id 0 means 'no match' to pycocotools"):
        _, truths = read(tmp_path, change("annotations", 0, id=0))
    assert len(truths[0].labels) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path, GOOD)


def test_faulty_boxes_are_dropped_on_request(tmp_path):
    _, truths = read(tmp_path, change("annotations", 0, bbox=[1, 2, 0, 4]), "drop")
    assert truths[0].labels.tolist() == [0] and truths[0].faults == ("degenerate",)
