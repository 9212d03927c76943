"""The reason why a model has no compiled program."""


class Uncompilable(ValueError):
    """A shape or function that no kernel has; transformers' own code may still run the model."""
