"""Costs by length and load, learned from finished requests."""
