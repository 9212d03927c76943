"""Packed columns of records beside their rows, and the summaries that read them."""
