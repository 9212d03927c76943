"""Scores: log-probabilities of given texts by several models, in windows of the same bytes."""
