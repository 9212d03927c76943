"""Layers of a program, shared by architectures."""
