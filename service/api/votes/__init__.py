"""Votes on blind answers over HTTP."""
