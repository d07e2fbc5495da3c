"""
Sharded training
================

A network learns digits on one, two and four ranks of MPI. Each rank holds the network and the
state of its part of it, and has its share of each batch: four parts of 16 images, whose gradients
are added up in the same order however many ranks there are, so that the losses have the same bits.
Parts are cut between tiles of 2,048 elements. This network has five; of a large one each rank
holds as much as the others.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

PROGRAM = """
import json
import numpy as np
from mpi4py import MPI
import fastoptim as fo
from fastoptim.demo.digits import load_digits
from fastoptim.demo.network import Network
from fastoptim.integrations.mpi import Sharded

comm = MPI.COMM_WORLD
digits = load_digits()
network = Network(digits.x_train.shape[1])
opt = Sharded(fo.AdamW, network.weights, comm, average=True, lr=2e-3)
rng, losses = np.random.default_rng(0), []
for step in range(120):
    parts = rng.integers(0, len(digits.x_train), (4, 16))
    found = []
    for part in np.split(parts, comm.size)[comm.rank]:
        loss, gradients = network.loss_and_gradients(digits.x_train[part], digits.y_train[part])
        found.append(float(loss))
        if len(found) < 4 // comm.size:
            opt.accumulate(gradients)
    opt.step(gradients)
    losses.append([x for of_rank in comm.allgather(found) for x in of_rank])
held = comm.allgather(sum(a.nbytes for arrays in opt.state.values() for a in arrays.values()))
if comm.rank == 0:
    print(json.dumps({"losses": losses, "held": held}))
opt.close()
"""


def run(ranks):
    """Start the program with so many ranks, by the mpiexec beside this Python."""
    mpiexec = Path(sys.executable).parent / "mpiexec"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.py"
        file.write_text(PROGRAM)
        command = [mpiexec, "-n", str(ranks), sys.executable, "-m", "mpi4py", file]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return json.loads(done.stdout)


runs = {ranks: run(ranks) for ranks in (1, 2, 4)}
assert runs[1]["losses"] == runs[2]["losses"] == runs[4]["losses"]  # bit for bit

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for ranks, style in ((1, "-"), (2, "--"), (4, ":")):
    means = [sum(losses) / 4 for losses in runs[ranks]["losses"]]
    axes[0].plot(means, style, linewidth=4 - ranks / 2, label=f"{ranks} ranks")
axes[0].set(xlabel="step", ylabel="loss", yscale="log")
axes[0].legend()
for place, (ranks, found) in enumerate(runs.items()):
    axes[1].bar([place + 0.2 * r for r in range(ranks)], [n / 1e3 for n in found["held"]], 0.18)
axes[1].set(xlabel="ranks", ylabel="kB of state on each rank")
axes[1].set_xticks([0, 1.1, 2.3], ["1", "2", "4"])
