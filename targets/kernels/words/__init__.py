"""The vocabulary that kernels are written in: instructions as functions, vectors, pieces of loops."""
