"""The packed weights of a variant, as `triptych quantize` wrote them, if they are its own."""

import logging
from collections.abc import Callable
from pathlib import Path

from model_registry.errors import CorruptFile
from model_registry.sources.packed import PACKED_NAME, read_packed_lock
from model_registry.spec import ResolvedModel
from service.core.errors import ModelNotReady
from service.engines.torch.protocol.messages import LoadProgress
from service.torch_host.weights import packed_file
from service.torch_host.weights.packed_file import Damaged, PackedWeights

log = logging.getLogger(__name__)


def read_packed(
    resolved: ResolvedModel, progress: Callable[[LoadProgress], None]
) -> PackedWeights | None:
    """Read a variant's packed weights; None if there are none, or if they are of other weights.

    Raises ModelNotReady if they are damaged.
    """
    if resolved.packed_path is None:
        return None
    folder = Path(resolved.packed_path)
    command = f"triptych quantize {resolved.spec.id} --as {resolved.quantization}"

    def report(done: int, total: int) -> None:
        progress(
            LoadProgress(model_id=resolved.id, stage="weights", done_bytes=done, total_bytes=total)
        )

    try:
        lock = read_packed_lock(folder)
        if lock is None:
            log.info("%s is quantized at each load; `%s` packs it once", resolved.id, command)
            return None
        if not lock.made_of(resolved):
            log.warning("%s: %s is outdated; `%s` replaces it", resolved.id, folder, command)
            return None
        packed = packed_file.read(folder / PACKED_NAME, lock.file.sha256, report)
    except (CorruptFile, Damaged, OSError) as error:
        raise ModelNotReady(f"{resolved.id}: {error}; run: {command} --force") from error
    log.info("%s: read packed weights from %s", resolved.id, folder)
    return packed
