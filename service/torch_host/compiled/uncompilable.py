"""The reason why a model has no compiled program."""


class Uncompilable(ValueError):
    """No kernel has this shape or function; transformers' own code may still run the model."""
