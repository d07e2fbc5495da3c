"""Other libraries with the steps of fastoptim, each in a module of its own, under its name."""
