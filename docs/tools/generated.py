"""What is made out of the code when the site is built: the pages about modules, and the index of layers."""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax

import jbp
from docs.tools.docstrings import example, parts
from docs.tools.recorded import table
from jbp.cases import Array

FAMILIES = {
    "linear": "Affine maps",
    "activation": "Activations",
    "norm": "Normalization",
    "conv": "Convolutions",
    "pool": "Pooling",
    "structure": "Shapes and joins",
    "embedding": "Embeddings and positions",
    "recurrent": "Sequences and trees",
    "attention": "Attention",
    "statespace": "State spaces",
    "experts": "Mixtures of experts",
    "stochastic": "Noise and estimators",
    "distance": "Distances",
    "energy": "Energies",
}
FIGURES = {  # in docs/figures, of that name
    "norm": "Where the error of feature 2 at place 1 of example 1 goes: to what shares its mean and variance",
    "conv": "Where the error of each output goes: the kernel is 1, 2, 3",
    "pool": "Where the error of each output goes",
    "structure": "Six numbers made thirty",
    "embedding": "What SinusoidalPositions adds, at each place, to four of sixteen features",
    "recurrent": "How much of an error at the last step reaches the inputs of the steps before, at the start",
    "stochastic": "What goes forward in blue, and the slope that the backward pass takes for its derivative in orange",
    "activation": "Every elementwise activation in blue, and the slope that its backward pass multiplies by in orange",
    "attention": "The weights with which each query looks at the keys, for equal scores, by what may be seen",
}
MODULES = {  # beside the families of layers
    "jbp": "The front door",
    "jbp.layer": "The protocol",
    "jbp.combinators": "Combinators",
    "jbp.losses": "Losses",
    "jbp.recipes": "Recipes",
    "jbp.train": "Training",
    "jbp.train.inside": "The optimizer inside the sweep",
    "jbp.bridge": "Other libraries",
    "jbp.weights": "Weights of other libraries",
    "jbp.readers": "Readers",
    "jbp.credit": "Credit assignment",
    "jbp.private": "Private training",
    "jbp.watch": "What training is doing",
    "jbp.curvature": "Curvature",
    "jbp.memory": "Memory",
    "jbp.pipeline": "Pipelines",
    "verify": "The auditor",
}
BESIDE = {  # on the page of a module, from files that need other libraries and so are read, not imported
    "jbp.bridge": [f"jbp.bridge.{name}.Module" for name in ("nnx", "linen", "equinox", "haiku")]
    + ["jbp.bridge.foreign.Lambda"],
}


def api() -> Iterator[tuple[str, str, str]]:
    """(title, path, Markdown) of each page about a module."""
    for name, title in MODULES.items():
        yield title, page_of(name), _module(name, title)
    for family in families():
        title = FAMILIES.get(family, family.capitalize())
        yield title, page_of(f"jbp.layers.{family}"), _module(f"jbp.layers.{family}", title)


def families() -> list[str]:
    """The families of layers that there are, in the order of FAMILIES, new ones last."""
    layers = importlib.import_module("jbp.layers")
    there = [m.name for m in pkgutil.iter_modules(layers.__path__)]
    public = [name for name in there if getattr(importlib.import_module(f"jbp.layers.{name}"), "__all__", None)]
    return sorted(public, key=lambda name: [*FAMILIES, name].index(name))


def page_of(module: str) -> str:
    return f"api/{module}.md"


def modules() -> list[str]:
    """Every module that has a page."""
    return [*MODULES, *(f"jbp.layers.{family}" for family in families())]


def public(name: str) -> dict[str, Any]:
    """What the page of a module shows, by name: what has a page of its own is not on that of the front door."""
    module = importlib.import_module(name)
    names = getattr(module, "__all__", None) or [n for n, v in vars(module).items() if _own(module, n, v)]
    found = {n: getattr(module, n) for n in sorted(names, key=str.lower)}
    elsewhere = ("jbp.layer", "jbp.combinators") if name == "jbp" else ()
    return {n: v for n, v in found.items() if not inspect.ismodule(v) and not v.__module__.startswith(elsewhere)}


def _module(name: str, title: str) -> str:
    head = [f"# {title}: `{name}`", "", inspect.getdoc(importlib.import_module(name)) or "", ""]
    for n, value in public(name).items():
        head += [f"::: {value.__module__}.{n}", "    options:", "      heading_level: 2", ""]
    for path in BESIDE.get(name, ()):
        head += [f"::: {path}", "    options:", "      heading_level: 2", "      show_root_full_path: true"]
        head += [f"      toc_label: {path.removeprefix(f'{name}.')}", ""]
    return "\n".join(head)


def _own(module: Any, name: str, value: Any) -> bool:
    """Whether a module without __all__ shows it: its own functions and classes, or those of its package."""
    home = getattr(value, "__module__", "") or ""
    package = module.__name__ if hasattr(module, "__path__") else None
    inside = home == module.__name__ or (package is not None and home.startswith(package + "."))
    return not name.startswith("_") and callable(value) and inside


def call(made: Any) -> str:
    """How a layer is written, its fields with defaults where they have some; how a function is called."""
    words = []
    if hasattr(made, "__dataclass_params__") and not made.__dataclass_params__.init:  # with an __init__ by hand
        for p in inspect.signature(made).parameters.values():
            stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
            if p.default != ():  # what dataclasses.replace passes
                words.append(f"{stars}{p.name}" + (f"={p.default!r}" if p.default is not p.empty else ""))
    elif hasattr(made, "__dataclass_fields__"):
        for f in dataclasses.fields(made):
            words.append(f.name if f.default is dataclasses.MISSING else f"{f.name}={f.default!r}")
    elif not isinstance(made, type):
        words = list(inspect.signature(made).parameters)
    return f"{made.__name__}({', '.join(words)})"


def _entry(cls: Any, page: str) -> list[str]:
    doc = inspect.getdoc(cls) or ""
    equations, _ = parts(doc)
    lines = equations or [doc.split("\n\n")[0].replace("\n", " ")]
    shown = call(cls)
    if len(shown) > 110:  # the rest is on its page
        shown = shown[:100].rsplit(",", 1)[0] + ", ...)"
    title = f"### [{cls.__name__}](../{page}#{cls.__module__}.{cls.__name__})"
    return [title, "", "```text", shown, "", *lines, "```", "", *example(doc), ""]


def _layers() -> str:
    text = []
    for family in families():
        name = f"jbp.layers.{family}"
        module = importlib.import_module(name)
        text += [f"## {FAMILIES.get(family, family.capitalize())}", "", f"`{name}`. {inspect.getdoc(module)}", ""]
        text += [f"![{FIGURES[family]}](../figures/{family}.svg)", ""] if family in FIGURES else []
        text += _entries(module, page_of(name))
    return "\n".join(text)


def _entries(module: Any, page: str) -> list[str]:
    return [line for n in sorted(module.__all__, key=str.lower) for line in _entry(getattr(module, n), page)]


def _index(name: str) -> str:
    return "\n".join(_entries(importlib.import_module(name), page_of(name)))


def _laws() -> str:
    """What each law of the auditor asks: the head of its function's docstring."""
    from verify.laws.table import LAWS, QUICK

    rows = []
    for law in LAWS:
        asks = (inspect.getdoc(law.check) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        rows.append((f"`{law.name}`", asks, "quick" if law.name in QUICK else "standard"))
    return table("law | what it asks | from level", rows)


def _sweeps() -> str:
    """What each layer with parameters has beside its gradient, read from the tables that the sweeps themselves use."""
    from jbp.catalogue import LAYERS
    from jbp.credit.rule import CARRIED
    from jbp.curvature import FACTORED
    from jbp.readers import per_example_squared_norms
    from jbp.readers.per_example import THROUGH

    first = {type(case.layer): case for case in reversed(LAYERS)}
    rows = []
    for kind, case in sorted(first.items(), key=lambda item: item[0].__name__.lower()):
        if isinstance(case.layer, THROUGH) or not _learns(case):
            continue
        why = "" if case.layer.singly else case.layer.couples
        ruled = per_example_squared_norms.dispatch(kind) is not per_example_squared_norms.dispatch(object)
        examples = f"no: {why}" if why else "a rule" if ruled else "made, a layer at a time"
        others = ("yes" if kind in kinds else "" for kinds in (FACTORED, CARRIED))
        rows.append((f"`{kind.__name__}`", examples, *others))
    through = ", ".join(f"`{kind.__name__}`" for kind in (*THROUGH, jbp.Tied))
    text = table("layer | each example's norm and weighted sums | Kronecker factors | feedback of its own", rows)
    return f"{text}\n\n{through} pass on what the layers inside have; other combinators are taken as one layer."


def _factors() -> str:
    """The affine maps that have Kronecker factors, and the layers with parameters that have none."""
    from jbp.catalogue import LAYERS
    from jbp.readers.maps import maps
    from jbp.readers.per_example import THROUGH

    have, none = {}, set()
    for case in LAYERS:
        name = f"`{type(case.layer).__name__}`"
        if found := maps(case.layer):
            have.setdefault(name, found).update({n: each for n, each in found.items() if each.bias})
        elif not isinstance(case.layer, (*THROUGH, jbp.Tied)) and _learns(case):
            none.add(name)
    rows = []
    for name, found in sorted(have.items()):
        weights = "; ".join(
            "columns of " * (each.columns is not None)
            + " above ".join(each.weights)
            + f", with {each.bias}" * (each.bias is not None)
            for each in found.values()
        )
        kind = "a diagonal for the rows of its table" if any(each.table for each in found.values()) else "full"
        rows.append((name, weights, kind))
    only, rest = (", ".join(sorted(names)) for names in (none & have.keys(), none - have.keys()))
    text = table("layer | its maps | factors", rows)
    return f"{text}\n\nWith some of their options {only} have none. None have, and keep their gradient: {rest}."


def _learns(case: Any) -> bool:
    """Whether the layer of a case has parameters that are trained."""

    def shape(a):
        dtype = "float32" if a.below is None else "int32"
        return jax.ShapeDtypeStruct(a.shape, dtype)

    x = jax.tree.map(shape, case.inputs[0], is_leaf=lambda a: isinstance(a, Array))
    params = jax.eval_shape(lambda: case.layer.init(jax.random.key(0), x))
    return bool(jax.tree.leaves(jbp.trainable(params)))


def _waivers() -> str:
    """The reasons for which a difference does not count."""
    from verify.tolerance.waivers import WAIVERS

    rows = [(f"`{w.name}`", f"**{w.title}.** {w.why}", w.otherwise) for w in WAIVERS]
    return table("name | why it does not count | to have it counted", rows)


MADE: dict[str, Callable[[], str]] = {  # for <!-- made: name --> in a page
    "laws": _laws,
    "waivers": _waivers,
    "factors": _factors,
    "layers": _layers,
    "losses": partial(_index, "jbp.losses"),
    "combinators": partial(_index, "jbp.combinators"),
    "sweeps": _sweeps,
}
