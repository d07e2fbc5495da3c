"""
Rows of a table
===============

A recommender has a row of factors for each user and each item, and a batch of ratings has few of
them. Its gradients are ``fo.Rows``: their numbers, as the batch has them, some several times, and
their values. A step touches these rows alone. Rules with moving averages do so by ``lazy=True``.
The ratings are made up, of hidden factors and noise, and some items are far more popular.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastoptim as fo

USERS, ITEMS, RATINGS, NOISE = 2_000, 1_000, 60_000, 0.3
rng = np.random.default_rng(0)
users = rng.integers(0, USERS, RATINGS)
items = (ITEMS * rng.random(RATINGS) ** 2).astype(np.int64)
hidden = {n: rng.standard_normal((n, 3)) for n in (USERS, ITEMS)}
ratings = (hidden[USERS][users] * hidden[ITEMS][items]).sum(1)
ratings += NOISE * rng.standard_normal(RATINGS)
learned, held_out = np.split(np.arange(RATINGS), [RATINGS * 9 // 10])


def start():
    rng = np.random.default_rng(1)
    return {
        "users": 0.3 * rng.standard_normal((USERS, 6), np.float32),
        "items": 0.3 * rng.standard_normal((ITEMS, 6), np.float32),
    }


def errors(tables, batch):
    return (tables["users"][users[batch]] * tables["items"][items[batch]]).sum(1) - ratings[batch]


def gradients(tables, batch):
    error = errors(tables, batch).astype(np.float32)[:, None]
    return {
        "users": fo.Rows(users[batch], error * tables["items"][items[batch]]),
        "items": fo.Rows(items[batch], error * tables["users"][users[batch]]),
    }


optimizers = {
    "SGD": lambda p: fo.SGD(p, lr=0.05),
    "Adagrad": lambda p: fo.Adagrad(p, lr=0.2),
    "Adam, lazy": lambda p: fo.Adam(p, lr=0.02, lazy=True),
}
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for name, made in optimizers.items():
    tables, rng, found = start(), np.random.default_rng(2), []
    opt = made(tables)
    for _ in range(20):
        for batch in np.array_split(rng.permutation(learned), 200):
            opt.step(gradients(tables, batch))
        found.append(np.sqrt((errors(tables, held_out) ** 2).mean()))
    axes[0].plot(range(1, 21), found, "o-", markersize=3, label=f"{name}: {found[-1]:.2f}")
axes[0].axhline(NOISE, color="k", linestyle=":", label="the noise")
axes[0].set(xlabel="epoch", ylabel="error of ratings held out", ylim=(0, None))
axes[0].legend(fontsize=8)

sizes = [10, 30, 100, 300, 1000, 3000, 10_000]
for name, numbers, count in (("users", users, USERS), ("items", items, ITEMS)):
    touched = [len(np.unique(numbers[:size])) / count for size in sizes]
    axes[1].plot(sizes, touched, "o-", markersize=3, label=name)
axes[1].set(xlabel="ratings of a batch", ylabel="share of rows that a step touches", xscale="log")
axes[1].legend(fontsize=8)
