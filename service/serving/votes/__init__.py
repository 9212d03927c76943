"""Votes on blind answers: taken, revealed, imported, rated."""
