"""Other sizes are found by asking, other values keep the example's domain."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import verify
from corpus import common
from verify.inputs import generators, sizes
from verify.inputs.case import UNSHOWN, Case, Tag, ordinary, shares_out
from verify.jaxpr.interpret import asked, points
from verify.subject.contract import Constraint
from verify.subject.flat import Flat
from verify.subject.layout import lay_out
from verify.subject.subject import subject

pytestmark = pytest.mark.usefixtures("lenient")


def flat_of(f, *args):
    what, args = subject(f, args, None, 0)
    layout = lay_out(args, what.labels)
    flat = Flat(what, layout)
    floats, others = layout.split(args)
    return flat, Case("example", tuple(np.asarray(x) for x in floats), tuple(np.asarray(x) for x in others))


def test_axes_that_belong_together():
    flat, case = flat_of(common.linear, common.example(5, 4), common.example(4, 4), common.example(4))
    found = {frozenset(g) for g in sizes.groups(flat, flat.primal, case)}
    assert found == {frozenset({(0, 0)}), frozenset({(0, 1), (1, 0)}), frozenset({(1, 1), (2, 0)})}


def test_a_batch_is_told_from_as_many_heads():
    """Both axes of all arrays have the same size, and neither can have another in one of the arrays alone."""
    flat, case = flat_of(lambda q, k, v: jnp.einsum("bhq,bhk,bhk->bhq", q, k, v), *(common.example(2, 2, 5),) * 3)
    found = {frozenset(g) for g in sizes.groups(flat, flat.primal, case)}
    assert {frozenset({(0, a), (1, a), (2, a)}) for a in (0, 1)} <= found


def test_no_array_becomes_longer_than_can_be_run():
    flat, case = flat_of(lambda a: a @ a @ a, common.example(3, 3)[None, None] * jnp.ones((2, 2, 1, 1)))
    for new in sizes.shapes(flat, flat.primal, case, np.random.default_rng(0)):
        assert max(map(np.size, new.floats)) <= sizes.MANY, new.label


def test_no_array_on_the_way_becomes_longer_than_can_be_run():
    """All triples of a few are nothing, of a thousand they are a billion; the axis is still tried, less long."""
    flat, case = flat_of(lambda x: jnp.abs(x[:, None, None] - x[:, None] * x).max((1, 2)), common.example(6))
    tried = [new.floats[0].size for new in sizes.shapes(flat, flat.primal, case, np.random.default_rng(0))]
    assert 100 < max(tried) <= round(sizes.MUCH ** (1 / 3)), tried


def test_lengths_reach_the_end_of_their_rows_and_no_further():
    labels, lengths = jnp.asarray([[1, 3, 3], [2, 4, 0]]), jnp.asarray([3, 2])
    _, case = flat_of(lambda x, labels, lengths: x, common.example(2, 8, 5), labels, lengths)
    tried = {new.label: new.others[1] for new in generators.values(case, np.random.default_rng(0), ())}
    assert tried["all last in 1"].max() == 3


def test_labels_stay_below_the_classes():
    flat, case = flat_of(common.cross_entropy, common.example(5, 7), common.ids(7, 5))
    for new in sizes.shapes(flat, flat.primal, case, np.random.default_rng(0)):
        assert np.asarray(new.others[0]).max(initial=0) < max(new.floats[0].shape[1], 7)
        assert new.floats[0].shape[0] == new.others[0].shape[0] or Tag.BROADCAST in new.tags


def test_values_keep_the_domain():
    rng = np.random.default_rng(0)
    positive, mask, rows = np.array([0.2, 3.0, 1.5, 2.0]), np.array([0.0, 1.0, 1.0]), np.full((3, 4), 0.25)
    rows[:, 0], rows[:, 1] = 0.3, 0.2
    case = Case("example", (positive, mask, rows), ())
    for new in generators.values(case, rng, (0, 1, 2)):
        if new.tags & UNSHOWN:
            continue
        assert (new.floats[0] >= 0).all(), new.label
        assert np.isin(new.floats[1], (0, 1)).all(), new.label
        np.testing.assert_allclose(new.floats[2].sum(-1), 1, atol=1e-6, err_msg=new.label)
    assert Constraint.of(np.array([-1.0, 2.0])).sign == 0


def test_matrices_knots_and_unit_rows_stay_what_they_are():
    rng = np.random.default_rng(0)
    square = rng.normal(size=(5, 5))
    definite, knots, rows = square @ square.T + np.eye(5), np.cumsum(rng.random(6) + 0.5), rng.normal(size=(3, 4))
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    case = Case("example", (definite, knots, rows), ())
    drawn = [ordinary(case, rng, "drawn", near) for near in (0, 1, 2)]
    for new in (*drawn, *generators.values(case, rng, (0, 1, 2))):
        if new.tags & {*UNSHOWN, Tag.HUGE, Tag.TINY}:
            continue  # float32 holds no eigenvalues there
        k, t, u = new.floats
        scale = np.abs(k).max()
        np.testing.assert_allclose(k, k.T, atol=1e-6 * scale, err_msg=new.label)
        assert np.linalg.eigvalsh(k / scale).min() > 0, new.label
        assert (np.diff(t) > 0).all(), new.label
        np.testing.assert_allclose((u * u).sum(-1), 1, atol=1e-5, err_msg=new.label)


def test_columns_that_keep_away_from_zero_keep_their_sign_in_ordinary_draws():
    rng = np.random.default_rng(0)
    down = np.stack([rng.normal(size=8), rng.normal(size=8), -1 - 0.2 * rng.random(8)], -1)
    case = Case("example", (down,), ())
    for near in (0, 1, 2):
        assert (ordinary(case, rng, "drawn", near).floats[0][:, 2] < 0).all()
    drawn = ordinary(case, rng, "drawn").floats[0]
    assert (drawn[:, 2] < -0.5).all()
    assert drawn[:, 0].std() > 0.1


def test_directions_stay_where_the_example_lives():
    v = np.random.default_rng(0).normal(size=(4, 4))
    symmetric, rows, hot, mask = np.diag([1.0, 2, 3, 4]) + 0.1, np.full((4, 4), 0.25), np.eye(4), np.tri(4)
    rows[:, 0], rows[:, 1] = 0.3, 0.2
    along = Constraint.of(symmetric).along(v, v)
    np.testing.assert_array_equal(along, along.T)
    for example in (rows, hot):
        np.testing.assert_allclose(Constraint.of(example).along(v, v).sum(-1), 0, atol=1e-12)
    assert not Constraint.of(mask).along(v, v).any()
    np.testing.assert_array_equal(Constraint.of(v).along(v, v), v)
    unit = v / np.linalg.norm(v, axis=-1, keepdims=True)
    np.testing.assert_allclose((Constraint.of(unit).along(v, unit) * unit).sum(-1), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("places", "counts", "top"),
    [
        (set(), (), 7),
        (set(), (6,), 5),
        (set(), (3,), 7),
        ({9}, (), 8),
        ({20, 9}, (), 8),
        ({6}, (6,), 5),
        ({6}, (), 5),
        ({10}, (), 7),
        ({3}, (), 4),
    ],
    ids=str,
)
def test_integers_stay_below_the_end_of_what_they_point_into(places, counts, top):
    """The axis itself, if it is a leaf's or counted by a setting; else no more than the least of those."""
    case = Case("example", (np.ones((9, 8)),), (np.array([0, 2, 4, 1]),))
    tried = list(generators.values(case, np.random.default_rng(0), (0,), {0: places}, counts))
    assert max(np.max(new.others[0]) for new in tried if not new.tags & UNSHOWN) == top
    past = [np.max(new.others[0]) for new in tried if Tag.PAST in new.tags]
    assert past == [n for n in [max(places, default=0)] if n > 4]


def plain_pointing(x, i, j, k, n):
    moved = x[i] + jnp.zeros((4, 3)).at[j].add(1.0)[1] + jax.lax.dynamic_slice(x, (n, 0), (2, 3))[0]
    return moved * jax.lax.fori_loop(0, 3, lambda t, s: s + x[k + t, 0], 0.0)


def test_how_many_places_there_are_where_integers_point():
    leaves = np.ones((7, 3)), 1, 2, 0, 3
    assert points(jax.make_jaxpr(plain_pointing)(*leaves), 1) == {0: {7}, 1: {4}, 2: set(), 3: {6}}


def test_a_cotangent_that_sums_to_zero():
    shapes = tuple(jax.ShapeDtypeStruct(s, "float64") for s in ((3, 5), (4,), ()))
    found = dict(generators.cotangents(shapes, np.random.default_rng(0), several=True))["balanced"]
    assert [d.shape for d in found] == [(3, 5), (4,), ()]
    assert [float(d.sum()) for d in found] == [0.0, 0.0, 0.0]
    assert all(d.any() for d in found[:2])


def test_values_are_single_precision():
    case = Case("example", (np.asarray(common.example(3, 4)),), ())
    for new in generators.values(case, np.random.default_rng(0), (0,)):
        assert (new.floats[0] == new.floats[0].astype(np.float32)).all(), new.label


def test_permutations_and_key_bits_are_left_alone():
    rng = np.random.default_rng(0)
    case = Case("example", (), (np.arange(5), np.asarray([7, 9], np.uint32), jnp.arange(3) > 0))
    labels = [c.label for c in generators.values(case, rng, (), pointers={0: set(), 1: set()})]
    assert not any(label.endswith((" in 0", " in 1")) for label in labels)
    assert "all true in 2" in labels


def test_a_long_loop_in_python_is_not_traced_to_its_end():
    turns = 0

    def pairs(x):
        nonlocal turns
        total = 0.0
        for i in range(x.shape[0]):
            for j in range(i):
                turns += 1
                total = total + jnp.tanh(x[i] - x[j])
        return total

    flat, example = flat_of(pairs, np.ones(6, np.float32))
    assert sizes.accepts(flat, flat.primal, example, {(0, 0): 7})
    turns = 0
    assert not sizes.accepts(flat, flat.primal, example, {(0, 0): 1027})
    assert turns < 1027


def test_a_loop_in_python_in_the_backward_pass_is_tried_less_long():
    @jax.custom_vjp
    def f(x):
        return x.sum()

    def bwd(n, d):
        return (jnp.stack([d * jnp.cos(0.0 * jnp.exp(d) + i - i) for i in range(n)]),)

    f.defvjp(lambda x: (x.sum(), x.shape[0]), bwd)
    flat, case = flat_of(f, np.ones(6, np.float32))
    found = sizes.shapes(flat, lambda floats, _: (floats[0].sum(),), case, np.random.default_rng(0))
    tried = {new.label: new.floats[0].size for new in found}
    assert tried["long axis 0"] == 37


def plain_asking(x, y, labels, i, n):
    weight = jnp.where((labels != -100) & (n >= 1), jnp.clip(x, 0, 1), jnp.abs(y))
    return weight * jnp.where(i < 0, 0.0, x[i])


def test_the_numbers_for_which_a_definition_asks():
    """Not the zero with which x[labels] compares to count from the end."""
    leaves = np.ones(3), np.ones(3), np.arange(3), np.arange(3), 2
    found = asked(jax.make_jaxpr(lambda *v: plain_asking(*v) + v[0][v[2]])(*leaves))
    assert found == {0: {0.0, 1.0}, 1: {0.0}, 2: {-100}, 3: {-1}, 4: {0, 1}}


def test_where_the_example_shows_one_side_the_other_is_tried():
    case = Case("example", (np.array([0.2, 0.4, 0.9]),), (np.array([1, 0, 2]),))
    tried = {
        new.label: new
        for new in generators.values(case, np.random.default_rng(0), (0,), asks={0: {0.5, 1.0, 1e-9}, 1: {0, -100}})
    }
    beyond = tried["both sides of 1 in leaf 0"].floats[0]
    assert 1 < beyond.max() <= 2
    assert not any(label.startswith(("both sides of 0.5", "both sides of 1e-09", "0, which")) for label in tried)
    assert tried["-100, which is asked for, in 0"].others[0].tolist()[0] == -100


def test_cotangents_along_the_outputs_and_what_is_shaped_like_them():
    y, x = (np.arange(6.0).reshape(2, 3), np.ones(2)), (np.ones((2, 3)), np.ones(5), np.array([np.inf, 1.0]))
    found = dict(generators.parallel(y, x))
    assert set(found) == {"along the outputs", "along input 0"}
    np.testing.assert_array_equal(found["along the outputs"][0], y[0])
    assert not found["along input 0"][1].any()


def test_an_axis_less_where_the_definition_gives_the_same_of_each():
    def tried(f, *args):
        flat, case = flat_of(f, *args)
        each = sizes.ranked(flat.primal, case, np.random.default_rng(0))
        return [new.floats[0].shape for new in each if np.ndim(new.floats[0]) < np.ndim(case.floats[0])]

    assert tried(lambda x: jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True), common.example(3, 4)) == [(4,)]
    assert tried(lambda x: x / x.sum(), common.example(3, 4)) == []
    assert tried(lambda x: x @ x.T, common.example(3, 4)) == []


def test_axes_that_a_setting_divides_are_tried_at_other_multiples_of_it():
    def squares(x, groups):
        return (x.reshape(len(x), groups, -1) ** 2).sum(-1)

    flat, case = flat_of(squares, common.example(3, 8), 4)
    tried = [new.floats[0].shape for new in sizes.shapes(flat, flat.primal, case, np.random.default_rng(0))]
    found = [shape[1] for shape in tried if len(shape) == 2]
    others = [n for n in found if n != 8]
    assert others, found
    assert all(n % 4 == 0 for n in others), found
    assert any(n & (n - 1) for n in others), found


def test_more_numbers_than_16_bits_count():
    flat, case = flat_of(lambda x: x * x, common.example(3, 4))
    each = [list(sizes.shapes(flat, flat.primal, case, np.random.default_rng(0), many=many)) for many in (True, False)]
    most = [max(new.floats[0].size for new in found) for found in each]
    assert most[0] > 2**16 > most[1]


def test_counts_that_share_out_an_axis_keep_their_sum():
    """Also with groups that have none, and where the axis has another length."""
    x, w, counts = common.example(7, 4), common.example(3, 4, 5), jnp.asarray([2, 4, 1])
    flat, case = flat_of(jax.lax.ragged_dot, x, w, counts)
    assert shares_out(case, case.others[0])
    assert not shares_out(case, np.array([2, 4, 2]))
    assert not shares_out(case, np.array([0, 3, 7]))  # which cut it, instead
    case = replace(case, shares=(0,))
    drawn = [ordinary(case, np.random.default_rng(seed), "") for seed in range(20)]
    tried = [*drawn, *generators.values(case, np.random.default_rng(0), (0,))]
    tried += sizes.shapes(flat, flat.primal, case, np.random.default_rng(0))
    for new in tried:
        assert new.others[0].sum() == new.floats[0].shape[0] or np.ndim(new.floats[0]) != 2, new.label
    ends = {i for new in tried for i, n in enumerate(new.others[0]) if n == 0 and len(new.others[0]) == 3}
    assert ends == {0, 1, 2}
    assert any(len(new.others[0]) != 3 for new in tried)


def test_vectors_that_have_lost_a_part():
    tried = {
        new.label: new
        for new in generators.values(Case("example", (np.ones((2, 4)),), ()), np.random.default_rng(0), (0,))
    }
    assert np.count_nonzero(tried["first alone"].floats[0]) == 2
    assert tried["first alone"].floats[0][:, 0].all()
    assert tried["last alone"].floats[0][:, 3].all()
    assert Tag.ZERO in tried["first alone"].tags


def test_a_rule_is_tried_at_its_own_thresholds_as_well():
    """One side of a number for which the rule alone asks, both sides of it, and that number."""

    @jax.custom_vjp
    def f(x):
        return x * x

    f.defvjp(lambda x: (x * x, x), lambda x, dy: (jnp.where(x > 2.5, 0.0, 2 * x * dy),))
    report = verify.check(f, jnp.array([0.5, 1.0]), reference=lambda x: x * x, level="quick")
    assert {"both sides of 2.5 in leaf 0", "2.5 in leaf 0"} <= set(report.tried["inputs"])
    assert report.verdict == "fail"
