import cv2
import numpy as np
import pytest

from jaxdet.data import formats_yolo, yaml_subset


def image(path, height=480, width=640):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.zeros((height, width), np.uint8))[1].tobytes())
    return path


def label(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rows(folder, text):
    return formats_yolo.read_rows(label(folder / "a ß.txt", text), 480, 640, 3)


def test_fractions_become_pixels(tmp_path):
    (row,) = rows(tmp_path, "2 0.5 0.5 0.25 0.5")
    assert row.label == 2 and row.box_xyxy == (240, 120, 400, 360)
    assert row.where.endswith("a ß.txt:1")


@pytest.mark.parametrize(
    "text", ["0 .5 .5 .1 .1\r\n\r\n1 .5 .5 .1 .1\r\n", b"\xef\xbb\xbf0 .5 .5 .1 .1\n1\t.5 .5 .1 .1"]
)
def test_crlf_bom_tabs_and_blank_lines_just_work(tmp_path, text):
    assert [row.label for row in rows(tmp_path, text)] == [0, 1]


def test_no_file_and_an_empty_file_are_background(tmp_path):
    assert formats_yolo.read_rows(tmp_path / "none.txt", 480, 640, 3) == []
    assert rows(tmp_path, "") == rows(tmp_path, "\r\n") == []


GOOD = "0 .5 .5 .1 .1\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 .5 .5 .1", "expected 5 columns .*, got 4"),
        ("0 .5 .5 .1 .1 .9", "expected 5 columns .*, got 6"),
        ("1.5 .5 .5 .1 .1", "class is 1.5; wanted a whole number from 0 to 2"),
        ("-1 .5 .5 .1 .1", "class is -1; wanted"),
        ("3 .5 .5 .1 .1", "class is 3; wanted"),
        ("cat .5 .5 .1 .1", "class is 'cat', no number"),
        ("0 .5 .5 .1 nan", "height is 'nan', no finite number"),
        ("0 inf .5 .1 .1", "cx is 'inf', no finite number"),
        ("0 .5 .5 .1 wide", "height is 'wide', no number"),
        ("0 431 .5 .1 .1", r"looks like pixels \(max 431 > 1\)"),
        ("0 -50 .5 .1 .1", r"looks like pixels \(max 50 > 1\)"),
    ],
)
def test_broken_rows_name_file_and_line(tmp_path, line, message):
    with pytest.raises(ValueError, match=rf"a ß\.txt:2: {message}"):
        rows(tmp_path, GOOD + line)


def test_faulty_boxes_name_file_and_line(tmp_path):
    image(tmp_path / "images/a.png")
    label(tmp_path / "data.yaml", "train: images\nnames: [x]")
    for line, kind in [
        ("0 .99 .5 .1 .1", "partly outside"),
        ("0 .5 .5 -.1 .1", "inverted"),
        ("0 .5 .5 0 .1", "degenerate"),
        ("0 -.5 .5 .1 .1", "outside"),
    ]:
        label(tmp_path / "labels/a.txt", GOOD + line)
        with pytest.raises(ValueError, match=rf"a\.txt:2: .* is {kind} in an image of 640 x 480"):
            formats_yolo.read(tmp_path, "train")
        _, (truth,) = formats_yolo.read(tmp_path, "train", "drop")
        assert truth.faults == (kind,) and len(truth.labels) == 1


def test_the_last_images_folder_becomes_labels(tmp_path):
    path = tmp_path / "images" / "set images" / "images" / "a.b.png"
    wanted = tmp_path / "images" / "set images" / "labels" / "a.b.txt"
    assert formats_yolo.label_path(path) == wanted
    assert formats_yolo.label_path(tmp_path / "x" / "images.png").name == "images.txt"


def test_splits_are_a_folder_a_list_or_several(tmp_path):
    root = tmp_path / "Daten 1"
    for name in ("images/a/1.png", "images/a/deep/2.PNG", "images/b/3.png"):
        image(root / name.replace("PNG", "png"))
    label(root / "images/a/notes.md", "no image")
    label(root / "list.txt", b"\xef\xbb\xbf./images/b/3.png\r\n\r\nimages/a/1.png\r\n")
    label(
        tmp_path / "data.yaml",
        "path: Daten 1\ntrain: images/a\nval: list.txt\n"
        "test:\n  - images/b\n  - list.txt\nnames: [x]",
    )
    label(root / "labels/b/3.txt", GOOD)
    with pytest.warns(UserWarning, match="not one of 2 train images has a label file"):
        _, train = formats_yolo.read(tmp_path / "data.yaml", "train")
    assert [truth.file[-5:] for truth in train] == ["1.png", "2.png"]
    _, val = formats_yolo.read(tmp_path / "data.yaml", "val")
    assert [truth.file[-5:] for truth in val] == ["3.png", "1.png"]
    assert [len(truth.labels) for truth in val] == [1, 0]
    assert len(formats_yolo.read(tmp_path, "test")[1]) == 3


def test_roboflow_paths_are_understood(tmp_path):
    image(tmp_path / "set/train/images/a.png")
    label(tmp_path / "set/train/labels/a.txt", GOOD)
    label(tmp_path / "set/data.yaml", "train: ../train/images\nnames: ['x']\nnc: 1")
    assert len(formats_yolo.read(tmp_path / "set", "train")[1][0].labels) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("val: images\nnames: [x]", "names no 'train' split; it has val, names"),
        ("train: nowhere\nnames: [x]", "train is 'nowhere': no folder and no .txt at"),
        ("train: list.txt\nnames: [x]", r"list\.txt:2: there is no image .*gone\.png"),
        ("train: images\nnames: [x, y]\nnc: 3", "nc is 3, but there are 2 names"),
        ("train: images\nnames: [x, x]", r"class names come twice: \['x'\]"),
        ("train: images\nnames: {0: x, 2: y}", "keys of names must be 0 to 1"),
        ("train: images\nnc: 3", "names must be a list or a dict"),
        ("train: images\nnames: [x, y", "data.yaml:2: .* is not closed"),
        ("train: &anchor images\nnames: [x]", "data.yaml:1: .*not of the subset"),
        ("train: images\nnames:\n  - [x]\n  - y", "data.yaml:2: .*nested"),
        ("train: images\nnames:\n  0: x\n  0: y", "data.yaml:2: .*no new"),
    ],
)
def test_a_wrong_data_yaml_is_an_error_that_names_it(tmp_path, text, message):
    image(tmp_path / "images/a.png")
    label(tmp_path / "list.txt", "images/a.png\ngone.png")
    label(tmp_path / "data.yaml", text)
    with pytest.raises(ValueError, match=message):
        formats_yolo.read(tmp_path, "train")


def test_crowd_and_odd_names_cannot_be_written(tmp_path):
    image(tmp_path / "images/a.png")
    label(tmp_path / "labels/a.txt", GOOD)
    label(tmp_path / "data.yaml", "train: images\nnames: [x]")
    _, (truth,) = formats_yolo.read(tmp_path, "train")
    with pytest.raises(ValueError, match="wanted a name below"):
        formats_yolo.write(tmp_path / "out", ["x"], {"train": [truth]})
    crowd = type(truth)(**{**vars(truth), "file": "a.png", "crowd": np.array([True])})
    with pytest.raises(ValueError, match=r"a\.png: YOLO cannot say crowd, and 1 boxes are"):
        formats_yolo.write(tmp_path / "out", ["x"], {"train": [crowd]})


YAML = """\
# names: [no, comment]
path: ../Größe 1  # a folder
train: 'images/it''s # 1'
"val": "images/\\u00e4"
test:
- a
- b # c

nc: 2
names: ["a, b", don't, 'c: d',
  e]
colours: {0: [1, 2]}
download: |
  import os
  names = {'x': 1}
"""


def test_the_subset_of_yaml(tmp_path):
    file = label(tmp_path / "a.yaml", "\ufeff" + YAML.replace("\n", "\r\n"))
    wanted = ("path", "train", "val", "test", "nc", "names")
    assert yaml_subset.read(file, wanted) == {
        "path": "../Größe 1",
        "train": "images/it's # 1",
        "val": "images/ä",
        "test": ["a", "b"],
        "nc": "2",
        "names": ["a, b", "don't", "c: d", "e"],
    }


@pytest.mark.parametrize(
    "text",
    ["names: {0: a, 1: 'b c'}", "names:\n  0: a\n  1: b c\n", "names:\n\n  '0': a # x\n  1: b c"],
)
def test_names_as_a_dict(tmp_path, text):
    file = label(tmp_path / "a.yaml", text)
    assert yaml_subset.read(file, ("names",)) == {"names": {"0": "a", "1": "b c"}}


def test_pyyaml_agrees(tmp_path):
    theirs = pytest.importorskip("yaml")
    file = label(tmp_path / "a.yaml", YAML)
    ours, told = (
        yaml_subset.read(file, ("path", "train", "val", "test", "names")),
        theirs.safe_load(YAML),
    )
    assert ours == {key: told[key] for key in ours}
    yaml_subset.write(file, {"train": "a: b", "nc": 2}, ["it's", 'a "b" #'])
    told = theirs.safe_load(file.read_text(encoding="utf-8"))
    assert told == {"train": "a: b", "nc": 2, "names": {0: "it's", 1: 'a "b" #'}}
