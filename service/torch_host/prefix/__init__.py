"""Prefix cache: states of earlier prompts, from which later ones that begin alike continue."""
