"""Experiments: plans that are run on the path of all requests, and their reports."""
