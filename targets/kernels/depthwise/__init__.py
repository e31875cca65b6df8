"""Convolutions with one input channel for each output."""
