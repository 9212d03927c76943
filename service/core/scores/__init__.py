"""Scores as values, and the windows that texts are scored in."""
