"""word2vec: words that keep the same company get similar vectors, learnt from the documentation of three packages.

    python -m examples.word2vec

The text is what scikit-learn, SciPy and NumPy say of themselves in their docstrings, as they lie on this machine; every
tenth file is held out. For a word w with the neighbour c, at most four words away, and five words n drawn at random,
the loss is −log σ(u_w · v_c) − Σ log σ(−u_w · v_n). (Mikolov et al., *Distributed Representations of Words and Phrases
and their Compositionality*, 2013.) The figure: how often a true neighbour in held-out text scores higher than a word
drawn from the same text. A model that knows only how common words are cannot tell the two apart.
"""

import re
from pathlib import Path

import jax
import numpy as np
import optax
import scipy
import sklearn
from sklearn.manifold import TSNE

from examples.shared import Figure, Outcome, curve, level, main, picture
from jbp import layers, recipes
from jbp.train import fit, start

VOCABULARY, WINDOW, NEGATIVES, BATCH = 2000, 4, 5, 4096
SHOWN = ["matrix", "random", "float", "mean", "array", "sparse", "plot", "kernel", "true", "cluster", "file", "two"]


def docstrings() -> list[list[str]]:
    """The docstrings in small letters, without examples and addresses, file by file."""
    folders = [Path(package.__path__[0]) for package in (sklearn, scipy, np)]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py")) if "tests" not in file.parts]
    found = [re.findall(r'"""(.*?)"""', file.read_text("utf-8"), re.DOTALL) for file in files]
    return [[re.sub(r">>>.*|https?:\S*", "", text).lower() for text in texts] for texts in found]


def pairs(words: np.ndarray, keep: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(n, 2): each word with each of those next to it, in random order, after very common ones were thinned out."""
    words = words[random.random(len(words)) < keep[words]]
    near = [np.stack([words[:-d], words[d:]], 1) for d in range(1, WINDOW + 1)]
    both = np.concatenate([near := np.concatenate(near), near[:, ::-1]])
    return both[random.permutation(len(both))]


def run(steps: int, seed: int, out: Path) -> Outcome:
    random, prose = np.random.default_rng(seed), map(" ".join, docstrings())
    documents = [re.findall("[a-z]{2,}", text) for text in prose]
    parts = [d for i, d in enumerate(documents) if i % 10], documents[::10]
    names, counts = np.unique(np.concatenate(parts[0]), return_counts=True)
    common = np.argsort(-counts, kind="stable")[:VOCABULARY]
    names, share = names[common].tolist(), counts[common] / counts[common].sum()
    number = {name: i for i, name in enumerate(names)}
    training, held = (np.array([number[w] for d in part for w in d if w in number], "int32") for part in parts)
    keep = np.minimum(1, np.sqrt(3e-4 / share))
    training, held = pairs(training, keep, random), pairs(held, keep, random)[:20_000]
    noise = random.permutation(held[:, 1])  # as common as the true neighbours, and not neighbours
    rare = share**0.75 / (share**0.75).sum()

    def batches():
        for i in range(steps):
            rows = training[(i * BATCH + np.arange(BATCH)) % len(training)]
            drawn = random.choice(VOCABULARY, (BATCH, NEGATIVES), p=rare).astype("int32")
            yield ((rows[:, 0], np.concatenate([rows[:, 1:], drawn], 1)),)

    def check(params):
        (words, _), context = params[0], params[1]["e"]
        right, wrong = ((words["e"][held[:, 0]] * context[others]).sum(1) for others in (held[:, 1], noise))
        return {"neighbour above stranger": (right > wrong).mean()}

    net, optimizer = recipes.word2vec(VOCABULARY), optax.adam(optax.linear_schedule(1e-2, 1e-3, steps))
    state = start(net, optimizer, jax.random.key(seed), *next(batches()))
    every = max(1, steps // 10)
    state, history = fit(net, layers.Add(), optimizer, state, batches(), check=check, every=every, title="word2vec")

    vectors = np.asarray(state.params[0][0]["e"])
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = [np.argsort(-vectors @ vectors[number[word]])[1:6] for word in SHOWN]
    common = (share[held[:, 1]] > share[noise]).mean() + (held[:, 1] == noise).mean() / 2
    with picture(out / "word2vec.png", columns=3, size=(16, 5.4)) as (left, middle, right):
        curve(left, history, "neighbour above stranger")
        level(left, common, "by how common they are")
        lines = (f"{word}: " + ", ".join(names[i] for i in rows) for word, rows in zip(SHOWN, near, strict=True))
        middle.text(0.02, 0.5, "\n\n".join(lines), va="center", fontsize=9, in_layout=False)
        middle.set_axis_off()
        middle.set_title("nearest words")
        drawn = [i for i in range(60, 600) if len(names[i]) > 3][:110]
        places = TSNE(metric="cosine", perplexity=8, random_state=seed).fit_transform(vectors[drawn])
        right.scatter(*places.T, s=0)
        for i, place in zip(drawn, places, strict=True):
            right.text(*place, names[i], fontsize=8, ha="center", in_layout=False)
        right.set_axis_off()
        right.set_title("common words by their vectors (t-SNE)")
    reached = history[-1]["neighbour above stranger"]
    figure = Figure("held-out neighbour above stranger", reached, 0.65, f"how common they are: {common:.2f}")
    return Outcome({"word2vec": net}, [figure], out / "word2vec.png")


if __name__ == "__main__":
    main(run, steps=10_000, short=2000)
