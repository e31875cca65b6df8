"""Kernels with an expression for each element of the result."""
