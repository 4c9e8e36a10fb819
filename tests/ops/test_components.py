"""Connected components against SciPy's graph search and its image labels."""

import jax
import numpy as np
import pytest
import scipy.ndimage
import scipy.sparse
from scipy.sparse.csgraph import connected_components

from jaxdet.ops import components
from jaxdet.ops.components import NEIGHBOURS

label = jax.jit(components.label)
found = jax.jit(components.found, static_argnames=("most", "smallest"))
FULL = np.ones((3, 3), int)


def everywhere(positive):
    return np.ones((*positive.shape, 8), bool)


def by_graph(positive, joined):
    """The same by a list of edges, all images at once: [B, H, W] and [B, H, W, 8]."""
    _, height, width = positive.shape
    edges = []
    for b, y, x, k in np.argwhere(joined & positive[..., None]).tolist():
        v, u = y + NEIGHBOURS[k][0], x + NEIGHBOURS[k][1]
        if 0 <= v < height and 0 <= u < width and positive[b, v, u]:
            edges.append(((b * height + y) * width + x, (b * height + v) * width + u))
    one, other = np.array(edges, int).reshape(-1, 2).T
    cells = positive.size
    graph = scipy.sparse.coo_array((np.ones(len(one), bool), (one, other)), (cells, cells))
    _, group = connected_components(graph, directed=False)
    _, first = np.unique(group, return_index=True)
    return np.where(positive, (first[group] % (height * width)).reshape(positive.shape), -1)


def as_numbered(labels):
    """Numbers in the order of the first cell, as scipy.ndimage.label gives them; 0 is none."""
    _, number = np.unique(np.append(labels, -1), return_inverse=True)
    return number[:-1].reshape(labels.shape)


def spiral(side):
    """A path one cell wide with one cell between its turns, from a corner to the middle."""
    path = np.zeros((side, side), bool)
    path[0, 0] = True

    def inside(y, x):
        return 0 <= y < side and 0 <= x < side

    def taken(y, x):
        return inside(y, x) and path[y, x]

    y, x, dy, dx, stuck = 0, 0, 0, 1, False
    while True:
        v, u = y + dy, x + dx
        if inside(v, u) and not taken(v, u) and not taken(v + dy, u + dx):
            y, x, stuck = v, u, False
            path[y, x] = True
        elif stuck:
            return path
        else:
            dy, dx, stuck = dx, -dy, True


def comb(side):
    teeth = np.zeros((side, side), bool)
    teeth[:, ::2] = True
    teeth[-1] = True
    return teeth


def snake(side):
    rows = np.zeros((side, side), bool)
    rows[::2] = True
    rows[1::4, -1] = rows[3::4, 0] = True
    return rows


def slanted_snake(side):
    y, x = np.mgrid[:side, :side]
    even = (x + y) % 8 < 4
    first, last = (y == 0) | (x == side - 1), (x == 0) | (y == side - 1)
    return ((x + y) % 4 == 0) | (first & even) | (last & ~even)


def maze(side, seed):
    """A random spanning tree of all cells: one long crooked component through links alone."""
    rng = np.random.default_rng(seed)
    at = np.arange(side * side).reshape(side, side)
    right = np.stack([at[:, :-1].ravel(), at[:, 1:].ravel()], 1)
    edges = np.concatenate([right, np.stack([at[:-1].ravel(), at[1:].ravel()], 1)])
    graph = scipy.sparse.coo_array((rng.uniform(1, 2, len(edges)), edges.T), (at.size, at.size))
    tree = scipy.sparse.csgraph.minimum_spanning_tree(graph.tocsr()).tocoo()
    joined = np.zeros((side, side, 8), bool)
    for one, other in zip(tree.row, tree.col, strict=True):
        k = NEIGHBOURS.index((other // side - one // side, other % side - one % side))
        joined[one // side, one % side, k] = True
    return joined


LONG = {"spiral": spiral, "comb": comb, "snake": snake, "slanted snake": slanted_snake}


@pytest.mark.parametrize("shape", [(9, 11), (1, 7), (6, 1), (16, 5)])
@pytest.mark.parametrize("links", [0.1, 0.3, 0.6])
def test_equals_the_graph_on_many_random_maps(shape, links):
    rng = np.random.default_rng(shape[0] + int(10 * links))
    density = rng.uniform(0, 1, (300, 1, 1))
    positive = rng.random((300, *shape)) < density
    joined = rng.random((300, *shape, 8)) < links
    np.testing.assert_array_equal(label(positive, joined), by_graph(positive, joined))


@pytest.mark.parametrize("shape", [(12, 12), (5, 20)])
def test_equals_scipy_where_all_are_joined(shape):
    rng = np.random.default_rng(shape[0])
    positive = rng.random((1000, *shape)) < rng.uniform(0.05, 0.7, (1000, 1, 1))
    labels = np.asarray(label(positive, everywhere(positive)))
    for ours, cells in zip(labels, positive, strict=True):
        np.testing.assert_array_equal(as_numbered(ours), scipy.ndimage.label(cells, FULL)[0])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shape", LONG)
def test_long_paths(shape, flip):
    cells = LONG[shape](150)
    cells = cells[::-1, ::-1] if flip else cells
    wanted, count = scipy.ndimage.label(cells, FULL)
    assert count == 1 and cells.sum() > 5000
    np.testing.assert_array_equal(as_numbered(label(cells, everywhere(cells))), wanted)


def test_a_cut_parts_a_long_path():
    cells = snake(150)
    cells[75, 0] = False
    wanted = scipy.ndimage.label(cells, FULL)[0]
    assert wanted.max() == 2
    joined = everywhere(cells)
    np.testing.assert_array_equal(as_numbered(label(cells, joined)), wanted)
    whole = snake(150)
    for y, x in ((74, 30), (74, 31)):  # and by links alone: two cells side by side
        joined[y, x] = False
    joined[74, 32, 7] = joined[74, 29, 3] = False
    labels = np.asarray(label(whole, joined))
    np.testing.assert_array_equal(labels, by_graph(whole[None], joined[None])[0])
    assert len(np.unique(labels[labels >= 0])) == 4


@pytest.mark.parametrize("seed", range(3))
def test_mazes(seed):
    joined = maze(60, seed)
    every = np.ones((60, 60), bool)
    assert not np.asarray(label(every, joined)).any()
    joined[30, :, [1, 5]] = joined[29, :, 5] = joined[31, :, 1] = False
    np.testing.assert_array_equal(label(every, joined), by_graph(every[None], joined[None])[0])


@pytest.mark.parametrize("shape", [*LONG, "maze"])
def test_rounds_grow_with_the_logarithm(shape, monkeypatch):
    """A path of over 5000 cells must not take rounds by the cell, nor by the turn."""
    cells = np.ones((150, 150), bool) if shape == "maze" else LONG[shape](150)
    joined = maze(150, 0) if shape == "maze" else everywhere(cells)
    rounds = []

    def loop(more, step, state):
        while more(state):
            rounds.append(1)
            state = step(state)
        return state

    monkeypatch.setattr(jax.lax, "while_loop", loop)
    eager = components.label(cells, joined)
    assert 0 < len(rounds) <= 8
    monkeypatch.undo()
    np.testing.assert_array_equal(eager, label(cells, joined))


def test_either_side_joins_and_no_other():
    positive = np.ones((3, 3), bool)
    for k, (dy, dx) in enumerate(NEIGHBOURS):
        joined = np.zeros((3, 3, 8), bool)
        joined[1, 1, k] = True
        wanted = np.arange(9).reshape(3, 3)
        wanted[1, 1] = wanted[1 + dy, 1 + dx] = min(4, 4 + 3 * dy + dx)
        np.testing.assert_array_equal(label(positive, joined), wanted)
        positive[1 + dy, 1 + dx] = False
        assert np.asarray(label(positive, joined))[1, 1] == 4
        positive[1 + dy, 1 + dx] = True


def test_no_link_leads_over_the_edge_or_into_the_next_image():
    positive = np.zeros((2, 3, 4), bool)
    positive[:, :, [0, -1]] = True
    joined = np.zeros((2, 3, 4, 8), bool)
    joined[:, :, -1, 2:5] = joined[:, :, 0, [0, 6, 7]] = True
    joined[:, 0, :, :3] = joined[:, -1, :, 4:7] = True
    own = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(label(positive, joined), np.where(positive, own, -1))


def test_stacking_is_vmap_and_one_image_alone():
    rng = np.random.default_rng(0)
    positive, joined = rng.random((4, 3, 8, 9)) < 0.6, rng.random((4, 3, 8, 9, 8)) < 0.2
    prob = rng.random((4, 3, 8, 9), np.float32)

    def both(positive, joined, prob):
        labels = components.label(positive, joined)
        return labels, *components.found(labels, prob, 5)

    stacked = jax.jit(both)(positive, joined, prob)
    mapped = jax.jit(jax.vmap(jax.vmap(both)))(positive, joined, prob)
    alone = jax.jit(both)(positive[1, 2], joined[1, 2], prob[1, 2])
    for one, other, single in zip(stacked, mapped, alone, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one[1, 2], single)
    assert stacked[1].shape == (4, 3, 5, 4) and stacked[4].shape == (4, 3)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 4, 4), (1, 1)])
def test_hardly_any_cells(shape):
    positive = np.ones(shape, bool)
    labels = label(positive, everywhere(positive))
    assert labels.shape == shape and not np.asarray(labels).any()
    regions = found(labels, positive.astype(np.float32), most=3)
    assert regions.cells_xyxy.shape == (*shape[:-2], 3, 4)
    assert np.asarray(regions.count).sum() == (1 if shape == (1, 1) else 0)


def by_hand(labels, prob, most, smallest=1):
    rows = []
    for first in np.unique(labels[labels >= 0]):
        y, x = np.nonzero(labels == first)
        box = (x.min(), y.min(), x.max() + 1, y.max() + 1)
        rows.append((np.float32(prob[y, x].astype(np.float64).mean()), first, box, len(x)))
    rows = sorted((r for r in rows if r[3] >= smallest), key=lambda r: (-r[0], r[1]))
    return rows[:most], len(rows)


@pytest.mark.parametrize(("most", "smallest"), [(4, 1), (200, 1), (10, 3), (1, 400)])
def test_finds_what_a_loop_finds(most, smallest):
    rng = np.random.default_rng(most)
    positive, joined = rng.random((6, 12, 15)) < 0.5, rng.random((6, 12, 15, 8)) < 0.15
    labels = np.asarray(label(positive, joined))
    prob = rng.integers(0, 9, labels.shape).astype(np.float32) / 8  # exact, with many ties
    regions = found(labels, prob, most=most, smallest=smallest)
    for image in range(len(labels)):
        rows, count = by_hand(labels[image], prob[image], most, smallest)
        n = len(rows)
        assert regions.count[image] == count
        np.testing.assert_array_equal(regions.scores[image, :n], [r[0] for r in rows])
        np.testing.assert_array_equal(regions.cells_xyxy[image, :n], [r[2] for r in rows] or 0)
        np.testing.assert_array_equal(regions.sizes[image, :n], [r[3] for r in rows])
        assert not np.asarray(regions.cells_xyxy[image, n:]).any()
        assert not np.asarray(regions.scores[image, n:]).any()
        assert not np.asarray(regions.sizes[image, n:]).any()


def test_a_component_without_probability_is_one_and_one_of_nan_is_none():
    labels = np.array([[0, -1, 2, -1, 4]])
    prob = np.array([[np.nan, 0, 0, 0, 0.5]], np.float32)
    regions = found(labels, prob, most=3)
    assert regions.count == 2
    np.testing.assert_array_equal(regions.scores, [0.5, 0, 0])
    np.testing.assert_array_equal(regions.sizes, [1, 1, 0])
    np.testing.assert_array_equal(regions.cells_xyxy, [[4, 0, 5, 1], [2, 0, 3, 1], [0, 0, 0, 0]])


@pytest.mark.parametrize(("most", "smallest"), [(0, 1), (1, 0)])
def test_wants_room_and_cells(most, smallest):
    with pytest.raises(ValueError, match=f"most={most} and smallest={smallest}"):
        components.found(np.zeros((2, 2), np.int32), np.zeros((2, 2), np.float32), most, smallest)
