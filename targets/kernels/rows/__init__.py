"""Kernels that work row by row: softmax, layer normalization, sums over axes."""
