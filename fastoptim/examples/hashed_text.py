"""Tell from its words which part of scikit-learn a paragraph is about, with FTRL and hashed words.

scikit-learn documents itself: the paragraphs of its docstrings are some thousand short texts, and
the packages that they are in are their classes. Each word is hashed to a row of a table with a
column for each class, and a softmax regression learns it. A batch has a few hundred of the 262,144
rows: its gradient is `fastoptim.Rows`, and only these rows are touched. Beside it scikit-learn's
``SGDClassifier`` learns from the same words.
"""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import sklearn
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import SGDClassifier

import fastoptim as fo

CLASSES = ("cluster", "ensemble", "feature_extraction", "linear_model", "metrics", "preprocessing")
BUCKETS = 2**18
BATCH = 32
SHORTEST = 40  # letters of a paragraph


def paragraphs(packages=CLASSES):
    """Return the paragraphs of the docstrings, each once, and the number of the class of each."""
    found: dict[str, int] = {}
    for number, package in enumerate(packages):
        for path in sorted((Path(sklearn.__file__).parent / package).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                    for text in (ast.get_docstring(node) or "").split("\n\n"):
                        if len(text) >= SHORTEST:
                            found.setdefault(text, number)
    return list(found), np.array(list(found.values()))


def data(seed=0):
    """Return hashed words and classes: those to learn from, then those held out, a quarter."""
    texts, labels = paragraphs()
    x = HashingVectorizer(n_features=BUCKETS, alternate_sign=False).transform(texts)
    order = np.random.default_rng(seed).permutation(len(labels))
    x, labels = x[order], labels[order]
    held_out = len(labels) // 4
    return (x[held_out:], labels[held_out:]), (x[:held_out], labels[:held_out])


def gradient(x, labels, table):
    """Return the gradient of a batch's mean cross entropy: a row for each word of each text."""
    scores = x @ table
    scores -= scores.max(axis=1, keepdims=True)
    p = np.exp(scores)
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    text_of_word = np.repeat(np.arange(len(labels)), np.diff(x.indptr))
    return fo.Rows(x.indices, x.data[:, None] * p[text_of_word] / len(labels))


def learn(x, labels, epochs, lr=3.0, seed=1):
    """Return the table of a softmax regression."""
    table = np.zeros((BUCKETS, len(CLASSES)))
    opt = fo.FTRL(table, lr=lr, l1_regularization_strength=1e-3)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(len(labels))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            opt.step(gradient(x[batch], labels[batch], table))
    return table


def main(epochs=10, report=print):
    """Train, and return the accuracy on the paragraphs held out, then that of scikit-learn."""
    (x, labels), (x_held, labels_held) = data()
    report(f"{len(labels)} paragraphs to learn from, {len(labels_held)} held out")
    table = learn(x, labels, epochs)
    accuracy = float(np.mean(np.argmax(x_held @ table, axis=1) == labels_held))
    used = int(np.any(table, axis=1).sum())
    report(f"FTRL: {accuracy:.1%}, with {used} of {BUCKETS} rows in use")
    peer = SGDClassifier(loss="log_loss", max_iter=epochs, tol=None, random_state=0)
    theirs = float(peer.fit(x, labels).score(x_held, labels_held))
    report(f"SGDClassifier: {theirs:.1%}")
    return accuracy, theirs


if __name__ == "__main__":
    main()
