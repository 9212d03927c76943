"""From a folder with safetensors to a model with slots."""

from collections.abc import Callable

from model_registry.spec import ResolvedModel
from service.engines.torch.messages import LoadProgress
from service.engines.torch.model import SlotModel


def load(
    resolved: ResolvedModel, *, slots: int, progress: Callable[[LoadProgress], None]
) -> SlotModel:
    """Load a model. Raises ModelNotReady with the reason and the fix."""
    raise NotImplementedError
