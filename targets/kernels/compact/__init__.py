"""Kernels for images that lie in memory without a border: Cortex-M, Arm Linux, RISC-V and portable code.

An activation takes no byte more than it has elements. Kernels test for edges themselves, by rows: each row of the
operand that an output row needs is copied once, with its padding, to a small rolling scratch.
"""
