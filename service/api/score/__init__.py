"""Log-probabilities of given texts by several models."""
