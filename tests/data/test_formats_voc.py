import numpy as np
import pytest

from jaxdet.data import formats_voc

NAMES = ("RBC", "WBC")


def box(name, xmin, ymin, xmax, ymax, more=""):
    return (
        f"<object><name>{name}</name>{more}<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
        f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"
    )


def xml(*objects, size="<size><width>640</width><height>480</height></size>", head=""):
    body = "\r\n".join(objects)
    return f"{head}<annotation><filename>a.jpg</filename>{size}{body}</annotation>"


def read(folder, text, faulty="error", encoding="utf-8"):
    (folder / "a ü.xml").write_bytes(text.encode(encoding))
    return formats_voc.read(folder / "a ü.xml", NAMES, faulty)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_pixels_count_from_one_and_the_last_one_belongs(tmp_path, encoding):
    text = xml(box("WBC", 1, 1, 640, 480), box("RBC", 10, 20, 30, 40.5))
    truth = read(tmp_path, text, encoding=encoding)
    np.testing.assert_array_equal(truth.boxes_xyxy, [[0, 0, 640, 480], [9, 19, 30, 40.5]])
    assert truth.labels.tolist() == [1, 0] and truth.area.tolist() == [640 * 480, 21 * 21.5]
    assert (truth.file, truth.height, truth.width) == ("a.jpg", 480, 640)


def test_difficult_is_crowd_and_comes_back(tmp_path):
    parts = "<part><bndbox><xmin>1</xmin></bndbox></part>"
    text = xml(box("WBC", 1, 1, 6, 4, "<difficult>1</difficult>" + parts), box("RBC", 1, 1, 6, 4))
    truth = read(tmp_path, text)
    assert truth.crowd.tolist() == [True, False]
    formats_voc.write(tmp_path / "b.xml", NAMES, truth)
    assert formats_voc.read(tmp_path / "b.xml", NAMES).crowd.tolist() == [True, False]


def test_whole_pixels_are_written_as_whole_numbers(tmp_path):
    truth = read(tmp_path, xml(box("WBC", 1, 2, 640, 480)))
    formats_voc.write(tmp_path / "b.xml", NAMES, truth)
    assert "<xmin>1</xmin>" in (tmp_path / "b.xml").read_text()
    assert "<xmax>640</xmax>" in (tmp_path / "b.xml").read_text()


def test_degenerate_boxes_are_counted(tmp_path):
    text = xml(box("RBC", 181, 329, 181, 329), box("RBC", 5, 9, 9, 9), box("WBC", 1, 1, 9, 9))
    with pytest.raises(ValueError, match=r"a ü\.xml: object 1 \(RBC\), xmin 181.*degenerate"):
        read(tmp_path, text)
    truth = read(tmp_path, text, "drop")
    assert truth.faults == ("degenerate", "degenerate") and truth.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xml(box("cat", 1, 1, 9, 9)), r"object 1 \(cat\): unknown class; known are RBC, WBC"),
        (xml(box("RBC", 1, 1, "nan", 9)), r"object 1 \(RBC\): xmax is 'nan', no finite number"),
        (xml(box("RBC", 1, 1, "x", 9)), r"object 1 \(RBC\): xmax is 'x', no number"),
        (xml(box("RBC", 1, 1, "", 9)), r"object 1 \(RBC\): <object> has no <bndbox/xmax>"),
        (xml("<object/>"), "object 1: <object> has no <name>"),
        (xml(box("RBC", 9, 1, 5, 9)), r"object 1 \(RBC\), xmin 9.*inverted"),
        (xml(box("RBC", 0, 1, 5, 9)), r"object 1 \(RBC\), xmin 0.* \(from 1\): .*partly outside"),
        (xml(size=""), "<annotation> has no <size/height>"),
        (
            xml(size="<size><width>0</width><height>9</height></size>"),
            "the width of the image is 0",
        ),
        (xml(head='<!DOCTYPE a [<!ENTITY b "c">]>'), r"has a DOCTYPE \(a\), which is refused"),
        (xml(head='<!DOCTYPE a SYSTEM "file:///etc/passwd">'), "has a DOCTYPE"),
    ],
)
def test_faults_name_the_file_and_the_object(tmp_path, text, message):
    for encoding in ("utf-8", "utf-16"):
        with pytest.raises(ValueError, match=rf"a ü\.xml: {message}"):
            read(tmp_path, text, encoding=encoding)


def test_an_entity_bomb_is_refused_before_it_grows(tmp_path):
    lines = ['<!ENTITY a0 "aaaaaaaaaa">']
    lines += [f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12)]
    with pytest.raises(ValueError, match="has a DOCTYPE"):
        read(tmp_path, xml("&a11;", head=f"<!DOCTYPE z [{''.join(lines)}]>"))


def test_broken_xml_names_the_line(tmp_path):
    with pytest.raises(ValueError, match=r"a ü\.xml:2: broken XML"):
        read(tmp_path, "<annotation>\n</object>")
    with pytest.raises(ValueError, match=r"none\.xml: there is no such file"):
        formats_voc.read(tmp_path / "none.xml", NAMES)


def test_class_names_are_sorted(tmp_path):
    (tmp_path / "a.xml").write_text(xml(box("WBC", 1, 1, 9, 9), box("RBC", 1, 1, 9, 9)))
    (tmp_path / "b.xml").write_text(xml(box("Platelets", 1, 1, 9, 9)))
    (tmp_path / "c.xml").write_text(xml())
    files = [tmp_path / f"{name}.xml" for name in "abc"]
    assert formats_voc.class_names(files) == ("Platelets", "RBC", "WBC")
