"""What an audit has measured, for people to look at: errors by leaf, input and dtype, and element by element."""

import inspect
from typing import Any

import numpy as np

from verify.laws.law import Plan
from verify.report.report import Heat, Measured
from verify.run.bench import Bench, Refused
from verify.tolerance import budget
from verify.tolerance.budget import Draw

SIDE = 24  # of a heat map, at most


def errors(bench: Bench, plan: Plan) -> tuple[Measured, ...]:
    """The worst error of each leaf at each input in float64, and at ordinary inputs in each lower dtype."""
    rows: dict[tuple[str, str, str, str], Measured] = {}
    for k, leaf in enumerate(bench.flat.layout.floats):
        for draw in plan.all:
            if (row := _row(bench, leaf, k, draw)) is not None:
                _keep(rows, row)
        for dtype in plan.dtypes:
            for row in _low(bench, plan, leaf, k, dtype):
                _keep(rows, row)
    return tuple(rows.values())


def _keep(rows: dict, row: Measured) -> None:
    key = row.leaf, row.dtype, row.input, row.shapes
    if key not in rows or not row.error <= rows[key].error:
        rows[key] = row


def _row(bench: Bench, leaf: str, k: int, draw: Draw) -> Measured | None:
    case, _, dy = draw
    pair = _pair(bench, draw, k)
    if pair is None:
        return None
    mine, true = pair
    size = max(budget.scale(bench, case, dy, k, true), 1e-300)
    allowed = budget.tight(bench, case, dy, k, true)
    error = budget.off(mine, true) / size
    return Measured(leaf, "float64", case.label, str(case.shapes), error, allowed / size, case.ordinary)


def _pair(bench: Bench, draw: Draw, k: int) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        mine, true = (run(*draw).cotangents[k] for run in (bench.pull, bench.truth))
    except Refused:
        return None
    return (mine, true) if mine.shape == true.shape and np.isfinite(true).any() else None


def _low(bench: Bench, plan: Plan, leaf: str, k: int, dtype: Any) -> list[Measured]:
    try:
        rows = budget.low(bench, plan.noisy, dtype, k)
    except (Refused, ValueError):  # a cotangent of another shape has no error, it has a finding
        return []
    return [
        Measured(leaf, str(dtype), draw[0].label, str(draw[0].shapes), mine / size, room / size, draw[0].ordinary)
        for mine, room, size, draw in rows
        if size
    ]


def heat(bench: Bench, plan: Plan) -> tuple[Heat, ...]:
    """For each leaf the relative error of its elements at the input where that is worst, in float64."""
    maps = []
    for k, leaf in enumerate(bench.flat.layout.floats):
        found = [(row.error, i) for i, draw in enumerate(plan.all) if (row := _row(bench, leaf, k, draw)) is not None]
        if not found:
            continue
        _, worst = max(found, key=lambda f: (not np.isfinite(f[0]), f[0]))
        draw = plan.all[worst]
        mine, true = _pair(bench, draw, k) or (np.zeros(0), np.zeros(0))
        size = max(budget.scale(bench, draw[0], draw[2], k, true), 1e-300)
        gap = np.where(np.isfinite(true), np.abs(mine - true) / size, 0.0)
        if gap.size:
            rows = _blocks(gap.reshape(-1, gap.shape[-1]) if gap.ndim else gap.reshape(1, 1))
            told = tuple(tuple(float(f"{v:.2g}") for v in row) for row in rows)
            maps.append(Heat(leaf, f"{draw[0].label}, {draw[1]}", mine.shape, told))
    return tuple(maps)


def _blocks(x: np.ndarray) -> np.ndarray:
    """x with at most SIDE rows and columns, each the largest of a block."""
    for axis in (0, 1):
        cuts = np.unique(np.linspace(0, x.shape[axis], min(SIDE, x.shape[axis]) + 1).astype(int))[:-1]
        x = np.maximum.reduceat(x, cuts, axis)
    return x


def source(f: Any) -> tuple[str, int] | None:
    """The file and line where a function, or the class of a layer, is written."""
    f = getattr(f, "fwd", f)
    f = inspect.unwrap(f) if callable(f) and hasattr(f, "__wrapped__") else f
    f = getattr(f, "fun", f)
    try:
        code = f if inspect.isfunction(f) or inspect.ismethod(f) else type(f)
        return inspect.getsourcefile(code) or "", inspect.getsourcelines(code)[1]
    except (OSError, TypeError):
        return None
