"""Weights that were packed once make the same model again, and damaged ones make none."""

from pathlib import Path

import msgspec
import pytest
import torch

from model_registry.sources.lock import lock_files
from model_registry.sources.packed import PACKED_FORMAT, PACKED_NAME, PackedLock, write_packed_lock
from model_registry.spec import Quantization, ResolvedModel
from service.core.errors import ModelNotReady
from service.torch_host.quantize import quantize
from service.torch_host.slot_model import SlotModel
from service.torch_host.weights.loading import load
from support import tiny_models

PROMPT = [5, 9, 77, 3, 41, 8, 8, 100]


def logits(model: SlotModel) -> torch.Tensor:
    return model.prefill(model.take(), PROMPT, every_logit=True)


def variant(name: str, folder: Path, quantization: Quantization, packed: Path) -> ResolvedModel:
    resolved = tiny_models.quantized(name, folder, quantization, dtype="bfloat16")
    return msgspec.structs.replace(resolved, weights_sha256="a" * 64, packed_path=str(packed))


def packed(resolved: ResolvedModel) -> ResolvedModel:
    """A variant whose weights were packed."""
    folder = Path(resolved.packed_path)
    assert quantize(resolved, folder / PACKED_NAME, lambda _: None) is None
    file = lock_files(folder, [PACKED_NAME])[PACKED_NAME]
    write_packed_lock(folder, PackedLock.of(resolved, file))
    return resolved


@pytest.fixture
def llama(tmp_path, tiny_folder) -> ResolvedModel:
    return packed(variant("llama", tiny_folder("llama"), "int8", tmp_path))


@pytest.mark.parametrize("name", tiny_models.NAMES)
def test_every_architecture_is_the_same_model_again(name, tmp_path, tiny_folder):
    """Logits of a model read from packed weights are those of the one that was packed."""
    resolved = variant(name, tiny_folder(name), "int4", tmp_path)
    plain = load(resolved, slots=1, progress=lambda _: None)
    again = load(packed(resolved), slots=1, progress=lambda _: None)

    assert torch.equal(logits(again), logits(plain))
    assert again.memory().weights_bytes == plain.memory().weights_bytes


def test_packed_weights_need_no_others(tmp_path, llama):
    """The plain weights are not opened: their folder may have none."""
    folder = tmp_path / "config only"
    folder.mkdir()
    (folder / "config.json").write_bytes((Path(llama.path) / "config.json").read_bytes())

    moved = msgspec.structs.replace(llama, path=str(folder))

    found = logits(load(moved, slots=1, progress=lambda _: None))
    assert torch.equal(found, logits(load(llama, slots=1, progress=lambda _: None)))


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_damaged_files_are_refused_with_the_fix(llama, damage):
    """A bit that flipped, an end that is missing: the command that mends it is named."""
    file = Path(llama.packed_path) / PACKED_NAME
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content if damage == "flipped" else content[:-100])
    if damage == "missing":
        file.unlink()

    with pytest.raises(ModelNotReady, match="triptych quantize tiny-llama --as int8 --force"):
        load(llama, slots=1, progress=lambda _: None)


def test_a_broken_lock_is_refused_with_the_fix(llama):
    """A lock that is no lock does not let the file pass unchecked."""
    (Path(llama.packed_path) / "triptych.lock.json").write_text("{}")

    with pytest.raises(ModelNotReady, match="triptych quantize tiny-llama --as int8 --force"):
        load(llama, slots=1, progress=lambda _: None)


@pytest.mark.parametrize(
    "change", [{"weights_sha256": "b" * 64}, {"format": PACKED_FORMAT + 1}, {"dtype": "float32"}]
)
def test_files_of_other_weights_or_formats_are_not_used(llama, change, caplog):
    """What does not fit the weights of today is quantized anew, and the log says so."""
    folder = Path(llama.packed_path)
    lock = msgspec.json.decode((folder / "triptych.lock.json").read_bytes(), type=PackedLock)
    write_packed_lock(folder, msgspec.structs.replace(lock, **change))

    load(llama, slots=1, progress=lambda _: None)

    assert "triptych quantize tiny-llama --as int8" in caplog.text


def test_progress_counts_the_packed_bytes(llama):
    """Progress of a load from packed weights goes up to the size of their file."""
    seen = []
    load(llama, slots=1, progress=seen.append)

    done = [report.done_bytes for report in seen if report.stage == "weights"]
    assert done == sorted(done)
    assert done[-1] == (Path(llama.packed_path) / PACKED_NAME).stat().st_size
