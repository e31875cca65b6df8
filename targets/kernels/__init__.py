"""Kernel templates in TIR: each takes shapes and strides, never weights, so that equal layers share code."""
