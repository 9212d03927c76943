"""The quantizer process: `python -m service.torch_host.quantize FILE < resolved-model.json`.

Packs a variant's weights into a file, loads it, and checks that the loaded model's logits equal
those of the model that was packed, to the bit. Progress goes to standard output, a JSON document
per line; a refusal goes to standard error, and the status is 1.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch
from msgspec import json

from model_registry.sources.lock import hash_file
from model_registry.spec import ResolvedModel
from service.core.errors import ModelNotReady
from service.engines.torch.protocol.messages import LoadProgress
from service.torch_host.compiled.model import CompiledModel
from service.torch_host.weights import packed_file
from service.torch_host.weights.loading import compiled
from service.torch_host.weights.meta_network import meta_network, values_left
from service.torch_host.weights.network import load_network, report_progress
from service.torch_host.weights.servable import check_servable

#: Tokens that both models are asked about.
_PROMPT: Final = tuple(range(3, 40))


def quantize(
    resolved: ResolvedModel, path: Path, progress: Callable[[LoadProgress], None]
) -> str | None:
    """Write a variant's packed weights and verify them; None, or why verification failed.

    Raises ModelNotReady if the variant cannot be loaded.
    """
    check_servable(resolved)
    with report_progress(resolved, progress):
        network = load_network(resolved)
    progress(LoadProgress(model_id=resolved.id, stage="quantize"))
    made = compiled(network, resolved, slots=1, threads=torch.get_num_threads())
    values = values_left(network)
    packed_file.write(path, made.packed, values)
    expected = _answer(made)
    made.close()
    del network, made, values
    progress(LoadProgress(model_id=resolved.id, stage="verify"))
    packed = packed_file.read(path, hash_file(path), lambda _done, _total: None)
    network = meta_network(resolved.path, getattr(torch, resolved.dtype), packed.network)
    again = compiled(
        network,
        resolved,
        slots=1,
        threads=torch.get_num_threads(),
        stored=packed.matrices,
    )
    return None if torch.equal(expected, _answer(again)) else "the stored model's logits differ"


def _answer(model: CompiledModel) -> torch.Tensor:
    slot = model.take()
    assert slot is not None
    vocabulary = model.vocabulary_tokens
    logits = model.prefill(slot, [token % vocabulary for token in _PROMPT], every_logit=True)
    model.release(slot)
    return logits


def main(arguments: Sequence[str]) -> int:
    """Quantize the model on standard input into the file that is named; the exit status."""
    resolved = json.decode(sys.stdin.buffer.read(), type=ResolvedModel)

    def show(progress: LoadProgress) -> None:
        sys.stdout.write(json.encode(progress).decode() + "\n")
        sys.stdout.flush()

    try:
        problem = quantize(resolved, Path(arguments[0]), show)
    except Exception as error:  # noqa: BLE001 - other people's code on other people's files
        problem = str(error) if isinstance(error, ModelNotReady) else f"{resolved.id}: {error}"
    if problem is not None:
        sys.stderr.write(problem + "\n")
    return 0 if problem is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
