"""The engine: it takes the steps of an optimizer on arrays, and knows no rule.

A rule reaches the engine as addresses of compiled loops or as functions of NumPy, and the scalars
of a step as tuples of floats. The engine is cut into rooms, one module each. A room may know those
above it, and knows none below:

========  ======================================================================================
machine   which code its CPU runs, whether denormals can be zero, which compiler built us
threads   how many threads a step may use, whose they are, and how they share out its work
tuning    which level and how many threads run a pass, by the time of the steps that are taken
formats   how the elements of an array are stored, and in which type the loops compute on them
foreign   what comes in the place of a NumPy array, and the ndarray that is made of it
arrays    what an array must be, how it runs through memory, and what overlaps what
layouts   how a gradient is gathered that is not laid out in memory as its parameter
changes   what happens to several objects or arrays at once, or to none of them
parts     how all arrays are cut where a plan steps a part of them, and what its clients do then
entry     what the engine is told of a parameter
staging   how elements that a loop cannot compute on where they are reach it, and go back
rows      which rows a gradient has that has but some, and where their values are
memory    the arrays of an optimizer, where they are, and whether they still are there
ring      how parts of a file go round through a few buffers, read ahead and written behind
scratch   a file for state: made, locked, its room reserved, and removed
disk      state arrays in such a file: how they are cut into waves, and what brings these
scalars   the numbers of a step, as the loops of either type read them
passes    what a step does with memory: what both backends offer
compiled  the passes with compiled loops, in tasks for several threads
twins     the passes with NumPy, bit for bit the same
plan      all of it put together, and the order of a step
========  ======================================================================================
"""

# The rooms import each other in C, where PyInstaller and other tools that gather the imports of a
# program do not see it. Here they do.
from . import (
    arrays,
    changes,
    compiled,
    disk,
    entry,
    foreign,
    formats,
    layouts,
    machine,
    memory,
    parts,
    passes,
    plan,
    ring,
    rows,
    scalars,
    scratch,
    staging,
    threads,
    tuning,
    twins,
)

__all__ = [
    "arrays",
    "changes",
    "compiled",
    "disk",
    "entry",
    "foreign",
    "formats",
    "layouts",
    "machine",
    "memory",
    "parts",
    "passes",
    "plan",
    "ring",
    "rows",
    "scalars",
    "scratch",
    "staging",
    "threads",
    "tuning",
    "twins",
]
