"""Backward passes broken by rules on their source: one small mistake each, as a person makes them.

Only a layer's backward pass is changed: its `backward`, `gradient` and `pull` and the functions of the same package
that they call. `forward` and `reference` keep calling the right ones, though they may share a helper with it.
"""

import ast
import copy
import inspect
import itertools
import linecache
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from types import FunctionType
from typing import Any

BACKWARD_PASS = "pull", "backward", "gradient"
SWAPS = {
    "sum": "mean", "mean": "sum", "max": "min", "min": "max", "argmax": "argmin", "maximum": "minimum",
    "minimum": "maximum", "cos": "sin", "sin": "cos", "exp": "expm1", "expm1": "exp", "log": "log1p", "log1p": "log",
    "tanh": "sin", "logistic": "tanh", "sqrt": "square", "square": "abs", "zeros_like": "ones_like", "zeros": "ones",
    "ones": "zeros", "ones_like": "zeros_like", "add": "max", "floor": "ceil", "rsqrt": "sqrt",
}  # fmt: skip
COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
}  # fmt: skip
KINDS = "type", "tuple", "list", "range", "len", "isinstance", "int", "zip", "enumerate", "map", "str", "repr", "Static"
Rule = tuple[str, ast.AST]


def _number(value: float) -> ast.expr:
    return ast.Constant(value) if value >= 0 else ast.UnaryOp(ast.USub(), ast.Constant(-value))


def _rules(node: ast.AST) -> Iterator[Rule]:
    """(the kind of mistake, what stands there then) for each mistake that can be made at this node."""
    match node:
        case ast.BinOp(left, op, right):
            yield from _of_operator(left, op, right)
        case ast.UnaryOp(ast.USub(), ast.Constant(int(n))):
            yield "off by one", _number(1 - n)
            yield "off by one", _number(-n - 1)
        case ast.UnaryOp(ast.USub() | ast.Not() | ast.Invert() as op, operand):
            yield "sign" if isinstance(op, ast.USub) else "condition flipped", operand
        case ast.Constant(bool(value)):
            yield "flag flipped", ast.Constant(not value)
        case ast.Constant(int(n)):
            yield "off by one", _number(n + 1)
            yield "off by one", _number(n - 1)
        case ast.Constant(float(value)):
            yield "factor", ast.Constant(2 * value)
            yield "factor", ast.Constant(1.01 * value)
        case ast.Constant(str(text)) if "->" in text:
            yield from (("operand transposed", ast.Constant(new)) for new in _einsums(text))
        case ast.Compare(left, [op], right):
            for new in COMPARISONS.get(type(op), ()):
                yield "comparison flipped", ast.Compare(left, [new()], right)
        case ast.Slice(lower, upper, step):
            if lower is not None:
                yield "slice", ast.Slice(None, upper, step)
            if upper is not None:
                yield "slice", ast.Slice(lower, None, step)
            if step is not None:
                yield "slice", ast.Slice(lower, upper, None)
        case ast.Attribute(value, "T" | "mT"):
            yield "operand transposed", value
        case ast.Tuple(elements, ast.Store()):
            for i, j in itertools.pairwise(range(len(elements))):
                swapped = [*elements[:i], elements[j], elements[i], *elements[j + 1 :]]
                yield "residuals swapped", ast.Tuple(swapped, ast.Store())
        case ast.IfExp(test, body, other):
            yield "condition flipped", ast.IfExp(test, other, body)
        case ast.If(test, body, other):
            yield "condition flipped", ast.If(ast.UnaryOp(ast.Not(), test), body, other)
        case ast.Return(ast.Tuple([first, *rest], context)):
            for rule, wrong in _results(first):
                yield rule, ast.Return(ast.Tuple([wrong, *rest], context))
        case ast.Return(value) if value is not None and not isinstance(value, ast.Dict):
            yield from ((rule, ast.Return(wrong)) for rule, wrong in _results(value))
        case ast.Dict(keys, values):
            for i, value in enumerate(values):
                for rule, wrong in _results(value):
                    yield rule, ast.Dict(keys, [*values[:i], wrong, *values[i + 1 :]])
        case ast.Call():
            yield from _of_call(node)


def _of_operator(left: ast.expr, op: ast.operator, right: ast.expr) -> Iterator[Rule]:
    match op:
        case ast.Add():
            yield "sign", ast.BinOp(left, ast.Sub(), right)
            yield "term dropped", left
            yield "term dropped", right
        case ast.Sub():
            yield "sign", ast.BinOp(left, ast.Add(), right)
            yield "operands swapped", ast.BinOp(right, op, left)
            yield "term dropped", left
            yield "term dropped", ast.UnaryOp(ast.USub(), right)
        case ast.Mult():
            yield "factor dropped", left
            yield "factor dropped", right
            yield "operator", ast.BinOp(left, ast.Div(), right)
        case ast.Div():
            yield "operands swapped", ast.BinOp(right, op, left)
            yield "operator", ast.BinOp(left, ast.Mult(), right)
            yield "factor dropped", left
        case ast.MatMult():
            yield "operands swapped", ast.BinOp(right, op, left)
        case ast.Pow():
            yield "factor dropped", left
        case ast.BitAnd():
            yield "condition flipped", ast.BinOp(left, ast.BitOr(), right)
        case ast.BitOr() if not isinstance(right, ast.Dict):
            yield "condition flipped", ast.BinOp(left, ast.BitAnd(), right)


def _results(value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """Mistakes in one result of a function."""
    if isinstance(value, ast.Constant | ast.Dict | ast.Tuple):
        return
    yield "sign", ast.UnaryOp(ast.USub(), value)
    yield "factor", ast.BinOp(ast.Constant(1.001), ast.Mult(), value)


def _einsums(text: str) -> Iterator[str]:
    """An einsum with two letters of one operand, or of the result, the other way round."""
    inputs, _, output = text.partition("->")
    parts = [*inputs.split(","), output]
    for i, part in enumerate(parts):
        letters = [k for k, c in enumerate(part) if c.isalpha()]
        for a, b in itertools.pairwise(letters):
            new = [*part]
            new[a], new[b] = new[b], new[a]
            changed = [*parts[:i], "".join(new), *parts[i + 1 :]]
            yield ",".join(changed[:-1]) + "->" + changed[-1]


def _of_call(node: ast.Call) -> Iterator[Rule]:
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    if name in SWAPS and isinstance(node.func, ast.Attribute):
        yield "function", ast.Call(ast.Attribute(node.func.value, SWAPS[name], ast.Load()), node.args, node.keywords)
    if name == "where" and len(node.args) == 3:
        test, a, b = node.args
        yield "condition flipped", ast.Call(node.func, [test, b, a], node.keywords)
        yield "mask dropped", a
        yield "mask dropped", b
    if isinstance(node.func, ast.Attribute) and not _is_module(node.func.value):
        yield "call dropped", node.func.value  # x.sum(0) -> x
    elif len(node.args) == 1 and not isinstance(node.args[0], ast.Starred) and name not in KINDS:
        yield "call dropped", node.args[0]  # jnp.exp(x) -> x
    if name in ("swapaxes", "transpose", "moveaxis") and isinstance(node.func, ast.Attribute) and _is_module(node.func):
        yield "operand transposed", node.args[0]


def _is_module(node: ast.AST) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in ("jnp", "lax", "jax", "np", "math", "itertools", "super")


@dataclass(frozen=True)
class Function:
    """A function of the backward pass: itself, its syntax, and the names by which it calls other functions of it."""

    code: Any
    syntax: ast.FunctionDef | ast.Lambda
    calls: tuple[tuple[str, FunctionType], ...]  # global names
    name: str


@dataclass(frozen=True)
class Mutant:
    """One mistake: in which function of the layer class, on which line, of which kind, what stood there and what does.

    `place` and `choice` count the nodes of the function and the mistakes that can be made there.
    """

    kind: type
    function: str
    line: int
    rule: str
    before: str
    after: str
    place: int
    choice: int

    def __str__(self):
        return f"{self.kind.__name__}: {self.function}: {self.rule}: `{self.before}` -> `{self.after}`"


@cache
def mutants(kind: type) -> list[Mutant]:
    """Every mistake that the rules can make in the backward pass of a layer class."""
    found = []
    for function in backward_pass(kind):
        skipped = _skipped(function.syntax)
        around = {child: node for node in ast.walk(function.syntax) for child in ast.iter_child_nodes(node)}
        for place, node in enumerate(ast.walk(function.syntax)):
            if node in skipped:
                continue
            for choice, (rule, new) in enumerate(_rules(node)):
                shown = around[node] if _is_number(node) else node  # a number alone says little
                before, after = (_text(shown, {id(node): n}) for n in (node, new))
                line = getattr(node, "lineno", function.syntax.lineno)
                found.append(Mutant(kind, function.name, line, rule, before, after, place, choice))
    return found


def _is_number(node: ast.AST) -> bool:
    inner = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(inner, ast.Constant) and type(inner.value) in (int, float)


def _text(node: ast.AST, changed: dict[int, ast.AST]) -> str:
    """The first line of the source of a node, in which the nodes with these ids are others."""
    return ast.unparse(ast.fix_missing_locations(copy.deepcopy(node, changed))).split("\n")[0]


def _skipped(syntax: ast.AST) -> set[ast.AST]:
    """What is no arithmetic: annotations, docstrings, errors, and `strict=True`, which nothing right depends on."""
    found: set[ast.AST] = set()
    for node in ast.walk(syntax):
        parts: list[ast.AST | None] = []
        match node:
            case ast.arg(annotation=note):
                parts = [note]
            case ast.UnaryOp(ast.USub(), ast.Constant() as number):
                parts = [number]  # -1 is changed as a whole
            case ast.Raise() | ast.JoinedStr() | ast.Assert():
                parts = [node]
            case ast.Expr(ast.Constant()):
                parts = [node]
            case ast.keyword(arg="strict"):
                parts = [node]
        for part in parts:
            if part is not None:
                found.update(ast.walk(part))
    return found


@cache
def backward_pass(kind: type) -> tuple[Function, ...]:
    """The functions that a layer class's backward pass consists of: its own methods, and helpers of its package."""
    package, found = kind.__module__.partition(".")[0], {}
    roots = [c for c in kind.__mro__ if c is not object]
    own = roots[:-1] or roots  # the last one is the protocol, whose pull calls the others
    waiting: list[tuple[str, Any]] = []
    for name in BACKWARD_PASS:
        if any(name in vars(c) for c in own):
            waiting.append((f"{kind.__name__}.{name}", inspect.getattr_static(kind, name)))
    while waiting:
        name, code = waiting.pop(0)
        code = getattr(code, "__func__", code)  # a static or class method
        if not isinstance(code, FunctionType) or code in found or code.__module__.partition(".")[0] != package:
            continue
        syntax = _syntax(code)
        if syntax is None:
            continue
        seen = _seen(code)
        refused = {n for r in ast.walk(syntax) if isinstance(r, ast.Raise) for n in ast.walk(r)}
        if refused and name.rpartition(".")[2] not in BACKWARD_PASS:
            continue  # it checks what comes in; the backward pass's own arithmetic raises nothing
        used = {n.id for n in ast.walk(syntax) if isinstance(n, ast.Name)}
        calls = tuple((n, f) for n in sorted(used) if isinstance(f := seen.get(n), FunctionType))
        found[code] = Function(code, syntax, calls, name)
        waiting += [(f.__qualname__.replace("<lambda>", n), f) for n, f in calls]
        attributes = dict.fromkeys(n.attr for n in ast.walk(syntax) if isinstance(n, ast.Attribute))
        for attribute in attributes:
            inner = inspect.getattr_static(kind, attribute, None)
            if attribute not in ("forward", "init", "reference", "evaluation") and attribute in dir(kind):
                waiting.append((f"{kind.__name__}.{attribute}", inner))
    return tuple(found.values())


def _seen(code: Any) -> dict[str, Any]:
    """The names that a function can see: its globals and what it closes over."""
    cells = zip(code.__code__.co_freevars, code.__closure__ or (), strict=True)
    return {**code.__globals__, **{name: cell.cell_contents for name, cell in cells}}


@cache
def _module(file: str) -> ast.Module:
    return ast.parse("".join(linecache.getlines(file)))


def _syntax(code: Any) -> ast.FunctionDef | ast.Lambda | None:
    spots = [p for p in code.__code__.co_positions() if None not in p and p[0] >= code.__code__.co_firstlineno]
    for node in ast.walk(_module(code.__code__.co_filename)):
        if isinstance(node, ast.FunctionDef) and node.name == code.__name__:
            lines = [node.lineno, *(d.lineno for d in node.decorator_list)]
            if code.__code__.co_firstlineno in lines:
                return node
        if isinstance(node, ast.Lambda) and code.__name__ == "<lambda>":
            body = node.body
            if (body.lineno, body.end_lineno, body.col_offset, body.end_col_offset) in spots:
                return node
    return None


class _Put(ast.NodeTransformer):
    def __init__(self, old, new):
        self.old, self.new = old, new

    def visit(self, node):
        return self.new if node is self.old else self.generic_visit(node)


class _Super(ast.NodeTransformer):
    """super() as super(__class__, self): the function is compiled outside of its class."""

    def __init__(self, syntax):
        self.me = syntax.args.posonlyargs[0].arg if syntax.args.posonlyargs else syntax.args.args[0].arg

    def visit_Call(self, node):
        if isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args:
            names: list[ast.expr] = [ast.Name(n, ast.Load()) for n in ("__class__", self.me)]
            return ast.Call(node.func, names, [])
        return self.generic_visit(node)


def _rebuilt(function: Function, mutant: Mutant | None) -> tuple[Any, dict[str, Any]]:
    """(the function compiled anew, with the mistake if it is there, and the names that it sees)."""
    syntax: Any = copy.deepcopy(function.syntax)
    if mutant is not None and mutant.function == function.name:
        old = next(itertools.islice(ast.walk(syntax), mutant.place, None))
        _, new = next(itertools.islice(_rules(old), mutant.choice, None))
        syntax = _Put(old, new).visit(syntax)
    names = _seen(function.code)
    if "__class__" in names:
        syntax = _Super(syntax).visit(syntax)
    if isinstance(syntax, ast.Lambda):
        made = ast.Assign([ast.Name("made", ast.Store())], syntax)
    else:
        made, syntax.name, syntax.decorator_list = syntax, "made", []
    exec(compile(ast.fix_missing_locations(ast.Module([made], [])), function.name, "exec"), names)
    built = names["made"]
    built.__defaults__, built.__kwdefaults__ = function.code.__defaults__, function.code.__kwdefaults__
    return built, names


def apply(layer: Any, mutant: Mutant | None) -> Any:
    """The layer with the mistake in its backward pass; with None, the same layer out of the rebuilt functions."""
    kind = type(layer)
    built = {f.code: _rebuilt(f, mutant) for f in backward_pass(kind)}
    for function in backward_pass(kind):
        names = built[function.code][1]
        names.update({name: built[code][0] for name, code in function.calls if code in built})
    methods = {}
    for name in dir(kind):
        held = inspect.getattr_static(kind, name)
        code = getattr(held, "__func__", held)
        if isinstance(code, FunctionType) and code in built:
            methods[name] = type(held)(built[code][0]) if held is not code else built[code][0]
    inner = _copied(layer, type(kind.__name__, (kind,), methods))

    def turned(name):
        return lambda self, *args: methods[name](inner, *args)

    outer: dict[str, Any] = {name: turned(name) for name in BACKWARD_PASS if name in methods}
    if "pull" not in methods:

        def pull(self, params, residuals, dy):
            dx, delta = self.backward(params, residuals, dy)
            return dx, self.gradient(residuals, delta)

        outer["pull"] = pull
    return _copied(layer, type(kind.__name__, (kind,), outer))


def _copied(layer: Any, kind: type) -> Any:
    made = object.__new__(kind)
    for field in fields(layer):
        object.__setattr__(made, field.name, getattr(layer, field.name))
    return made
