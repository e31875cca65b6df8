"""Winograd's convolutions of 3x3 windows, where they are exact: x86."""
