import numpy as np
import pytest

from jaxdet.data import formats_csv

HEAD = "file,x0,y0,x1,y1,class,patient,width,height\n"
GOOD = (
    HEAD
    + "a/1.png,10,20,40,60.5,tumour,p1,640,480\n"
    + "ä 2.png,,,,,,p2,200,100\n"
    + "\n"
    + '"c,3.png",0,0,5,5,cyst,p3,640,480\n'
    + "a/1.png,1,2,3,4,cyst,p1,640,480\n"
)
TOLD = (
    "file,x0,y0,x1,y1,width,height,diameter_mm,pixel_mm,phase\n"
    "a.png,10,20,40,60,100,90,31.5,0.7,arterial\n"
    "a.png,90,20,110,60,100,90,12,,\n"
    "a.png,10,20,10,60,100,90,99,,\n"
    "a.png,1,2,3,4,100,90,,,\n"
    "b.png,1,2,3,4,100,90,,,\n"
    "c.png,,,,,100,90,,0.5,portal\n"
)


def write(folder, text, encoding="utf-8"):
    file = folder / "Größe 1.csv"
    file.write_bytes(text.encode(encoding))
    return file


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_of_an_image_are_joined(tmp_path, encoding, end):
    file = write(tmp_path, GOOD.replace("\n", end), encoding)
    names, truths = formats_csv.read(file)
    assert names == ("cyst", "tumour")
    assert [truth.file for truth in truths] == ["a/1.png", "ä 2.png", "c,3.png"]
    first, second, _ = truths
    assert (first.height, first.width) == (480, 640)
    np.testing.assert_array_equal(first.boxes_xyxy, [[10, 20, 40, 60.5], [1, 2, 3, 4]])
    assert first.labels.tolist() == [1, 0] and not first.crowd.any()
    assert first.area.tolist() == [30 * 40.5, 4]
    assert second.boxes_xyxy.shape == (0, 4) and (second.height, second.width) == (100, 200)
    assert formats_csv.patients(file) == {"a/1.png": "p1", "ä 2.png": "p2", "c,3.png": "p3"}


@pytest.mark.parametrize(
    ("columns", "box"),
    [
        ("x0,y0,x1,y1", "10,20,40,60"),
        ("XMin, YMin, XMax, YMax", "10, 20, 40, 60"),
        ("x1,y1,x2,y2", "10,20,40,60"),
        ("x,y,w,h", "10,20,30,40"),
        ("y1,x1,y0,x0", "60,40,20,10"),
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_columns_have_several_names(tmp_path, columns, box, delimiter):
    text = f"Filename,Width,Height,{columns}\na.png,100,90,{box}\n".replace(",", delimiter)
    names, (truth,) = formats_csv.read(write(tmp_path, text))
    assert names == ("lesion",) and truth.labels.tolist() == [0]
    np.testing.assert_array_equal(truth.boxes_xyxy, [[10, 20, 40, 60]])
    assert formats_csv.patients(tmp_path / "Größe 1.csv") == {}


@pytest.mark.parametrize(
    ("faulty", "kept"), [("clip", [31.5, 12, np.nan]), ("drop", [31.5, np.nan])]
)
def test_diameters_follow_their_boxes(tmp_path, faulty, kept):
    _, (a, b, c) = formats_csv.read(write(tmp_path, TOLD), faulty)
    np.testing.assert_array_equal(a.diameters_mm, np.array(kept, np.float32))
    assert a.diameters_mm.dtype == np.float32 and len(a.boxes_xyxy) == len(kept)
    assert len(a.faults) == 2 and b.diameters_mm is None and c.diameters_mm is None
    assert [truth.pixel_mm for truth in (a, b, c)] == [(0.7, 0.7), None, (0.5, 0.5)]
    assert [truth.phase for truth in (a, b, c)] == ["arterial", "", "portal"]
    _, (first, *_) = formats_csv.read(write(tmp_path, GOOD))
    assert (first.diameters_mm, first.pixel_mm, first.phase) == (None, None, "")


def test_the_size_comes_from_the_image_or_the_caller(tmp_path):
    text = "path,x0,y0,x1,y1\n1.npy,1,2,3,4\n2.npy,1,2,3,4\n"
    file = write(tmp_path, text)
    (tmp_path / "images").mkdir()
    np.save(tmp_path / "1.npy", np.zeros((8, 9), np.uint8))
    np.save(tmp_path / "images" / "2.npy", np.zeros((6, 7), np.uint8))
    _, truths = formats_csv.read(file)
    assert [(truth.height, truth.width) for truth in truths] == [(8, 9), (6, 7)]
    _, truths = formats_csv.read(file, size_of=lambda name: (int(name[0]) * 10, 5))
    assert [(truth.height, truth.width) for truth in truths] == [(10, 5), (20, 5)]
    (tmp_path / "1.npy").unlink()
    with pytest.raises(ValueError, match=r"Größe 1\.csv:2: there is no image 1\.npy in"):
        formats_csv.read(file)


def test_classes_are_sorted_whole_numbers_by_value(tmp_path):
    head, row = "file,width,height,x0,y0,x1,y1,label\n", "a.png,9,9,1,2,3,4,"
    file = write(tmp_path, head + row + "10\n" + row + "9\n")
    assert formats_csv.read(file)[0] == ("9", "10")
    names, (truth,) = formats_csv.read(file, classes=("10", "8", "9"))
    assert names == ("10", "8", "9") and truth.labels.tolist() == [0, 2]


ROW = "a.png,10,20,40,60,tumour,p,100,90\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"csv:1: wanted one column of file, filename, image, path"),
        ("file,image,x,y,w,h\n", r"csv:1: wanted one column of file.*got file, image, x"),
        ("file,x0,y0,x1\n", r"csv:1: wanted columns x0,y0,x1,y1 or xmin"),
        ("file,x0,y0,x1,y1,x,y,w,h\n", r"csv:1: wanted columns x0,y0,x1,y1 or xmin"),
        ("file,x0,y0,x1,y1,x0\n", r"csv:1: columns that come twice: \['x0'\]"),
        ("file,x0,y0,x1,y1,class,label\n", r"csv:1: wanted one column of class, label"),
        (HEAD + ROW + "a.png,1,2\n", r"csv:3: expected 9 columns, got 3"),
        (HEAD + ROW.replace("40", "4O"), r"csv:2: x1 is '4O', no number"),
        (HEAD + ROW.replace("40", ""), r"csv:2: x1 is '', no number"),
        (HEAD + ROW.replace("40", "nan"), r"csv:2: x1 is 'nan', no finite number"),
        (HEAD + ROW.replace("40", "4"), r"csv:2: .* is inverted in an image of 100 x 90"),
        (HEAD + ROW.replace("40", "10"), r"csv:2: .* is degenerate"),
        (HEAD + ROW.replace("40", "140"), r"csv:2: .* is partly outside"),
        (HEAD + ROW.replace("tumour", ""), r"csv: no row with a box has a class"),
        (HEAD + ROW + ROW.replace("tumour", ""), r"csv:3: class is ''; wanted one of tumour"),
        (HEAD + ROW.replace("a.png", ""), r"csv:2: the column file is empty"),
        (HEAD + ROW.replace("90", "9.5"), r"csv:2: height is 9.5; wanted a whole number of px"),
        (HEAD + ROW.replace("100", "0"), r"csv:2: width is 0; wanted a whole number"),
        (HEAD + ROW + "a.png,,,,,,p,100,90\n", r"csv:3: a.png comes again \(first .*csv:2\)"),
        (HEAD + "a.png,,,,,,p,100,90\n" + ROW, r"csv:3: a.png comes again"),
        (HEAD + ROW + '"a.png\n', r"csv:3: "),
        (TOLD.replace("31.5", "x"), r"csv:2: diameter_mm is 'x', no number"),
        (TOLD.replace("31.5", "-1"), r"csv:2: diameter_mm is -1; wanted mm above 0, or nothing"),
        (
            TOLD[: TOLD.index("a.png,90")].replace(",0.7", ",0"),
            r"csv:2: pixel_mm is 0; wanted mm above 0",
        ),
    ],
)
def test_faults_name_the_file_and_the_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        formats_csv.read(write(tmp_path, text))


def test_patients_are_one_an_image(tmp_path):
    file = write(tmp_path, HEAD + ROW + ROW.replace(",p,", ",q,"))
    with pytest.raises(ValueError, match=r"csv:3: a.png is of patient q, and of patient p"):
        formats_csv.patients(file)
    with pytest.raises(ValueError, match=r"csv:2: the column patient is empty"):
        formats_csv.patients(write(tmp_path, HEAD + ROW.replace(",p,", ",,")))


def test_unreadable_files_and_unknown_classes(tmp_path):
    with pytest.raises(ValueError, match=r"none\.csv: there is no such file"):
        formats_csv.read(tmp_path / "none.csv")
    file = write(tmp_path, GOOD, "latin-1")
    with pytest.raises(ValueError, match="is not UTF-8"):
        formats_csv.read(file)
    file = write(tmp_path, HEAD + ROW)
    with pytest.raises(ValueError, match=r"csv:2: class is 'tumour'; wanted one of cyst"):
        formats_csv.read(file, classes=("cyst",))
    file = write(tmp_path, "file,width,height,x,y,w,h\na.png,9,9,1,1,2,2\n")
    with pytest.raises(ValueError, match=r"csv:2: class is no column for it; wanted one of a, b"):
        formats_csv.read(file, classes=("a", "b"))


def test_faulty_boxes_are_dropped_on_request(tmp_path):
    file = write(tmp_path, HEAD + ROW + ROW.replace("40", "140"))
    _, (truth,) = formats_csv.read(file, "drop")
    assert len(truth.labels) == 1 and truth.faults == ("partly outside",)
    _, (truth,) = formats_csv.read(file, "clip")
    np.testing.assert_array_equal(truth.boxes_xyxy[1], [10, 20, 100, 60])
