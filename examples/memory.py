"""Memory network: which variable belongs here? It looks up how the variables of the function were used so far.

    python -m examples.memory

The questions are real: places in the functions of Python's standard library where a local variable stands, with the two
words before it and the two after. The memories are the last 20 uses of local variables there, each with its words on
both sides. Names are numbers from 0 to 7, drawn anew for each question, so that nothing can be known of a name but what
the memory tells. A hop compares the question u with the memories, p = softmax(u · m_i), and adds what they say, u + Σ
p_i c_i. Every tenth file is held out. Beside it: the variable used most, and the one used last. (Sukhbaatar et al.,
*End-To-End Memory Networks*, 2015; such questions: Hill et al., *The Goldilocks Principle*, 2016.)
"""

from collections import Counter
from pathlib import Path

import jax
import numpy as np
import optax

from examples.data import minibatches
from examples.shared import Figure, Outcome, agreement, curve, level, main, picture
from examples.source import NAMES, SPAN, SYMBOLS, WORDS, files, functions, phrase, questions
from jbp import recipes
from jbp.losses import SoftmaxCrossEntropy
from jbp.train import accuracy, fit, start

BATCH = 128


def run(steps: int, seed: int, out: Path) -> Outcome:
    random, (training, held_out) = np.random.default_rng(seed), files(every=10)
    common = Counter(word for words, _ in functions(training) for word in words).most_common(WORDS - 1)
    number = {word: n for n, (word, _) in enumerate(common, NAMES + 1)}
    *x, answer, _, _ = questions(training, number, random)
    *held, truth, most, last = questions(held_out, number, random)
    net, optimizer = recipes.memory_network(SYMBOLS, NAMES), optax.adam(optax.cosine_decay_schedule(1e-2, steps))
    state = start(net, optimizer, jax.random.key(seed), tuple(part[:BATCH] for part in x))
    state, history = fit(
        net,
        SoftmaxCrossEntropy(),
        optimizer,
        state,
        ((tuple(batch), label) for *batch, label in minibatches(*x, answer, size=BATCH, seed=seed)),
        steps=steps,
        check=jax.jit(lambda p: {"held-out accuracy": accuracy(net.forward(p, tuple(held))[0], truth)}),
        every=max(1, steps // 10),
        title="memory network",
    )

    scores, kept = net.forward(state.params, tuple(held))
    attention = np.stack([hop[2] for hop in kept[1:3]], 2)  # p, which either hop keeps for its backward pass
    right = ((held[0] % SPAN) != NAMES).all(1) & (scores.argmax(-1) == truth)
    question, memories, mask = (part[np.flatnonzero(right)[seed]] for part in held)
    blind = {"the one used most": float((most == truth).mean()), "the one used last": float((last == truth).mean())}
    with picture(out / "memory.png", columns=3, size=(15, 5)) as (left, middle, axes):
        curve(left, history, "loss")
        curve(middle, history, "held-out accuracy")
        for name, share in blind.items():
            level(middle, share, name)
        uses = [phrase(memory, number) for memory in memories[mask > 0]]
        axes.imshow(attention[np.flatnonzero(right)[seed], : len(uses)], cmap="Blues", aspect="auto", vmin=0)
        axes.set_yticks(range(len(uses)), uses, family="monospace", fontsize=8)
        axes.set_xticks(range(2), ("first hop", "second hop"))
        axes.set_title(f"{phrase(question, number)}   answer: @{truth[np.flatnonzero(right)[seed]]}")
    why = ", ".join(f"{name}: {share:.2f}" for name, share in blind.items())
    figure = Figure("held-out accuracy", history[-1]["held-out accuracy"], 0.5, why)
    batch = tuple(part[:64] for part in x), answer[:64]
    exact = agreement(net, SoftmaxCrossEntropy(), state.params, batch)
    return Outcome({"memory network": net}, [figure, exact], out / "memory.png")


if __name__ == "__main__":
    main(run, steps=2000, short=500)
