"""Kernels, and what a program needs to be told to run them."""
