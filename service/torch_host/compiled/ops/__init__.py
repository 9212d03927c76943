"""Kernels, and the functions that add them to a program."""
