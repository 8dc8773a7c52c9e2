"""Thought vectors: one vector for a whole sentence, learnt from which sentences stand next to it.

    python -m examples.thought

The text is what scikit-learn, SciPy and NumPy say of themselves in their docstrings; every tenth file is held out. A
recurrent network reads a sentence, word by word, and is trained so that among the 256 sentences of a batch it finds the
one that comes next. (Kiros et al., *Skip-Thought Vectors*, 2015; Logeswaran & Lee, 2018.) The figure: how often, in
files that it has never seen, a sentence's true neighbour scores higher than a stranger from the same text. The bag of
words has the same task: the cosine of the words that both have, the rare ones weighed more (tf-idf).
"""

import re
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import optax
from sklearn.feature_extraction.text import TfidfVectorizer

from examples.shared import Figure, Outcome, curve, level, main, page, picture
from examples.word2vec import docstrings
from jbp import layers, recipes
from jbp.train import fit, start

VOCABULARY, LENGTH, BATCH = 4000, 16, 256


def neighbours() -> list[list[tuple[str, str]]]:
    """The pairs of sentences that stand next to one another in a docstring, file by file."""
    found = []
    for texts in docstrings():
        split = [re.split(r"[.:;]\s|\n\s*\n", text) for text in texts]
        words = [[re.findall("[a-z]+", s)[:LENGTH] for s in text] for text in split]
        long = [[" ".join(s) for s in text if len(s) > 3] for text in words]
        found.append([pair for text in long for pair in pairwise(text)])
    return found


def arrays(sentences: list[str], number: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """(words (n, LENGTH), 0 for what is not known, lengths (n,))."""
    words = np.zeros((len(sentences), LENGTH), "int32")
    for row, sentence in zip(words, sentences, strict=True):
        known = [number.get(word, 0) for word in sentence.split()]
        row[: len(known)] = known
    return words, np.array([len(s.split()) for s in sentences], "int32")


def run(steps: int, seed: int, out: Path) -> Outcome:
    random, files = np.random.default_rng(seed), neighbours()
    training = list(dict.fromkeys(pair for k, file in enumerate(files) if k % 10 for pair in file))
    known = {s for pair in training for s in pair}
    held = list(dict.fromkeys(p for file in files[::10] for p in file if not set(p) & known))[:4000]
    stranger = random.permutation(len(held))

    tfidf = TfidfVectorizer(token_pattern="[a-z]+", sublinear_tf=True).fit(known)
    one, other = (tfidf.transform(side) for side in zip(*held, strict=True))
    right, wrong = (np.asarray(one.multiply(v).sum(1))[:, 0] for v in (other, other[stranger]))
    bag = (right > wrong).mean() + (right == wrong).mean() / 2

    common = sorted(tfidf.vocabulary_, key=lambda word: tfidf.idf_[tfidf.vocabulary_[word]])[: VOCABULARY - 1]
    number = {word: i + 1 for i, word in enumerate(common)}
    sides = [arrays(list(side), number) for side in zip(*training, strict=True)]
    (a, b) = (arrays(list(side), number) for side in zip(*held, strict=True))
    net = recipes.thought_vectors(VOCABULARY)
    encode = jax.jit(net.layer[0][0].forward)  # pyright: ignore[reportIndexIssue]

    def vectors(params, sentences):
        return np.asarray(encode(params[0][0], sentences)[0])

    def check(params):
        u, v = (vectors(params, side) for side in (a, b))
        return {"neighbour above stranger": ((u * v).sum(1) > (u * v[stranger]).sum(1)).mean()}

    def batches():
        for _ in range(steps):
            rows = random.choice(len(training), BATCH, replace=False)
            yield (tuple((words[rows], lengths[rows]) for words, lengths in sides),)

    optimizer = optax.adam(optax.linear_schedule(3e-3, 3e-4, steps))
    state = start(net, optimizer, jax.random.key(seed), *next(batches()))
    every = max(1, steps // 10)
    state, history = fit(net, layers.Add(), optimizer, state, batches(), check=check, every=every, title="thoughts")

    u, v = (vectors(state.params, side) for side in (a, b))
    lines = []
    for i in random.permutation(len(held))[:5]:
        best = dict.fromkeys(held[k][1] for k in np.argsort(-u[i] @ v.T)[:20] if held[k][1] != held[i][0])
        lines.append("\n   - ".join([held[i][0], *list(best)[:3]]))
    with picture(out / "thought.png", columns=2, size=(15, 5)) as (left, right_side):
        curve(left, history, "neighbour above stranger")
        level(left, bag, "by the words that both have (tf-idf)")
        page(right_side, "\n\n".join(lines), "sentences, and what is found to come next", width=110, lines=30)
    reached = history[-1]["neighbour above stranger"]
    figure = Figure("held-out neighbour above stranger", reached, 0.78, f"a bag of words: {bag:.2f}")
    return Outcome({"thought vectors": net}, [figure], out / "thought.png")


if __name__ == "__main__":
    main(run, steps=4000, short=300)
