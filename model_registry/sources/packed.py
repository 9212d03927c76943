"""Packed weights of a quantized variant: their folder, and the lock that names their origin."""

from pathlib import Path

import msgspec
from msgspec import Struct

from model_registry.errors import CorruptFile
from model_registry.sources.lock import LOCK_NAME, LockedFile
from model_registry.spec import Dtype, Quantization, ResolvedModel, Sha256

PACKED_NAME = "packed.safetensors"
#: Raised with every change to how matrices are rounded or in which order their bytes are packed.
PACKED_FORMAT = 1


class PackedLock(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of the lock beside packed weights."""

    model: str
    variant: str
    weights_sha256: Sha256
    """Of the weights that they were packed from."""
    dtype: Dtype
    quantization: Quantization
    format: int = PACKED_FORMAT
    file: LockedFile

    @classmethod
    def of(cls, resolved: ResolvedModel, file: LockedFile) -> "PackedLock":
        """The lock of a quantized variant's packed weights."""
        assert resolved.variant is not None
        assert resolved.weights_sha256 is not None
        assert resolved.quantization is not None
        return cls(
            model=resolved.spec.id,
            variant=resolved.variant,
            weights_sha256=resolved.weights_sha256,
            dtype=resolved.dtype,
            quantization=resolved.quantization,
            file=file,
        )

    def made_of(self, resolved: ResolvedModel) -> bool:
        """True if the packed weights match the variant as it is now."""
        return (self.weights_sha256, self.dtype, self.quantization, self.format) == (
            resolved.weights_sha256,
            resolved.dtype,
            resolved.quantization,
            PACKED_FORMAT,
        )


def packed_folder(models_dir: Path, model: str, variant: str | None) -> Path:
    """Folder of a variant's packed weights, existing or not."""
    assert variant is not None
    return models_dir.absolute() / model / "variants" / variant


def read_packed_lock(folder: Path) -> PackedLock | None:
    """The lock in a folder of packed weights, None where there is none.

    Raises CorruptFile if it cannot be read.
    """
    path = folder / LOCK_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=PackedLock)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except msgspec.MsgspecError as error:
        raise CorruptFile(f"{path}: {error}; delete it") from error


def write_packed_lock(folder: Path, lock: PackedLock) -> None:
    """Write a lock into a folder that is not in use yet."""
    (folder / LOCK_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(lock)) + b"\n")
