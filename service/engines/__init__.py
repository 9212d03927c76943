"""Engines: clients of what computes. `open_engine` is the one place that knows the kinds."""

from typing import TYPE_CHECKING

from model_registry.spec import ResolvedModel
from service.core.ports import Engine

if TYPE_CHECKING:
    from service.engines.torch.host import TorchHost
    from service.engines.vllm.command import VllmOptions


def open_engine(
    model: ResolvedModel,
    *,
    torch_host: "TorchHost",
    vllm: "VllmOptions",
    max_answer_tokens: int | None = None,
) -> Engine:
    """Create the engine that a model names; it is not started.

    Args:
        model: The model and its files.
        torch_host: The process shared by all models on torch.
        vllm: The options of models on vLLM.
        max_answer_tokens: Longest answer to a request that names no `max_tokens`.
    """
    match model.engine:
        case "echo":
            from service.engines.echo import EchoEngine

            return EchoEngine(model, max_answer_tokens=max_answer_tokens)
        case "torch":
            from service.engines.torch.engine import TorchEngine

            return TorchEngine(model, torch_host)
        case "openai":
            from service.engines.openai.engine import OpenAiEngine
            from service.engines.openai.server import remote_server

            return OpenAiEngine(model, remote_server(model), max_answer_tokens=max_answer_tokens)
        case "vllm":
            from service.engines.vllm.engine import VllmEngine

            return VllmEngine(model, vllm)
