"""Convolutions over a strip of rows with their padding, copied beside the image: Arm and Cortex-M."""
