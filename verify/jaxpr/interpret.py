"""A function as JAX traces it: run again in another way, and asked what it does with its inputs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

ISNAN = "isnan"
CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
INLINE = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")

JAX = str(Path(jax.__file__).parent)

Around = Callable[[Any, list, Callable[..., list]], list]


def inner_jaxprs(params: dict) -> list[tuple[str, Any]]:
    """(name, jaxpr) for each jaxpr among an equation's parameters."""
    found = []
    for name, value in params.items():
        several = value if isinstance(value, tuple | list) else (value,)
        found += [(name, v) for v in several if isinstance(v, ClosedJaxpr | Jaxpr)]
    return found


def open_jaxpr(jaxpr: Any) -> Any:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def equations(jaxprs: list[Any]) -> Iterator[Any]:
    """All equations in jaxprs, however deep."""
    waiting = [open_jaxpr(jaxpr) for jaxpr in jaxprs]
    while waiting:
        for eqn in waiting.pop().eqns:
            yield eqn
            waiting += [open_jaxpr(inner) for _, inner in inner_jaxprs(eqn.params)]


def look(jaxprs: list[Any]) -> tuple[set[str], bool, int]:
    """(primitives, whether symbolic zeros are asked for, equations) in jaxprs, however deep. ISNAN stands for x ≠ x."""
    names, symbolic, count = set(), False, 0
    for eqn in equations(jaxprs):
        names.add(eqn.primitive.name)
        names |= {ISNAN} if eqn.primitive.name == "ne" and eqn.invars[0] is eqn.invars[1] else set()
        count += 1
        symbolic |= bool(eqn.params.get("symbolic_zeros"))
    return names, symbolic, count


def rules_in(jaxpr: Any) -> tuple[list[str], list[str]]:
    """The names of the functions with custom rules that a jaxpr calls, however deep: JAX's own, and others."""
    found: tuple[set[str], set[str]] = set(), set()
    for eqn in equations([jaxpr]):
        if eqn.primitive.name in CUSTOM:
            name = getattr(_decorated(eqn).debug_info, "func_name", "?")
            found[0 if is_jax(eqn) else 1].add(name)
    return sorted(found[0]), sorted(found[1])


def _decorated(eqn: Any) -> Any:
    return open_jaxpr(eqn.params.get("call_jaxpr") or eqn.params.get("fun_jaxpr"))


def is_jax(eqn: Any) -> bool:
    """Whether an equation calls a function of JAX's own with a custom rule."""
    where = getattr(_decorated(eqn).debug_info, "func_filename", None)
    return eqn.primitive.name in CUSTOM and str(where).startswith(JAX)


def strip(closed: ClosedJaxpr, around: Around | None = None, whole: bool = False) -> Callable[..., list]:
    """A function of the jaxpr's inputs that computes the same without custom rules; JAX's own go too if it is `whole`.

    `around(eqn, values, bind)` gives the results of an equation of these values in place of bind(eqn, values), which
    takes parameters to be changed by name.
    """

    def bind(eqn, values, **changed):
        if inner := inlined(eqn, whole):
            return strip(inner, around, whole)(*values)
        return _bind(eqn, values, changed, whole)

    def run(*inputs):
        env = dict(zip(closed.jaxpr.invars, inputs, strict=True))
        env.update(zip(closed.jaxpr.constvars, closed.consts, strict=True))

        def read(v):
            return v.val if hasattr(v, "val") else env[v]

        for eqn in closed.jaxpr.eqns:
            values = [read(v) for v in eqn.invars]
            out = around(eqn, values, bind) if around else bind(eqn, values)
            env.update(zip(eqn.outvars, out, strict=True))
        return [read(v) for v in closed.jaxpr.outvars]

    return run


def inlined(eqn: Any, whole: bool = False) -> ClosedJaxpr | None:
    """What an equation calls as it stands: a jitted or remembered function, or one that carries a custom rule; one of
    JAX's own only if it is `whole`."""
    name = eqn.primitive.name
    if name not in INLINE and (name not in CUSTOM or (is_jax(eqn) and not whole)):
        return None
    inner = eqn.params.get("call_jaxpr") or eqn.params.get("fun_jaxpr") or eqn.params["jaxpr"]
    return inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())


def _bind(eqn: Any, values: list, changed: dict[str, Any], whole: bool) -> list:
    params = eqn.params | changed
    ruled = lambda v: isinstance(v, ClosedJaxpr) and any(rules_in(v)[0 if whole else 1 :])  # noqa: E731
    for key, value in params.items():
        if ruled(value):
            params[key] = _stripped(value, whole)
        elif isinstance(value, tuple) and any(map(ruled, value)):
            params[key] = tuple(_stripped(v, whole) if isinstance(v, ClosedJaxpr) else v for v in value)
    bound = eqn.primitive.get_bind_params(params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)  # a tuple in some versions of jax
    out = eqn.primitive.bind(*functions, *values, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def _stripped(closed: ClosedJaxpr, whole: bool) -> ClosedJaxpr:
    """The jaxpr of a loop or branch without custom rules, for the same inputs and outputs."""
    return jax.make_jaxpr(strip(closed, None, whole))(*closed.in_avals)


def jaxpr_of(f: Callable[[tuple, tuple], tuple], floats: tuple, others: tuple) -> ClosedJaxpr:
    """The jaxpr of f, a function of the leaves."""
    leaves, structure = jax.tree.flatten((floats, others))
    return jax.make_jaxpr(lambda *leaves: f(*jax.tree.unflatten(structure, leaves)))(*leaves)


def again(closed: ClosedJaxpr, around: Around | None = None, whole: bool = False) -> Callable[[tuple, tuple], tuple]:
    """What `jaxpr_of` has made, as a function of (floats, others) again, run by `strip`."""
    return lambda floats, others: tuple(strip(closed, around, whole)(*jax.tree.leaves((floats, others))))


def dense(f: Callable[[tuple, tuple], tuple]) -> Callable[[tuple, tuple, tuple], tuple[tuple, tuple]]:
    """(y, cotangents) of f(floats, others) by jax.vjp, as a function of (floats, others, dy)."""

    def vjp(floats, others, dy):
        y, pull = jax.vjp(lambda floats: f(floats, others), floats)
        return y, pull(tuple(d.astype(v.dtype) for d, v in zip(dy, y, strict=True)))[0]

    return vjp


FEW = 64  # numbers that are computed to see where they point
POINTED = {"gather": 1, "scatter": 1, "scatter-add": 1, "scatter_add": 1, "dynamic_slice": 1, "dynamic_update_slice": 2}


def points(closed: ClosedJaxpr, first: int) -> dict[int, set[int]]:
    """Which inputs of a jaxpr, counted from the `first` on, come to be places in an axis; in a loop, whatever does.
    With them how many places that axis has, where it can be known."""
    found: dict[int, set[int]] = {}

    def around(eqn, values, bind):
        known = [v if isinstance(v, frozenset) else frozenset() for v in values]
        if inlined(eqn):
            return bind(eqn, known)
        name, all_of = eqn.primitive.name, frozenset().union(*known)
        inner = [open_jaxpr(j) for _, j in inner_jaxprs(eqn.params)]
        if name in POINTED:
            for j, some in enumerate(known[POINTED[name] :]):
                places = _places(eqn, j)
                for i in some:
                    found.setdefault(i, set()).update(places if len(places) == 1 else ())
        elif inner and look(inner)[0] & set(POINTED):
            for i in all_of:
                found.setdefault(i, set())
        return [all_of] * len(eqn.outvars)

    count = len(closed.jaxpr.invars)
    strip(closed, around)(*(frozenset({i - first} if i >= first else ()) for i in range(count)))
    return found


def _places(eqn: Any, j: int) -> list[int]:
    """How many places the axes have into which operand j of those that point does; one axis if it is not a gather."""
    whole, name = eqn.invars[0].aval.shape, eqn.primitive.name
    if name.startswith("dynamic"):
        part = eqn.params.get("slice_sizes") or eqn.invars[1].aval.shape
        return [whole[j] - part[j] + 1] if j < len(whole) else []
    numbers = eqn.params["dimension_numbers"]
    axes = numbers.start_index_map if name == "gather" else numbers.scatter_dims_to_operand_dims
    return [whole[a] for a in axes] if j == 0 else []


def overruns(closed: ClosedJaxpr) -> bool:
    """Whether it points beyond the end of an axis whatever its inputs are: what JAX reads there is some other place."""
    found = False

    def around(eqn, values, bind):
        nonlocal found
        if inlined(eqn):
            return bind(eqn, values)
        if eqn.primitive.name in POINTED:
            for j, at in enumerate(values[POINTED[eqn.primitive.name] :]):
                places = _places(eqn, j)
                if at is not None and places:
                    found = found or bool(((np.asarray(at) < 0) | (np.asarray(at) >= places)).any())
        known = values and all(v is not None for v in values)
        kinds = [(getattr(v.aval, "size", np.inf), getattr(v.aval, "dtype", float)) for v in eqn.outvars]
        few = all(n <= FEW and not jnp.issubdtype(kind, jnp.inexact) for n, kind in kinds)
        return bind(eqn, values) if known and few else [None] * len(eqn.outvars)

    strip(closed, around)(*[None] * len(closed.jaxpr.invars))
    return found


SAME = ("convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "slice", "copy")
AGAINST = {"eq": (0,), "ne": (0,), "ge": (-1, 0), "lt": (-1, 0), "gt": (0, 1), "le": (0, 1)}
TURNED = {"ge": "le", "le": "ge", "gt": "lt", "lt": "gt"}
BENT = {"max", "min", "abs", "sign", *AGAINST}


def asked(closed: ClosedJaxpr) -> dict[int, set[float]]:
    """For what numbers is asked, by input. Of integers those on both sides of what they are compared with: labels that
    stand for none, as −100 may, and the ends of a range; not what a place that may count from the end is compared with.
    Of floats where they are compared or bent: the ends between which they are clipped, zero for a magnitude."""
    found: dict[int, set[float]] = {}

    def around(eqn, values, bind):
        if inlined(eqn):
            return bind(eqn, values)
        name, none = eqn.primitive.name, [None] * len(eqn.outvars)
        for v in values:
            if isinstance(v, _Negative) and not (name == "select_n" and values[1] == v.of):
                found.setdefault(v.of.leaf, set()).add(-1)
        if name in SAME and (isinstance(values[0], _Leaf) or _is_number(values[0])):
            return [values[0]]
        if name not in BENT:
            return none
        x, c = (*values, 0)[:2]
        if isinstance(c, _Leaf):
            x, c, name = c, x, TURNED.get(name, name)
        if not isinstance(x, _Leaf) or not _is_number(c):
            return none
        if jnp.issubdtype(closed.in_avals[x.leaf].dtype, jnp.floating):
            found.setdefault(x.leaf, set()).add(float(c))  # an infinity among them
            return [x] if name in ("max", "min") else none  # which may be clipped at another end too
        if name == "lt" and c == 0:
            return [_Negative(x)]
        if name in AGAINST and np.isfinite(c):
            found.setdefault(x.leaf, set()).update(int(np.floor(c)) + d for d in AGAINST[name])
        return none

    strip(closed, around)(*map(_Leaf, range(len(closed.jaxpr.invars))))
    return found


SUMS = {"cumsum", "ragged_dot", "ragged_dot_general"}
MOVED = {*SAME, "concatenate", "pad", "rev", "scatter"}  # as jnp.repeat moves counts by one place


def summed(closed: ClosedJaxpr) -> set[int]:
    """Which inputs are integers that are summed up as they came, or moved: what counts how an axis is shared out is."""
    found: set[int] = set()

    def around(eqn, values, bind):
        if inlined(eqn):
            return bind(eqn, values)
        if eqn.primitive.name in SUMS:
            found.update(v.leaf for v in values if isinstance(v, _Leaf))
        known = [v for v in values if isinstance(v, _Leaf)] if eqn.primitive.name in MOVED else []
        return [known[0] if known else None] * len(eqn.outvars)

    strip(closed, around)(*map(_Leaf, range(len(closed.jaxpr.invars))))
    return {i for i in found if jnp.issubdtype(closed.in_avals[i].dtype, jnp.integer)}


@dataclass(frozen=True)
class _Leaf:
    """An input as it came, but for its shape and dtype."""

    leaf: int


@dataclass(frozen=True)
class _Negative:
    """Whether such an input is below zero."""

    of: _Leaf


def _is_number(c: Any) -> bool:
    return c is not None and not isinstance(c, _Leaf | _Negative) and np.ndim(c) == 0 and not np.isnan(c)


def scan_counts(eqn: Any) -> tuple[int, int]:
    """How many constants a scan has, and how many arrays it carries."""
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, _ = eqn.params["ft_in"].unpack()  # as JAX 0.12 has it
    return len(list(consts)), len(list(carry))
