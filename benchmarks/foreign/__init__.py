"""Architectures of other people's packages, and what fxquant makes of them: the parts of `benchmarks/models.py`."""
