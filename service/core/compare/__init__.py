"""Comparisons as values: differences between arms, and several answers in one text."""
