"""Convolutions as dot products of four-byte windows of an image with a border in memory: x86."""
