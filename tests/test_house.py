"""The house keeps its laws: no autodiff inside, two independent halves, imports one way, every layer in the list.

Each check is a function of source text (or of the list), and a planted violation proves that it can fail.
"""

import ast
import importlib
import inspect
import itertools
import pkgutil
import re
import sys
from pathlib import Path

import jax
import pytest
from oracle import draw

import jbp
import jbp.catalogue
import jbp.credit
import jbp.layers
import jbp.pipeline
import jbp.readers
import jbp.train
import jbp.weights
from jbp.combinators.sequence import InTurn
from jbp.credit.feedback import Carried
from jbp.credit.rule import Blocks, Rule
from jbp.layer import Layer
from jbp.layers.activation.elementwise import Elementwise
from jbp.layers.activation.gated import Gated
from jbp.layers.attention.multihead import AttentionHere
from jbp.layers.attention.rotary import RotaryHere
from jbp.layers.embedding import EmbeddingHere, PositionsHere, SinusoidalPositionsHere
from jbp.layers.experts import ExpertsHere
from jbp.layers.norm.batch import Running
from jbp.layers.norm.features import Affine
from jbp.layers.recurrent.sequence import Cell, OverTime, Steps, Unrolled
from jbp.losses.cross_entropy import Classes, Entropy
from jbp.losses.loss import Loss, Pointwise
from jbp.losses.targets import Signed
from jbp.sweep import children

ROOT = Path(jbp.__file__).parent.parent
SOURCES = {path: path.read_text() for path in sorted((ROOT / "jbp").rglob("*.py"))}
AUDITOR = {path: path.read_text() for path in sorted((ROOT / "verify").rglob("*.py"))}

DERIVATIVES = {
    "grad", "value_and_grad", "vjp", "vjp3", "jvp", "linearize", "linear_transpose", "jacfwd", "jacrev", "jacobian",
    "hessian", "hvp", "jet", "fwd_and_bwd", "checkpoint", "remat", "custom_jvp", "custom_vjp", "custom_gradient",
    "custom_root", "custom_linear_solve", "closure_convert",
}  # fmt: skip
RULED = {"logsumexp", "logaddexp", "logaddexp2", "sinc", "i0", "i0e", "i1e", "xlogy", "xlog1py"}
PLAIN_NN = {"sigmoid"}  # of jax.nn: one primitive, without a rule of its own
LIBRARIES = {"jax", "numpy", "optax", "rich", "jbp"}


def imported(tree):
    """Every name that a module imports, with the dotted path that it stands for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.split(".")[0]
                names[alias.asname or root] = alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def modules(tree):
    """The dotted paths that a module imports from, and those of what it takes out of them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dotted(node, names):
    """`jax.lax.exp` for that expression, with imports followed; None for what is not a path from an import."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and (base := dotted(node.value, names)):
        return f"{base}.{node.attr}"
    return None


def autodiff(source, bridge=False):
    """What a module uses of other people's derivatives."""
    tree = ast.parse(source)
    names, found = imported(tree), []
    for node in ast.walk(tree):
        paths = [dotted(node, names)] if isinstance(node, ast.Name | ast.Attribute) else []
        if isinstance(node, ast.Import | ast.ImportFrom):
            paths = list(modules(node))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            paths = [f"{dotted(node.args[0], names)}.grad"]  # from jax by a name that is put together: that is hiding
        for path in filter(None, paths):
            root, last = path.split(".")[0], path.split(".")[-1]
            ours = root not in ("jax", "jaxlib", "optax")
            derivative = last in DERIVATIVES and not (bridge and last == "custom_vjp")
            ruled = last in RULED or (".nn." in path and last not in PLAIN_NN)
            if not ours and (derivative or ruled):
                found.append(f"line {node.lineno}: {path}")
    return found


def foreign(source, allowed):
    """The libraries that a module imports beside the standard one and `allowed`."""
    roots = {path.split(".")[0] for path in modules(ast.parse(source))}
    return sorted(roots - allowed - sys.stdlib_module_names)


JBP = (
    ("errors",),
    ("arrays", "fields", "programs"),
    ("layer",),
    ("params", "numerics", "cases", "compose"),
    ("keys",),
    ("layers",),
    ("losses",),
    ("combinators",),
    ("sweep",),
    ("bridge", "alone"),
    ("readers", "credit", "train"),
    ("recipes", "files", "weights"),
    ("saves",),
)


VERIFY = (
    ("needs", "jaxpr", "processes", "report", "thresholds"),
    ("subject",),
    ("naming", "inputs"),
    ("run",),
    ("tolerance",),
    ("laws", "architectures"),
    ("diagnose",),
    ("verdict",),
    ("plan",),
    ("check",),
    ("mutation",),
    ("cli",),
)
FLOORS = {"jbp": JBP, "verify": VERIFY}


def uphill(path, source):
    """Imports of a module of either half that do not run down its floors."""
    half, own = path.relative_to(ROOT).with_suffix("").parts[:2]
    rank = {part: i for i, parts in enumerate(FLOORS[half]) for part in parts}
    if own not in rank:  # the front door, the command and the list of cases stand above all
        return []
    found = []
    for name in modules(ast.parse(source)):
        root, *rest = name.split(".")
        if (own, name) == ("layer", "jbp.bridge.as_function"):  # inside of `__call__`: the last word is of the first
            continue
        if root == half and (not rest or rank.get(rest[0], 99) >= rank[own]) and rest[:1] != [own]:
            found.append(f"{own} imports {name}")
    return found


BRIDGE = ROOT / "jbp" / "bridge"
FOREIGN = {
    BRIDGE / "foreign.py": ["jax.vjp"],  # a layer whose function is somebody else's, and whose repr says so
    ROOT / "jbp" / "readers" / "push.py": ["jax.vjp"],  # of `pull`, which is linear: its transpose
    ROOT / "jbp" / "curvature" / "products.py": ["jax.linearize"],  # of a whole sweep, for products with the Hessian
}


def test_no_derivative_of_others_is_used_inside():
    found = {str(p): autodiff(s, bridge=p == BRIDGE / "__init__.py") for p, s in SOURCES.items() if p not in FOREIGN}
    for path, uses in FOREIGN.items():
        assert [use.partition(": ")[2] for use in autodiff(SOURCES[path])] == uses
    assert not {path: uses for path, uses in found.items() if uses}


@pytest.mark.parametrize(
    "planted",
    [
        "import jax\ndef backward(f, x):\n    return jax.grad(f)(x)",
        "from jax import vjp as down\n",
        "import jax as j\ny = j.linear_transpose",
        "from jax.experimental import jet",
        "import jax\nf = jax.custom_jvp(abs)",
        "import jax\nf = jax.custom_vjp(abs)",
        "import jax\ny = jax.nn.relu(1.0)",
        "from jax import nn\ny = nn.softmax(1.0)",
        "import jax.numpy as jnp\ny = jnp.logaddexp(1.0, 2.0)",
        "from jax.scipy.special import logsumexp",
        "import jax\ny = getattr(jax, 'gr' + 'ad')",
        "import jax\nf = jax.checkpoint(abs)",
        "import optax\ny = optax.losses.jax.grad",
    ],
)
def test_a_planted_derivative_is_found(planted):
    assert autodiff(planted)
    assert not autodiff("import jax\ngrad = 1\nvalue_and_grad = grad\ny = jax.nn.sigmoid(grad)")


def test_only_the_bridge_may_have_a_rule():
    assert autodiff(SOURCES[BRIDGE / "__init__.py"])
    assert not autodiff(SOURCES[BRIDGE / "__init__.py"], bridge=True)


LISTED = (*jbp.catalogue.LAYERS, *jbp.catalogue.LOSSES, *jbp.catalogue.ESTIMATORS)
CASES = [pytest.param(c.layer, c.inputs[0], id=repr(c.layer)) for c in LISTED]


@pytest.mark.parametrize(("layer", "spec"), CASES)
def test_no_custom_rule_is_met_while_running(layer, spec):
    """The source may hide it; the program cannot."""
    x = draw(spec)
    params = jax.eval_shape(lambda: layer.init(jax.random.key(0), x))
    y = jax.eval_shape(layer.reference, params, x)

    def whole(params, x, dy):
        out, residuals = layer.forward(params, x)
        return out, layer.pull(params, residuals, dy), layer.reference(params, x)

    text = str(jax.make_jaxpr(whole)(params, x, y))
    assert "custom_jvp" not in text
    assert "custom_vjp" not in text


def test_the_two_halves_do_not_know_each_other():
    allowed = LIBRARIES
    theirs = {"nnx": {"flax"}, "linen": {"flax"}, "equinox": {"equinox"}, "haiku": {"haiku"}}  # modules for them
    bridges = {BRIDGE / f"{name}.py": libraries for name, libraries in theirs.items()}
    bridges |= {ROOT / "jbp" / "saves.py": {"orbax"}, ROOT / "jbp" / "private.py": {"dp_accounting"}}
    bridges[ROOT / "jbp" / "watch.py"] = {"matplotlib"}
    assert not {str(p): f for p, s in SOURCES.items() if (f := foreign(s, allowed | bridges.get(p, set())))}
    assert not [p for p, s in AUDITOR.items() if "jbp" in {m.split(".")[0] for m in modules(ast.parse(s))}]
    assert foreign("import verify.laws", allowed) == ["verify"]
    assert foreign("def f():\n    from flax import nnx\n    import torch", allowed) == ["flax", "torch"]


def test_imports_run_one_way():
    sources = SOURCES | AUDITOR
    assert not [line for path, source in sources.items() for line in uphill(path, source)]
    assert {path.relative_to(ROOT / "verify").with_suffix("").parts[0] for path in AUDITOR} == {
        *itertools.chain(*VERIFY), "__init__", "__main__",
    }  # fmt: skip
    below = ROOT / "jbp" / "layers" / "linear" / "dense.py"
    assert uphill(below, "from jbp.combinators import Serial") == ["layers imports jbp.combinators.Serial"]
    assert uphill(below, "import jbp")
    assert uphill(ROOT / "jbp" / "layer.py", "from jbp.params import Buffer")
    assert uphill(ROOT / "jbp" / "train" / "step.py", "from jbp.readers.norms import x")
    assert not uphill(below, "from jbp.numerics import along\nfrom jbp.params import Buffer")
    law = ROOT / "verify" / "laws" / "calls.py"
    assert uphill(law, "def f():\n    from verify.verdict.findings import told") == [
        "laws imports verify.verdict.findings.told"
    ]
    assert uphill(law, "from verify.architectures import judge")
    assert not uphill(law, "from verify.laws.law import Law\nfrom verify.run.bench import Bench")


LAST_WORD = {"verify.report.report": "verify.report.page"}  # `report.to_html()`, where the import is inside


def circle(sources):
    """Modules of the auditor of which each imports the next, and the last the first; [] if there are none."""
    named = {".".join(p.relative_to(ROOT).with_suffix("").parts): s for p, s in sources.items()}
    edges = {}
    for module, source in named.items():
        into = {path if path in named else path.rpartition(".")[0] for path in modules(ast.parse(source))}
        edges[module] = (into & set(named)) - {module, LAST_WORD.get(module)}
    seen = {}

    def follow(module, way):
        if module in way:
            return [*way[way.index(module) :], module]
        if module not in seen:
            seen[module] = next(filter(None, (follow(m, [*way, module]) for m in sorted(edges[module]))), [])
        return seen[module]

    return next(filter(None, (follow(m, []) for m in sorted(edges))), [])


def test_no_law_asks_whether_it_is_being_tested():
    """What is made wrong for a canary comes in through `Bench.came`, and `also` for another bench, and nowhere else."""
    asks = {p.name for p, s in AUDITOR.items() if re.search(r"\.corrupt\b", s)}
    assert asks == {"bench.py"}


JUDGING = ("laws", "tolerance", "diagnose", "verdict", "architectures/judge", "architectures/comparison")
COUNTED = {0, 0.5, 1, 2, 3, 4}  # halves, counts and ranks


def bare(source):
    """Numbers in comparisons that are written where they are used."""
    compared = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Compare)]
    inside = [n for node in compared for n in ast.walk(node)]
    times = [part for n in inside if isinstance(n, ast.BinOp) for part in (n.left, n.right)]
    numbers = [n.value for n in inside if isinstance(n, ast.Constant) and isinstance(n.value, float)]
    numbers += [n.value for n in times if isinstance(n, ast.Constant) and type(n.value) is int]
    return [n for n in numbers if abs(n) not in {*COUNTED, 1e-300}]  # the least that may divide


def test_what_decides_is_written_in_one_file():
    judges = {str(p.relative_to(ROOT / "verify")): s for p, s in AUDITOR.items()}
    judges = {p: s for p, s in judges.items() if p.startswith(JUDGING)}
    assert len(judges) > 15
    assert not {p: found for p, s in judges.items() if (found := bare(s))}
    assert bare("if gap > 1e-6 * largest(b):\n    pass\ny = a > 8 * b") == [1e-6, 8]
    assert not bare("x = 1e-6 * y if a.ndim > 1 else 0.3")


def test_the_auditor_has_no_circles_and_no_file_that_needs_a_map():
    assert circle(AUDITOR) == []
    assert not {str(p): n for p, s in AUDITOR.items() if (n := len(s.splitlines())) > 400}
    a, b, c = (ROOT / "verify" / "laws" / f"{name}.py" for name in "abc")
    planted = {
        a: "from verify.laws import b",
        b: "def f():\n    from verify.laws.c import g",
        c: "import verify.laws.b",
    }
    assert circle(planted) == ["verify.laws.b", "verify.laws.c", "verify.laws.b"]


def sideways(source):
    """What a module of the corpus imports beside libraries and what its families share."""
    inside = [m for m in modules(ast.parse(source)) if m.split(".")[0] == "corpus" and m[:14] != "corpus.common."]
    return inside + foreign(source, {"jax", "numpy", "scipy", "corpus"})


def test_the_corpus_knows_neither_half_nor_its_families_each_other():
    sources = {p: p.read_text() for p in sorted((ROOT / "corpus").glob("*.py"))}
    assert sources
    assert not {p: found for p, s in sources.items() if (found := sideways(s))}
    assert sideways("from corpus.norms import unit_") == ["corpus.norms.unit_"]
    assert sideways("import corpus, verify") == ["corpus", "verify"]
    assert not sideways("import scipy.special\nfrom corpus.common import right")


def test_no_benchmark_imports_a_test():
    for path in (ROOT / "benchmarks").rglob("*.py"):
        source = path.read_text()
        assert "tests" not in {m.split(".")[0] for m in modules(ast.parse(source))}, path
        assert "sys.path" not in source, path


def unchecked(source):
    """Classes whose own `__post_init__` does not begin with the check of the fields."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            for f in node.body:
                own = isinstance(f, ast.FunctionDef) and f.name == "__post_init__" and node.name != "Layer"
                if own and ast.unparse(f.body[0]) not in ("super().__post_init__()", "check(self)"):
                    found.append(node.name)
    return found


def test_every_layer_checks_its_fields_when_it_is_made():
    assert not [name for source in SOURCES.values() for name in unchecked(source)]
    assert unchecked("class A:\n    def __post_init__(self):\n        pass") == ["A"]


def test_the_protocol_fits_on_a_page():
    assert len(SOURCES[ROOT / "jbp" / "layer.py"].splitlines()) <= 115


def public_layers():
    """Every layer class that a module of layers, losses or combinators makes under a public name."""
    found = set()
    packages = jbp.layers, jbp.losses, jbp.combinators, jbp.credit
    for name in [m.name for p in packages for m in pkgutil.walk_packages(p.__path__, f"{p.__name__}.")]:
        for cls in vars(importlib.import_module(name)).values():
            if inspect.isclass(cls) and issubclass(cls, Layer) and cls.__module__ == name and cls.__name__[0] != "_":
                found.add(cls)
    return found


def used(cases, forms):
    def inside(layer):
        return {type(layer)}.union(*(inside(child) for _, child in children(layer)))

    built = [form.build(*[jbp.layers.Tanh()] * len(form.keeps)) for form in forms]
    return set().union(*map(inside, [*(c.layer for c in cases), *built]))


UNLISTED = {
    Elementwise: "what the rows of the table have in common",
    Gated: "what the rows of its table have in common",
    Affine: "what norms have in common",
    Running: "what norms with running statistics have in common",
    Entropy: "what cross-entropy losses have in common",
    Loss: "what all losses have in common",
    InTurn: "what layers in a row and in a graph have in common",
    OverTime: "what layers that run through time take",
    Steps: "what a recurrent layer and its cell have in common",
    Cell: "what cells have in common",
    Unrolled: "what recurrent layers have in common",
    Pointwise: "what losses of one element at a time have in common",
    Classes: "what losses of labels have in common",
    Signed: "what losses of targets 1 and -1 have in common",
    Rule: "what rules of credit have in common",
    Blocks: "what rules for layers in a row have in common",
    Carried: "what rules with feedback weights have in common",
    AttentionHere: "what one device does of attention with its part of the tokens, which asks the others for theirs",
    **dict.fromkeys(
        (PositionsHere, RotaryHere, SinusoidalPositionsHere), "what one device does with its part of the tokens"
    ),
    EmbeddingHere: "the rows of an Embedding that one device has, which is told its number",
    ExpertsHere: "the part of a MixtureOfExperts that one device has, which is told its number",
    jbp.layers.Identity: "puts labels past a network, in every case with a loss",
}


def test_every_layer_is_in_the_list_of_cases():
    listed = used(LISTED, jbp.catalogue.FORMS)
    assert public_layers() - listed - set(UNLISTED) == set()
    without = [c for c in jbp.catalogue.LAYERS if type(c.layer) is not jbp.layers.PReLU]
    assert jbp.layers.PReLU in public_layers() - used(without, jbp.catalogue.FORMS)


def undocumented(names, space):
    """Names of the front door without words of their own (a dataclass without a docstring is given its signature)."""
    return [n for n in names if not (doc := inspect.getdoc(space[n])) or doc.startswith(f"{n}(")]


def test_the_front_door():
    packages = {"layers", "losses", "recipes"}
    values = {n for n, v in vars(jbp).items() if n[0] != "_" and not inspect.ismodule(v) and n != "Any"}
    assert set(jbp.__all__) == values | packages
    assert len(jbp.__all__) <= 35
    assert undocumented(jbp.__all__, vars(jbp)) == []

    def bare():
        pass

    assert undocumented(["bare"], {"bare": bare}) == ["bare"]


def unannotated(space, names):
    """Functions of a public module, and methods of its classes that are not the protocol's, without types."""
    found = []

    def look(where, f):
        form = inspect.signature(f)
        given = [p for n, p in form.parameters.items() if n not in ("self", "cls")]
        if any(p.annotation is p.empty for p in given) or form.return_annotation is form.empty:
            found.append(where)

    for name in names:
        value = getattr(space, name)
        if inspect.isfunction(value):
            look(name, value)
        elif inspect.isclass(value):
            own = {n: m for n, m in vars(value).items() if n[0] != "_" and not hasattr(Layer, n)}
            for n, method in own.items():
                method = method.fget if isinstance(method, property) else method
                if inspect.isfunction(method):
                    look(f"{name}.{n}", method)
    return found


def test_what_is_public_has_types():
    assert unannotated(jbp, jbp.__all__) == []
    for module in (jbp.recipes, jbp.train, jbp.pipeline, jbp.weights, jbp.readers, jbp.credit):
        names = [n for n, v in vars(module).items() if n[0] != "_" and getattr(v, "__module__", "").startswith("jbp.")]
        assert unannotated(module, names) == [], module.__name__
    protocol = [n for n in vars(Layer) if n[0] != "_" and callable(vars(Layer)[n])]
    assert [n for n in protocol if "return" not in getattr(Layer, n).__annotations__] == []

    def bare(x) -> int:
        return x

    assert unannotated(type("space", (), {"bare": staticmethod(bare)}), ["bare"]) == ["bare"]


RUNNERS = {
    "eval", "exec", "compile", "__import__", "import_module", "exec_module", "load_module", "run_module", "run_path",
    "pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib",
}  # fmt: skip
MAY_RUN = {
    (
        "verify/naming/named.py",
        "import_module",
    ): "a function that the user has named, on the command line or with --allow",
    ("verify/naming/named.py", "exec_module"): "a file that the user has named on the command line",
    ("verify/cli/scan.py", "import_module"): "the modules of the package that the user has named",
    ("verify/mutation/mutate.py", "exec"): "the source of a layer that is imported already, with one mistake in it",
    ("verify/mutation/mutate.py", "compile"): "the same",
}


def runners(source):
    """The names by which a module runs texts, or imports what a text names."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {part for path in modules(ast.Module([node], [])) for part in path.split(".")} & RUNNERS
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            root = getattr(getattr(node.func, "value", None), "id", "")
            of_xla = not node.args  # `lowered.compile(options)`; the builtin takes a text first
            found |= {name} & RUNNERS - ({"compile"} if root == "re" or of_xla else set())
            if name == "getattr" and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
                found |= {node.args[1].value} & RUNNERS
    return found


def test_nothing_runs_a_text_but_where_it_is_said_why():
    files = [p for half in ("verify", "jbp") for p in sorted((ROOT / half).rglob("*.py"))]
    found = {(str(p.relative_to(ROOT)), name) for p in files for name in runners(p.read_text())}
    assert found == set(MAY_RUN)
    planted = "import pickle\nfrom importlib import import_module\nb = builtins.eval(x)\nc = getattr(builtins, 'exec')"
    assert runners(planted) == {"pickle", "import_module", "eval", "exec"}
    assert not runners("import re\nre.compile('a')\nmodel.evaluation()")
