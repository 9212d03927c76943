"""Models: list, cards, load, unload and pin."""
