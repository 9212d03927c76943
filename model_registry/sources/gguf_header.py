"""Read the header of a GGUF file, with every length checked against the size of the file.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

import math
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from msgspec import Struct

from model_registry.errors import CorruptFile, UnsupportedArchitecture

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 4
_MAX_NESTING = 4
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9


class TensorInfo(Struct, frozen=True, kw_only=True):
    """Position, type and shape of a tensor in the file."""

    name: str
    shape: tuple[int, ...]
    """Outermost dimension first, as in numpy."""
    type: GGMLQuantizationType
    offset_bytes: int
    """From the start of the file."""
    size_bytes: int


class GgufHeader(Struct, frozen=True, kw_only=True):
    """Header of a GGUF file: metadata and tensor positions."""

    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]


class _Cursor:
    """Reads values from a buffer and refuses to go past its end."""

    def __init__(self, data: memoryview, path: Path) -> None:
        self.data = data
        self.path = path
        self.offset = 0

    def take(self, size: int) -> memoryview:
        if size > len(self.data) - self.offset:
            raise CorruptFile(
                f"{self.path}: the header runs past the end of the file at byte {self.offset}; "
                "the file is truncated or not a GGUF file"
            )
        self.offset += size
        return self.data[self.offset - size : self.offset]

    def scalar(self, kind: str) -> Any:  # noqa: ANN401 — metadata holds anything
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))[0]

    def text(self) -> str:
        try:
            return str(self.take(self.scalar("Q")), "utf-8")
        except UnicodeDecodeError as error:
            raise CorruptFile(f"{self.path}: a string in the header is not UTF-8") from error

    def value(self, kind: int, depth: int = 0) -> Any:  # noqa: ANN401
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY and depth < _MAX_NESTING:
            return self.array(depth)
        raise CorruptFile(f"{self.path}: metadata of unknown type {kind} at byte {self.offset}")

    def array(self, depth: int) -> list[Any]:
        kind, count = self.scalar("I"), self.scalar("Q")
        if kind in _SCALARS:
            code = _SCALARS[kind]
            return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(code))))
        # A string or an inner array takes at least 8 bytes: bounds the loop by the file's size.
        if count > (len(self.data) - self.offset) // 8:
            raise CorruptFile(f"{self.path}: an array of {count} values does not fit the file")
        read: Callable[[], Any] = (
            self.text if kind == _STRING else lambda: self.value(kind, depth + 1)
        )
        return [read() for _ in range(count)]


def read_header(path: Path) -> GgufHeader:
    """Metadata and tensor positions of a GGUF file.

    Raises:
        CorruptFile: wrong magic, or a length, count or offset that the file cannot hold.
        UnsupportedArchitecture: a version or tensor type that is not known here.
    """
    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise CorruptFile(f"{path}: is not a GGUF file (it does not begin with 'GGUF')")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            view = memoryview(mapped)
            try:
                return _read(_Cursor(view, path))
            finally:
                view.release()


def _read(cursor: _Cursor) -> GgufHeader:
    cursor.take(len(_MAGIC))
    version, tensor_count, key_count = cursor.scalar("I"), cursor.scalar("Q"), cursor.scalar("Q")
    if version not in _VERSIONS:
        raise UnsupportedArchitecture(
            f"{cursor.path}: GGUF version {version}; versions 2 and 3 (little-endian) can be read"
        )
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.text()
        if key in metadata:
            raise CorruptFile(f"{cursor.path}: metadata key {key!r} occurs twice")
        metadata[key] = cursor.value(cursor.scalar("I"))
    infos = [_tensor_info(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise CorruptFile(f"{cursor.path}: general.alignment is {alignment}, not a power of two")
    start = math.ceil(cursor.offset / alignment) * alignment
    return GgufHeader(metadata=metadata, tensors=_placed(cursor, infos, start))


def _tensor_info(cursor: _Cursor) -> TensorInfo:
    name, dimensions = cursor.text(), cursor.scalar("I")
    if dimensions > _MAX_DIMENSIONS:
        raise CorruptFile(f"{cursor.path}: tensor {name!r} has {dimensions} dimensions")
    shape = tuple(reversed([cursor.scalar("Q") for _ in range(dimensions)]))
    kind, offset = cursor.scalar("I"), cursor.scalar("Q")
    try:
        quantization = GGMLQuantizationType(kind)
    except ValueError as error:
        raise UnsupportedArchitecture(
            f"{cursor.path}: tensor {name!r} has the unknown type {kind}"
        ) from error
    block_elements, block_bytes = GGML_QUANT_SIZES[quantization]
    if not shape or shape[-1] % block_elements:
        raise CorruptFile(
            f"{cursor.path}: tensor {name!r} of shape {shape} does not divide into blocks of "
            f"{block_elements} ({quantization.name})"
        )
    return TensorInfo(
        name=name,
        shape=shape,
        type=quantization,
        offset_bytes=offset,
        size_bytes=math.prod(shape) // block_elements * block_bytes,
    )


def _placed(cursor: _Cursor, infos: list[TensorInfo], start: int) -> tuple[TensorInfo, ...]:
    """Tensors with offsets from the start of the file, each inside the file and named once."""
    placed: dict[str, TensorInfo] = {}
    for info in infos:
        offset = start + info.offset_bytes
        if info.name in placed:
            raise CorruptFile(f"{cursor.path}: tensor {info.name!r} occurs twice")
        if offset + info.size_bytes > len(cursor.data):
            raise CorruptFile(
                f"{cursor.path}: tensor {info.name!r} ends past the end of the file; "
                "the download is incomplete or the header is wrong"
            )
        placed[info.name] = TensorInfo(
            name=info.name,
            shape=info.shape,
            type=info.type,
            offset_bytes=offset,
            size_bytes=info.size_bytes,
        )
    return tuple(placed.values())
