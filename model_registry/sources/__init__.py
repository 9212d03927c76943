"""From a catalogue entry to a local folder with verified hashes."""

from model_registry.sources.locate import locate
from model_registry.sources.progress import PullProgress
from model_registry.sources.pull import pull

__all__ = ["PullProgress", "locate", "pull"]
