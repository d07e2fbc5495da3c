"""The engine: it takes the steps of an optimizer on arrays, and knows no rule.

A rule reaches it as addresses of compiled loops or as functions of NumPy, the scalars of a step as
tuples of floats. Each room knows those above it in this list, and none below:

=========  =====================================================================================
threads    how many threads a step may use, whose they are, and how they share out its work
=========  =====================================================================================
"""
