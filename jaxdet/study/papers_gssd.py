"""What the GSSD++ paper prints: rows of Tables I, II, III, S1, S2, and how each is trained here.

GSSD++: Lee 2021, arXiv:2112.01535; numbers as in facts gssd_reference 5 and gssd_baselines 8 and 9.
Percent. None is what is not known here, never a guess: of the supplement's Tables S1 and S2 one
number each, which stand in the check of Eq. 6, and of Fig. 5 none.
"""

from typing import Any, NamedTuple

from jaxdet.metrics.statistics import EIGHT_METRICS

EIGHT = tuple(EIGHT_METRICS)  # of Tables I, S1 and S2
FOUR = ("val IoU50", "val IoBB50", "test IoU50", "test IoBB50")  # of Table III
MEAN = "mean"  # of the sensitivities of Table S2
DICE = "Dice"  # of Table II
UNREGISTERED = "none"
KINDS = ("rigid", "affine", "nonrigid")  # of registration, of one slice to its portal phase


class Row(NamedTuple):
    """A row of a table: its name, what the paper calls it and printed, and how it is made."""

    name: str  # a word of --rows; rows of other registrations share it
    title: str  # the paper's
    paper: dict[str, float | None]  # percent by metric
    model: str = ""  # a name of models.DETECTORS; "not built" while there is none of that name
    fields: dict[str, Any] = {}  # noqa: RUF012  of the model's Config
    phases: tuple[str, ...] = ()  # data.phases; empty: as stored
    registration: str = UNREGISTERED  # of the set it is trained and scored on

    @property
    def key(self) -> str:
        """Its folder, which tables share: the name, and the registration if there is any."""
        return (
            self.name if self.registration == UNREGISTERED else f"{self.name}_{self.registration}"
        )


def _row(metrics: tuple[str, ...], numbers: tuple[float, ...], *told: Any, **more: Any) -> Row:
    name, title, model, *fields = told
    return Row(name, title, dict(zip(metrics, numbers, strict=True)), model, *fields, **more)


SSD = _row(EIGHT, (55.26, 43.68, 36.50, 57.36, 55.90, 52.35, 58.41, 63.18), "ssd", "SSD", "ssd")
PORTAL = _row(
    EIGHT,
    (50.62, 33.44, 22.44, 53.66, 50.64, 44.98, 48.35, 54.16),
    "gssd_portal",
    "GSSD (Portal Only)",
    "gssd",
    phases=("portal",) * 4,
)
GSSD = _row(EIGHT, (56.58, 43.72, 36.41, 58.23, 57.18, 53.07, 60.06, 67.33), "gssd", "GSSD", "gssd")
GSSD_PP = _row(
    EIGHT, (62.41, 52.90, 40.08, 67.89, 65.20, 59.99, 67.87, 77.22), "gssd_pp", "GSSD++", "gssd_pp"
)
PIXELLINK_PP = _row(
    EIGHT,
    (74.12, 57.77, 24.01, 77.66, 65.30, 33.99, 64.19, 73.52),
    "pixellink_pp",
    "PixelLink++",
    "pixellink_pp",
)
# The RetinaNets come with a later file of models/; what their fields are is said there.
RIVALS = (
    _row(
        EIGHT,
        (51.25, 42.74, 22.18, 51.42, 47.52, 41.16, 49.93, 53.77),
        "retinanet_masks",
        "Improved RetinaNet (lesion masks)",
        "retinanet_ct",
    ),
    _row(
        EIGHT,
        (57.72, 48.63, 35.21, 60.08, 58.51, 52.48, 62.47, 66.30),
        "retinanet_g",
        "Improved RetinaNet + G.Conv & C.Fusion",
        "retinanet_ct",
    ),
    _row(
        EIGHT,
        (63.46, 53.11, 35.67, 65.21, 62.85, 56.64, 63.46, 68.13),
        "retinanet_g_masks",
        "Improved RetinaNet + G.Conv & C.Fusion (lesion masks)",
        "retinanet_ct",
    ),
    _row(
        EIGHT,
        (61.25, 45.81, 15.14, 65.23, 52.86, 24.59, 48.44, 56.05),
        "pixellink",
        "PixelLink",
        "pixellink",
    ),
    _row(
        EIGHT,
        (69.20, 50.85, 19.90, 71.91, 56.08, 29.64, 57.89, 64.44),
        "pixellink_g",
        "PixelLink + G.Conv & C.Fusion",
        "pixellink_g",
    ),
    _row(EIGHT, (63.72, 51.33, 28.14, 67.10, 57.50, 41.52, 55.57, 60.02), "mscr", "MSCR", "mscr"),
)
TABLE1 = (SSD, PORTAL, GSSD, *RIVALS, GSSD_PP, PIXELLINK_PP)
# Of the phase that all others are registered to nothing moves: GSSD (Portal Only) is not in these.
MISALIGNED = (SSD, GSSD, *RIVALS, GSSD_PP, PIXELLINK_PP)

TABLE2 = (
    Row(UNREGISTERED, "unregistered", {DICE: 90.01}),
    Row("rigid", "rigid", {DICE: 91.19}, registration="rigid"),
    Row("affine", "affine", {DICE: 92.13}, registration="affine"),
    Row("nonrigid", "non-rigid", {DICE: 96.22}, registration="nonrigid"),
)

# What each takes away, and what the paper prints of GSSD++ and of PixelLink++ without it. The paper
# does not say what is left of attention without the part between the phases: both readings are rows
# (facts, gssd_reference 2.5).
ABLATIONS: tuple[tuple[str, str, dict[str, Any], tuple[float, ...], tuple[float, ...]], ...] = (
    (
        "offsets",
        "w/o Phase-wise Offsets",
        {"align_groups": 1},
        (50.92, 64.44, 61.50, 74.08),
        (56.34, 63.25, 61.81, 69.43),
    ),
    (
        "dc",
        "w/o DC Module",
        {"align": "none"},
        (51.41, 62.70, 61.60, 71.89),
        (52.24, 60.12, 54.27, 62.14),
    ),
    (
        "base",
        "w/o SA@Base",
        {"attention_trunk": "none"},
        (52.62, 64.93, 62.59, 74.40),
        (53.70, 60.22, 58.39, 67.43),
    ),
    (
        "fusion",
        "w/o SA@Fusion",
        {"attention_heads": "none"},
        (52.72, 62.71, 64.03, 76.49),
        (54.70, 60.40, 59.06, 67.23),
    ),
    (
        "interphase",
        "w/o Interphase Attention (grouped)",
        {"interphase": "grouped"},
        (52.49, 63.14, 63.82, 73.56),
        (52.85, 59.17, 59.40, 67.46),
    ),
    (
        "interphase_maps",
        "w/o Interphase Attention (a map a phase)",
        {"interphase": "per_phase"},
        (52.49, 63.14, 63.82, 73.56),
        (52.85, 59.17, 59.40, 67.46),
    ),
)


def _ablated(whole: Row, which: int) -> tuple[Row, ...]:
    rows = [whole._replace(paper={name: whole.paper[name] for name in FOUR})]
    for name, title, fields, *printed in ABLATIONS:
        told = (f"{whole.name}_{name}", f"{whole.title} {title}", whole.model, fields)
        rows.append(_row(FOUR, printed[which], *told))
    return tuple(rows)


TABLE3 = (*_ablated(GSSD_PP, 0), *_ablated(PIXELLINK_PP, 1))


def _registered(metrics: tuple[str, ...], known: float) -> tuple[Row, ...]:
    """Every model on every registered set; `known` is the one number, of GSSD, non-rigid."""
    rows = []
    for row in MISALIGNED:
        for kind in KINDS:
            paper: dict[str, float | None] = dict.fromkeys(metrics)
            if (row.name, kind) == ("gssd", "nonrigid"):
                paper["val IoU30"] = known
            title = f"{row.title}, {kind}"
            rows.append(row._replace(title=title, paper=paper, registration=kind))
    return tuple(rows)


TABLE_S1 = _registered(EIGHT, 63.68)
TABLE_S2 = _registered((*EIGHT, MEAN), 11.15)
# The figure's numbers were not read off. Its curves begin with the unregistered rows of Table I.
FIGURE5 = (
    *MISALIGNED,
    *(row._replace(paper=dict.fromkeys(EIGHT)) for row in TABLE_S1),
)
# Figs. 4, 6 and 7, offsets against truth and sensitivity over mm: pictures, no numbers of the paper
INSIDE = (
    GSSD,
    GSSD_PP,
    *(row for row in TABLE_S1 if row.name in ("gssd", "gssd_pp")),
)
TABLES: dict[str, tuple[Row, ...]] = {
    "gssd-table1": TABLE1,
    "gssd-table2": TABLE2,
    "gssd-table3": TABLE3,
    "gssd-tableS1": TABLE_S1,
    "gssd-tableS2": TABLE_S2,
    "gssd-fig5": FIGURE5,
    "gssd-inside": INSIDE,
}


def rows(table: str, names: tuple[str, ...] = ()) -> tuple[Row, ...]:
    """The rows of a table in the order of this file, or those of these names.

    ValueError for a table or a row that is not there, naming those that are.
    """
    if table not in TABLES:
        raise ValueError(f"no table is called {table!r}; there are {', '.join(TABLES)}")
    there = list(dict.fromkeys(row.name for row in TABLES[table]))
    unknown = [name for name in names if name not in there]
    if unknown:
        raise ValueError(f"{table} has no row {unknown[0]!r}; it has {', '.join(there)}")
    return tuple(row for row in TABLES[table] if not names or row.name in names)
