"""Sentences of any length: is one as it was written, or were two of its words exchanged?

    python -m examples.sentences

The sentences are what scikit-learn, SciPy and NumPy say of themselves in their docstrings; every tenth file is held
out. Of each there is one copy as it is and one in which two different words, drawn at random, stand in each other's
place. A bag of words cannot tell them apart; a linear classifier of which pairs of neighbours there are can. The
network reads both ways, each sentence as if it were alone, whatever the others' lengths (`Lengths`), takes for every
feature the greatest of all steps, and training ends when it does not get better on other files (`patience`). (Graves &
Schmidhuber, *Framewise Phoneme Classification with Bidirectional LSTM*, 2005.)
"""

from collections import Counter
from pathlib import Path

import jax
import numpy as np
import optax
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import SGDClassifier

from examples.shared import Figure, Outcome, agreement, curve, level, main, page, picture
from examples.thought import arrays, neighbours
from jbp import Parallel, Serial
from jbp.layers import GRU, Bidirectional, Dense, Dropout, Embedding, Identity, Lengths
from jbp.losses import SoftmaxCrossEntropy
from jbp.train import accuracy, fit, start

VOCABULARY, BATCH = 4000, 128


def exchanged(words: np.ndarray, lengths: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The sentences with two different words of each in each other's place."""
    words = words.copy()
    for row, n in zip(words, lengths, strict=True):
        i = random.integers(n)
        others = np.flatnonzero(row[:n] != row[i])
        if len(others):  # it is not one word over and over
            j = random.choice(others)
            row[i], row[j] = row[j], row[i]
    return words


def by_pairs(x: tuple[np.ndarray, np.ndarray], label: np.ndarray, held: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """What a linear classifier says that sees which words stand next to one another."""
    texts = [[" ".join(f"w{k}" for k in row[:n]) for row, n in zip(*part, strict=True)] for part in (x, held)]
    count = CountVectorizer(ngram_range=(2, 2), token_pattern=r"w\d+", binary=True, min_df=2)
    model = SGDClassifier(loss="log_loss", alpha=1e-5, random_state=0).fit(count.fit_transform(texts[0]), label)
    return np.asarray(model.predict(count.transform(texts[1])))


def run(steps: int, seed: int, out: Path) -> Outcome:
    random = np.random.default_rng(seed)
    files = [list(dict.fromkeys(s for pair in file for s in pair)) for file in neighbours()]
    parts = [[s for k, file in enumerate(files) if k % 10 in part for s in file] for part in ({0}, {1}, range(2, 10))]
    seen = set(parts[2])
    held, check, training = [s for s in parts[0] if s not in seen], [s for s in parts[1] if s not in seen], parts[2]
    count = Counter(word for sentence in training for word in sentence.split())
    number = {word: i + 1 for i, (word, _) in enumerate(count.most_common(VOCABULARY - 1))}

    def both(sentences):
        """((words, lengths), whether two were exchanged), each sentence both ways."""
        words, lengths = arrays(sentences, number)
        x = np.concatenate([words, exchanged(words, lengths, random)]), np.concatenate([lengths, lengths])
        return x, np.repeat(np.arange(2), len(words))

    def batches():
        for _ in range(steps):
            yield both([training[k] for k in random.choice(len(training), BATCH // 2)])

    net = Serial(
        read=Parallel(Embedding(VOCABULARY, 64, padding=0), Identity()),
        understand=Lengths(Bidirectional(GRU(96)), pool="max"),
        drop=Dropout(0.3),
        judge=Dense(2),
    )
    loss, optimizer = SoftmaxCrossEntropy(), optax.adam(optax.cosine_decay_schedule(5e-3, steps, 0.05))
    state = start(net, optimizer, jax.random.key(seed), next(batches())[0])
    state, history = fit(
        net, loss, optimizer, state, batches(), accuracy=accuracy, validation=[both(check[:1000])], patience=4,
        every=max(1, steps // 15), best=lambda row: row["validation accuracy"], title="sentences",
    )  # fmt: skip
    (words, lengths), label = both(held[:2000])
    y = np.asarray(jax.jit(net.evaluation())(state.params, (words, lengths)))
    said = y.argmax(-1), by_pairs(*both(training), (words, lengths))
    reached, pairs = (float((each == label).mean()) for each in said)
    names, order = ["?", *number], np.argsort(y[:, 0] - y[:, 1])
    told = [" ".join(names[k] for k in words[i][: lengths[i]]) for i in order[:14]]
    with picture(out / "sentences.png", columns=2, size=(13, 4)) as (left, right):
        curve(left, history, "accuracy", "training")
        curve(left, history, "validation accuracy", "validation")
        level(left, pairs, "pairs of neighbours, linear")
        page(right, "\n".join(told), "held-out sentences that look most as if two words were exchanged", width=100)
    figure = Figure("held-out accuracy", reached, 0.72, f"pairs of words, linear: {pairs:.2f}; a bag of words: 0.50")
    right_gradient = agreement(net.evaluation(), loss, state.params, ((words[:8], lengths[:8]), label[:8]))
    return Outcome({"reader": net}, [figure, right_gradient], out / "sentences.png")


if __name__ == "__main__":
    main(run, steps=4000, short=1200)
