"""Tables of pipelines against the published formulas, and what is refused. What runs them: tests/scale/pipelines.py."""

import itertools

import jax
import jax.numpy as jnp
import optax
import pytest

from jbp import LayerError, LowRankAdapter, Repeat, Residual, Serial, Tied
from jbp.layers import Dense, Tanh
from jbp.pipeline import Pipeline, Schedule, Work, schedule
from jbp.pipeline.stage import instructions
from jbp.train import start

NAMES = "GPipe", "1F1B", "ZB-H1", "ZB-V"


@pytest.mark.parametrize("p", [1, 2, 3, 4, 5, 8])
def test_bubbles_and_memory_are_the_published_ones(p):
    for m in (1, 2, 5, 8, 16, 19):
        gpipe, one, h1, v = (schedule(name, p, m) for name in NAMES)
        assert gpipe.bubble == pytest.approx((p - 1) / (m + p - 1))  # Huang et al., 2019, §2.3
        assert one.bubble == pytest.approx(
            (p - 1) / (m + p - 1)
        )  # Narayanan et al., 2021, §2.2: (p − 1) / m of the rest
        assert gpipe.held == (m,) * p
        assert one.held == tuple(min(p - s, m) for s in range(p))
        if m >= p:  # Qi et al., 2023, §2.3: (p − 1) (T_F + T_B − T_W), and p M_B at most
            assert h1.bubble == pytest.approx((p - 1) / (3 * m + p - 1))
            assert h1.held == (p,) * p
        if m >= 2 * p:  # §6: the memory of 1F1B on every stage, no bubble but the fill of parts half as long
            assert v.bubble == pytest.approx((p - 1) / (6 * m + p - 1))
            assert v.held == (p,) * p


def written(table):
    """The table in letters, a row for each stage."""
    return str(table).split("\n")


def test_1f1b_of_four_stages_is_the_table_of_its_paper():
    """Narayanan et al., 2021, figure 4, whose backward pass is two ticks: each stage's own order of work."""
    orders = [[word for word in row.split() if word[0] in "FB"] for row in written(schedule("1f1b", 4, 8))]
    for s, order in enumerate(orders):
        warm = [f"F{i}" for i in range(4 - s)]
        steady = [word for i in range(8 - 4 + s) for word in (f"B{i}", f"F{4 - s + i}")]
        assert order == warm + steady + [f"B{i}" for i in range(8 - 4 + s, 8)]


def test_w_waits_in_h1_and_each_stage_waits_for_it_one_micro_batch_longer_than_the_one_before():
    """Qi et al., 2023, figure 2: on stage s the first W comes after B of s more micro-batches."""
    for s, row in enumerate(written(schedule("zb-h1", 4, 8))):
        before = row.split("W0")[0]
        assert before.count("B") == s + 1


@pytest.mark.parametrize("name", NAMES)
def test_room_is_given_out_once_at_a_time_and_no_more_than_is_held(name):
    for p, m in itertools.product((1, 2, 4), (1, 4, 8)):
        table = schedule(name, p, m)
        columns, room = instructions(table)
        assert room["kept"] == max(table.held) * table.parts
        for s, row in enumerate(table.rows):
            there = {}  # what lies where: residuals of F until W, in the same place all the time
            for t, w in enumerate(row):
                if w is None:
                    continue
                own, at = (w.micro, w.part), columns["kept"][t, s]
                if w.kind == "F":
                    assert at not in there
                    there[at] = own
                assert there[at] == own
                if w.kind == "W":
                    del there[at]
            assert not there


def test_what_is_sent_is_there_when_it_is_used():
    """The messages of a table, sent and taken by hand."""
    for name, p in itertools.product(NAMES, (1, 2, 3, 4)):
        table = schedule(name, p, 5)
        columns, room = instructions(table)
        inbox = [[None] * room["inbox"] for _ in range(p)]
        places = p * table.parts
        for t in range(table.ticks):
            sent = [None] * p
            for s in range(p):
                w = table.rows[s][t]
                if w is None or w.kind == "W":
                    continue
                j, found = table.place(s, w.part), inbox[s][columns["inbox"][t, s]]
                wanted = ("F", j - 1, w.micro) if w.kind == "F" else ("B", j + 1, w.micro)
                wanted = ("F", j, w.micro) if (w.kind, j) == ("B", places - 1) else wanted
                assert found == wanted or (w.kind, j) == ("F", 0)
                sent[s] = w.kind, j, w.micro
            for s in range(p):
                for whence, other in (("left", s - 1), ("here", s), ("right", s + 1)):
                    inbox[s][columns[whence][t, s]] = sent[other] if 0 <= other < p else None


def test_a_schedule_is_a_value_whose_repr_is_a_program():
    table = schedule("zb-v", 2, 3)
    assert eval(repr(table), {"Schedule": Schedule, "Work": Work}) == table
    assert hash(table) == hash(schedule("ZB-V", 2, 3))
    plan = Pipeline((("data", 2), ("stage", 4)), micro=8, schedule="zb-v")
    assert eval(repr(plan), {"Pipeline": Pipeline}) == plan
    assert plan.table == schedule("ZB-V", 4, 8)
    assert Pipeline((("stage", 2),), micro=3, schedule=table).table is table


ROWS = schedule("1f1b", 2, 2).rows
F, B, W = (Work(kind, 0) for kind in "FBW")
BLOCK = Residual(Serial(Dense(4), Tanh()))
NET, X = Serial(Dense(4), Repeat(BLOCK, 4), Dense(4)), jnp.ones((8, 4))
ONE = Pipeline((("stage", 1),), micro=2)


def begun(net, plan=ONE):
    return start(net, optax.sgd(0.1), jax.random.key(0), X, plan=plan)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Schedule(((F, B, W, W),)), "got 4 works, 3 of them different.*Take a table"),
        (lambda: Schedule(((F, B),)), "got 2 works, 2 of them different"),
        (lambda: Schedule((ROWS[0], ROWS[1][:-1])), "expected rows of one length"),
        (
            lambda: Schedule(((B, F, W),)),
            "got B of micro-batch 0 at place 0 in tick 0; expected it after what it needs",
        ),
        (lambda: Schedule(((F, B, W), (F, B, W))), "got B of micro-batch 0 at place 0 in tick 1"),
        (lambda: Schedule(((Work("F", 1), F, B, W, Work("B", 1), Work("W", 1)),)), "of the micro-batch before"),
        (lambda: schedule("2f2b", 2, 2), "expected 'GPipe', '1F1B', 'ZB-H1' or 'ZB-V'"),
        (lambda: Pipeline((("data", 4),)), r"got the axes data; expected 'stage' among them. Write mesh="),
        (lambda: Pipeline(weights="data"), "got weights='data' with the axes stage"),
        (lambda: Pipeline((("stage", 2),), schedule=schedule("1f1b", 2, 4)), "got a schedule of 2 stages, 4 micro"),
        (lambda: begun(Serial(Dense(4), Tanh())), r"got a network in which no Repeat.*Write Serial\(first, Repeat"),
        (lambda: begun(LowRankAdapter(NET, ("w",), 1)), "in which no Repeat"),
        (lambda: begun(NET, Pipeline((("stage", 1),), schedule=schedule("zb-v", 3, 8))), "expected 1 and 8"),
        (
            lambda: begun(Serial(Repeat(BLOCK, 3)), Pipeline((("stage", 1),), schedule="zb-v")),
            "got 3 times for 1 stages of 2 parts; expected a multiple of 2. Repeat it more often",
        ),
        (
            lambda: begun(Tied(Serial(Repeat(BLOCK, 4), Repeat(BLOCK, 4)), (((0,), (1,)),))),
            "shares with layers outside of it; expected those of the Repeat to be its own. Tie within",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, says):
    with pytest.raises(LayerError, match=says):
        make()


def test_one_stage_is_one_device():
    """The example that a reader tries first, on whatever there is."""
    state = begun(NET)
    assert jax.tree.map(jnp.shape, state.params) == jax.tree.map(jnp.shape, NET.init(jax.random.key(0), X))
    assert ONE.table.bubble == 0
