"""What the PCA-YOLO paper prints: the rows of its Tables 1, 2 and 3, and how each is trained here.

PCA-YOLO, MIDL 2025 (PMLR 301:994-1007), numbers as in facts pca_yolo 3.4, 5 and 13. Percent, means
over five folds. None is what is not known here, never a guess: Table 1's deviations are known for
three rows, and Table 2's precision, recall and p for none but those that Table 1 has too.
"""

from typing import Any, NamedTuple


class Printed(NamedTuple):
    """A number of the paper in percent; sd None: not at hand."""

    mean: float
    sd: float | None = None


class Row(NamedTuple):
    """A row of a table: its name here, what the paper calls it, what it printed, how it is made."""

    name: str  # of its folder, and a word of --rows
    title: str  # the paper's, but for sizes: it has YOLOv8x, and m of 64, 128, 256 px of 512
    ap50: Printed
    precision: Printed | None = None
    recall: Printed | None = None
    p: float | None = None  # of PCA-YOLO against it, of mAP50; two-sided or not is not said
    # A name of models.DETECTORS; "yolov8" gets the size of the scale. A row whose model is not
    # there is "not built".
    model: str = "pca_yolo"
    fields: dict[str, Any] = {}  # noqa: RUF012  of the model's Config
    parts: int = 8  # patches a side, of a row with a Siamese: m is the image's side divided by it


class Scores(NamedTuple):
    """A row of Table 3: a Siamese network for patches of one size."""

    name: str
    title: str
    accuracy: Printed | None
    parts: int


OURS = "pca"  # the row that all others are tested against
FOLDS = 5  # of the paper

YOLOV8 = Row("yolov8", "YOLOv8", Printed(73.7, 3.4), Printed(80.8), Printed(66.3), 0.035, "yolov8")
PCA = Row(OURS, "PCA-YOLO", Printed(77.2, 2.1), Printed(82.5), Printed(71.0))


def _rival(attention: str, title: str, ap50: float, p: float, r: float, p_value: float) -> Row:
    fields = {"attention": attention}
    printed = Printed(ap50), Printed(p), Printed(r), p_value
    return Row(attention, f"YOLOv8 + {title}", *printed, "yolov8", fields)


TABLE1 = (
    Row("nnunet", "nnU-Net", Printed(36.1), Printed(56.2), Printed(33.5), 0.0, "nnunet"),
    # SPN-TS is not published in a form that could be built again: an FPN detector stands in for it.
    Row("spn_ts", "SPN-TS", Printed(70.8, 4.6), Printed(80.9), Printed(63.8), 0.018, "fpn_standin"),
    Row("swin_unet", "Swin-Unet", Printed(55.8), Printed(67.5), Printed(52.0), 0.002, "swin_unet"),
    Row("rtdetr", "RT-DETR", Printed(66.5), Printed(77.0), Printed(61.8), 0.001, "rtdetr"),
    Row("rcs_yolo", "RCS-YOLO", Printed(72.5), Printed(74.1), Printed(64.7), 0.012, "rcs_yolo"),
    YOLOV8,
    _rival("channel", "channel attention", 73.9, 80.5, 68.9, 0.031),
    _rival("self", "self-attention", 74.8, 79.6, 69.1, 0.052),
    _rival("mtnet", "MTNet", 74.9, 81.9, 69.2, 0.064),
    PCA,
)
TABLE2 = (
    YOLOV8._replace(title="YOLOv8 (base)"),
    Row("cam", "CAM", Printed(74.5, 3.6), fields={"attention_from": "cam"}),
    Row("without_g", "PCA w/o g(y)", Printed(75.6, 3.9), fields={"normalise": "none"}),
    Row("pca_quarter", "PCA, m = side/4", Printed(75.9, 2.3), parts=4),
    Row("pca_half", "PCA, m = side/2", Printed(76.7, 2.5), parts=2),
    PCA._replace(title="PCA, m = side/8"),
)
# The paper prints one accuracy. It does not say of which m; 64 px is that of its PCA-YOLO.
TABLE3 = (
    Scores("siamese", "Siamese, m = side/8", Printed(93.4, 2.5), 8),
    Scores("siamese_quarter", "Siamese, m = side/4", None, 4),
    Scores("siamese_half", "Siamese, m = side/2", None, 2),
)
TABLES: dict[str, tuple[Row, ...] | tuple[Scores, ...]] = {
    "pca-table1": TABLE1,
    "pca-table2": TABLE2,
    "pca-table3": TABLE3,
}
# Rows that are looked at on slices without a tumour, where g gives some patch a 1 all the same.
LESION_FREE = ("yolov8", "without_g", OURS)


def rows(table: str, names: tuple[str, ...] = ()) -> tuple[Any, ...]:
    """The rows of a table in the paper's order, or those that are named.

    ValueError for a table or a row that is not there, naming those that are.
    """
    if table not in TABLES:
        raise ValueError(f"no table is called {table!r}; there are {', '.join(TABLES)}")
    there = [row.name for row in TABLES[table]]
    unknown = [name for name in names if name not in there]
    if unknown:
        raise ValueError(f"{table} has no row {unknown[0]!r}; it has {', '.join(there)}")
    return tuple(row for row in TABLES[table] if not names or row.name in names)
