"""What a compiled program does, read from its text: products, collectives, conditionals, loops multiplied out."""

import math
import re
from collections import Counter, defaultdict
from functools import cache
from typing import Any

import numpy as np

MOVES = {  # numbers, or holds other operations
    *("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "bitcast-convert", "copy", "reshape"),
    *("broadcast", "transpose", "slice", "concatenate", "pad", "reverse", "gather", "scatter", "dynamic-slice"),
    *("dynamic-update-slice", "fusion", "call", "while", "conditional", "partition-id", "replica-id", "copy-start"),
    *("copy-done", "optimization-barrier", "after-all", "custom-call", "all-gather-done", "all-reduce-done"),
    *("collective-permute-done", "async-start", "async-update", "async-done"),
}
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8,
         "s64": 8, "u64": 8}  # fmt: skip
COLLECTIVES = "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute"
LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([\w-]+)\((.*)$")
HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$")
ARRAY = re.compile(r"\b([a-z]+\d+|pred)\[([\d,]*)\]")
CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


def arrays(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """(dtype, shape) of each array in a type."""
    return [(kind, tuple(int(n) for n in sizes.split(",") if n)) for kind, sizes in ARRAY.findall(text)]


def size(kind: str, shape: tuple[int, ...]) -> int:
    """Bytes."""
    return BYTES.get(kind, 4) * math.prod(shape)


def done(text: str) -> Counter:
    """What a program does on one device: `flops` of products, bytes of each kind of collective as the device receives
    them, `conditionals`. The body of a loop counts as often as it runs, as the compiler says, or as the constant with
    which its condition compares.
    """
    computations: dict[str, list[tuple[str, str, str, str]]] = defaultdict(list)
    entry = name = ""
    for line in text.splitlines():
        if head := HEAD.match(line):
            name = head[2]
            entry = name if head[1] else entry
        elif name and (found := LINE.match(line)):
            computations[name].append(found.groups())  # pyright: ignore[reportArgumentType]
    shapes = {own: arrays(kind) for lines in computations.values() for own, kind, _, _ in lines}

    def times(condition: str) -> int:
        bounds = [
            int(n) for _, _, op, rest in computations[condition] if op == "constant" and (n := rest.split(")")[0])
        ]
        inner = [c for _, _, _, rest in computations[condition] for c in CALLED.findall(rest)]
        return max([*bounds, *map(times, inner)], default=1)

    @cache
    def of(computation: str) -> Counter:
        total: Counter = Counter()
        begins = any("AsyncCollectiveStart" in rest for *_, rest in computations[computation])
        for _, kind, op, rest in computations[computation]:
            if "chain_id" in rest and not begins:  # a collective that is under way: each step of it is written down
                continue
            total.update(_alone(kind, op, rest, shapes))
            often = 1
            if op == "while":
                known = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
                condition = re.search(r"condition=%?([\w.-]+)", rest)
                often = int(known[1]) if known else times(condition[1]) if condition else 1
            several = CALLED.findall(rest) if op not in ("all-reduce", "reduce-scatter", "reduce", "scatter") else []
            for group in BRANCHES.findall(rest):
                several += [part.strip().lstrip("%") for part in group.split(",")]
            for called in several:
                total.update({what: often * n for what, n in of(called).items()})
        return total

    return of(entry)


def _alone(kind: str, op: str, rest: str, shapes: dict[str, Any]) -> dict[str, int]:
    """What one instruction does by itself."""
    if op == "conditional":
        return {"conditionals": 1}
    plain = op.removesuffix("-start")
    if plain in COLLECTIVES:
        begins = op.endswith("-start")  # what goes in and what comes out, in one tuple, and on TPUs two numbers
        sizes = [size(*a) for a in arrays(kind) if not (begins and a == ("u32", ()))]
        if begins:
            sizes = sizes[len(sizes) // 2 :] if plain != "all-reduce" else sizes
        return {plain: sum(sizes)}
    if op not in ("dot", "convolution"):
        return {} if op in MOVES else {"elements": _elements(kind, op, rest, shapes)}
    out = math.prod(arrays(kind)[0][1])
    names = re.findall(r"%([\w.-]+)", rest.split("), ")[0])
    inline = arrays(rest.split("), ")[0])
    operands = [inline[i] if len(inline) > i else shapes[n][0] for i, n in enumerate(names[:2])]
    if op == "dot":
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", rest)
        over = [operands[0][1][int(k)] for k in axes[1].split(",") if k] if axes else []
        return {"flops": 2 * out * math.prod(over)}
    return {"flops": _convolution(arrays(kind)[0][1], operands[0][1], operands[1][1], rest)}


def _elements(kind: str, op: str, rest: str, shapes: dict[str, Any]) -> int:
    """How many numbers an operation of each by itself makes, or takes to make one of several."""
    names = re.findall(r"%([\w.-]+)", rest.split(")")[0])
    whole = arrays(rest.split(")")[0]) or (shapes.get(names[0], []) if names else [])
    several = whole[:1] if op.startswith("reduce") else arrays(kind)[:1]
    return sum(math.prod(shape) for _, shape in several)


def _convolution(out: tuple[int, ...], x: tuple[int, ...], kernel: tuple[int, ...], attributes: str) -> int:
    """FLOPs of the products that are no padding: a batched product is written as a convolution that is hardly else."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    if not labels:
        return 2 * math.prod(out) * math.prod(kernel)
    of_x, of_kernel, of_out = labels.groups()
    window = dict(re.findall(r"(\w+)=([\dx_-]+)", (re.search(r"window=\{([^}]*)\}", attributes) or [""])[0]))
    total = 2 * out[of_out.index("b")] * out[of_out.index("f")] * kernel[of_kernel.index("i")]

    def field(name, k, usual):
        return window[name].split("x")[k] if name in window else usual

    for k, digit in enumerate(sorted(set(of_out) - {"b", "f"})):
        n, m, size_ = x[of_x.index(digit)], out[of_out.index(digit)], kernel[of_kernel.index(digit)]
        stride, low = int(field("stride", k, 1)), int(str(field("pad", k, "0_0")).split("_")[0])
        wide, tall = int(field("lhs_dilate", k, 1)), int(field("rhs_dilate", k, 1))
        at = np.arange(m)[:, None] * stride + np.arange(size_)[None] * tall - low
        total *= int(((at >= 0) & (at <= (n - 1) * wide) & (at % wide == 0)).sum())
    return total
