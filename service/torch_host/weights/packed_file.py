"""A program's packed matrices in a safetensors file, with the other tensors of its network."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import torch
from safetensors import TensorSpec, serialize_file

from service.torch_host.compiled.formats.format import Format, Matrix
from service.torch_host.compiled.formats.registry import format_of
from service.torch_host.compiled.memory import aligned_bytes

_CHUNK_BYTES: Final = 1 << 24
_DTYPES: Final = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_STREAM, _SCALES, _NETWORK = "stream.", "scales.", "network."


class Damaged(ValueError):
    """A file that was damaged after it was written."""


class PackedWeights(NamedTuple):
    """Content of a file."""

    matrices: Sequence[Matrix]
    network: Mapping[str, torch.Tensor]
    """Parameters and buffers by name, without the matrices."""


def write(path: Path, matrices: Sequence[Matrix], network: Mapping[str, torch.Tensor]) -> None:
    """Write a file, without a copy of the weights in memory."""
    tensors = {_NETWORK + name: tensor for name, tensor in network.items()}
    for index, matrix in enumerate(matrices):
        tensors[f"{_STREAM}{index:05}"] = matrix.stream
        if matrix.scales is not None:
            tensors[f"{_SCALES}{index:05}"] = matrix.scales
    specs = {
        name: TensorSpec(
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=list(tensor.shape),
            data_ptr=tensor.data_ptr(),
            data_len=tensor.nbytes,
        )
        for name, tensor in tensors.items()
    }
    kinds = [(matrix.kind.code, matrix.inputs, matrix.outputs) for matrix in matrices]
    serialize_file(specs, str(path), {"matrices": json.dumps(kinds)})


def read(path: Path, sha256: str, progress: Callable[[int, int], None]) -> PackedWeights:
    """Read a file into memory that a program can use, hashing it on the way.

    Raises:
        Damaged: it is shorter than it says, or has another SHA-256.
        OSError: it cannot be read.
    """
    digest, total, done = hashlib.sha256(), path.stat().st_size, 0
    tensors: dict[str, torch.Tensor] = {}
    with path.open("rb") as file:
        header, done = _header(file, total, digest.update)
        metadata = header.pop("__metadata__")
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            storage = aligned_bytes(end - begin)
            for piece in _pieces(file, storage):
                digest.update(piece)
                done += len(piece)
                progress(done, total)
            tensors[name] = storage.view(_DTYPES[entry["dtype"]]).view(entry["shape"])
    if digest.hexdigest() != sha256:
        raise Damaged(f"{path}: differs from its locked SHA-256")
    return _sorted_out(tensors, json.loads(metadata["matrices"]))


def _header(
    file: BinaryIO, total: int, hashed: Callable[[bytes], None]
) -> tuple[dict[str, Any], int]:
    length = file.read(8)
    size = int.from_bytes(length, "little")
    content = file.read(size) if size <= total else b""
    hashed(length + content)
    try:
        return json.loads(content), len(length) + size
    except ValueError as error:
        raise Damaged(f"{file.name}: is not a safetensors file") from error


def _pieces(file: BinaryIO, storage: torch.Tensor) -> Iterator[memoryview]:
    """Fill memory from a file; yield each chunk after it was read."""
    view = memoryview(storage.numpy().data)
    for first in range(0, len(view), _CHUNK_BYTES):
        piece = view[first : first + _CHUNK_BYTES]
        if file.readinto(piece) < len(piece):  # type: ignore[attr-defined]
            raise Damaged(f"{file.name}: ends early")
        yield piece


def _format(code: int) -> Format:
    kind = format_of(code)
    if kind is None:
        raise Damaged(f"unknown matrix format {code}")
    return kind


def _sorted_out(
    tensors: Mapping[str, torch.Tensor], kinds: Sequence[tuple[int, int, int]]
) -> PackedWeights:
    matrices = [
        Matrix(
            _format(code),
            inputs,
            outputs,
            tensors[f"{_STREAM}{index:05}"],
            tensors.get(f"{_SCALES}{index:05}"),
        )
        for index, (code, inputs, outputs) in enumerate(kinds)
    ]
    network = {
        name.removeprefix(_NETWORK): tensor
        for name, tensor in tensors.items()
        if name.startswith(_NETWORK)
    }
    return PackedWeights(matrices, network)
