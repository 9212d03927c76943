"""Recorded conversations asked again over HTTP."""
