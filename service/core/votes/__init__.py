"""Votes as values: which of two answers a person preferred, and what follows from many."""
