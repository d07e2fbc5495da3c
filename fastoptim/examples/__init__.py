"""Programs to read, run and change: ``python -m fastoptim.examples.evolution``, for example."""
