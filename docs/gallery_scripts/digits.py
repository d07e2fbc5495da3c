"""
Training a network on digits
============================

A network of one hidden layer, written in NumPy, learns scikit-learn's handwritten digits, which
come with fastoptim's demo. Only the line that makes the optimizer differs from run to run.
``fastoptim demo`` does the same with more to choose, and compares times.
"""

import csv
import gzip
from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np

import fastoptim as fo

with gzip.open(files("fastoptim.demo").joinpath("digits.csv.gz").open("rb"), "rt") as file:
    table = np.array(list(csv.reader(file)), np.float32)
table = table[np.random.default_rng(1).permutation(len(table))]
x, digits = table[:, :-1] / table[:, :-1].max(), table[:, -1].astype(int)
x, x_test, digits, digits_test = x[:1400], x[1400:], digits[:1400], digits[1400:]


def start():
    rng = np.random.default_rng(0)
    return {
        "w1": fo.init.kaiming_uniform((64, 100), np.float32, rng, layout="in_out"),
        "b1": np.zeros(100, np.float32),
        "w2": fo.init.xavier_uniform((100, 10), np.float32, rng, layout="in_out"),
        "b2": np.zeros(10, np.float32),
    }


def forward(p, x):
    hidden = np.maximum(x @ p["w1"] + p["b1"], 0)
    logits = hidden @ p["w2"] + p["b2"]
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return hidden, exp / exp.sum(axis=1, keepdims=True)


def gradients(p, x, digits):
    hidden, error = forward(p, x)
    loss = -np.log(error[range(len(x)), digits] + 1e-9).mean()
    error[range(len(x)), digits] -= 1
    error /= len(x)
    back = (error @ p["w2"].T) * (hidden > 0)
    grads = {"w1": x.T @ back, "b1": back.sum(0), "w2": hidden.T @ error, "b2": error.sum(0)}
    return loss, grads


optimizers = {
    "SGD": lambda p: fo.SGD(p, lr=0.1),
    "SGD, momentum": lambda p: fo.SGD(p, lr=0.1, momentum=0.9),
    "RMSprop": lambda p: fo.RMSprop(p, lr=0.003),
    "AdamW, cosine": lambda p: fo.AdamW(p, lr=fo.schedules.CosineAnnealing(0.01, T_max=440)),
    "Lion": lambda p: fo.Lion(p, lr=0.001),
}
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for name, made in optimizers.items():
    params, rng, losses, right = start(), np.random.default_rng(2), [], []
    opt = made(params)
    for _ in range(10):
        for batch in np.array_split(rng.permutation(len(x)), 44):
            loss, grads = gradients(params, x[batch], digits[batch])
            opt.step(grads)
            losses.append(loss)
        right.append((forward(params, x_test)[1].argmax(1) == digits_test).mean())
    axes[0].plot(np.convolve(losses, np.ones(20) / 20, "valid"), label=name)
    axes[1].plot(range(1, 11), right, "o-", markersize=3, label=f"{name}: {right[-1]:.3f}")
axes[0].set(xlabel="step", ylabel="loss, mean of 20 steps", yscale="log")
axes[1].set(xlabel="epoch", ylabel="share of test digits that are right", ylim=(0.8, 1))
axes[1].legend(fontsize=8)
