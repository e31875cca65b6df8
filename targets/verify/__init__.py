"""Proves of a program, before code is made of it, that no kernel touches memory that is not its own: `verifier.py`."""
