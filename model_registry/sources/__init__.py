"""From a catalogue entry to a local folder with verified hashes.

`pull` has its own module, so that finding a model imports no network library.
"""

from model_registry.sources.locate import locate

__all__ = ["locate"]
