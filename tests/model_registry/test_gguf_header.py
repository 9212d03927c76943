"""GGUF headers are read within the file's bounds, whatever they claim."""

import contextlib
import struct

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_registry.errors import CorruptFile, RegistryError, UnsupportedArchitecture
from model_registry.sources.gguf_header import read_header

UINT32, STRING, ARRAY, UINT8 = 4, 8, 9, 0
F32 = 0


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def header(*, keys=b"", key_count=0, tensors=b"", tensor_count=0, version=3, tail=b"\0" * 256):
    return b"GGUF" + struct.pack("<IQQ", version, tensor_count, key_count) + keys + tensors + tail


def tensor(name="t", shape=(4,), kind=F32, offset=0):
    return (
        text(name)
        + struct.pack("<I", len(shape))
        + struct.pack(f"<{len(shape)}Q", *shape)
        + struct.pack("<IQ", kind, offset)
    )


def refusal(tmp_path, data, kind=CorruptFile):
    file = tmp_path / "x.gguf"
    file.write_bytes(data)
    with pytest.raises(kind) as caught:
        read_header(file)
    assert str(file) in str(caught.value)
    return str(caught.value)


def test_reads_what_the_gguf_package_writes(tmp_path, write_gguf):
    """Metadata and tensor positions are those that the reference reader finds."""
    file = write_gguf(tmp_path / "tiny.gguf")
    ours, theirs = read_header(file), gguf.GGUFReader(file)

    assert ours.metadata["llama.block_count"] == 2
    assert [(t.name, t.offset_bytes, t.size_bytes) for t in ours.tensors] == [
        (t.name, t.data_offset, t.n_bytes) for t in theirs.tensors
    ]


@pytest.mark.parametrize("data", [b"", b"GGU", b"PK\x03\x04", b"GGUF"])
def test_other_files_are_refused(tmp_path, data):
    """A file that is no GGUF file is refused."""
    refusal(tmp_path, data)


def test_unknown_version_is_refused_by_number(tmp_path):
    """A version that is not known is named."""
    assert "version 99" in refusal(tmp_path, header(version=99), UnsupportedArchitecture)


@pytest.mark.parametrize("kind", [UINT8, UINT32, STRING])
def test_array_longer_than_the_file_is_refused_at_once(tmp_path, kind):
    """An array of 2^60 values is refused; a reader that trusts the count never comes back."""
    keys = text("k") + struct.pack("<IIQ", ARRAY, kind, 1 << 60)

    refusal(tmp_path, header(keys=keys, key_count=1))


def test_deeply_nested_array_is_refused(tmp_path):
    """Arrays in arrays in arrays end in an error, not in the interpreter's recursion limit."""
    keys = text("k") + struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 5000

    assert "unknown type 9" in refusal(tmp_path, header(keys=keys, key_count=1))


def test_tensor_past_the_end_is_refused(tmp_path):
    """A tensor that ends past the file is named."""
    data = header(tensors=tensor(shape=(1000,)), tensor_count=1)

    assert "tensor 't' ends past the end" in refusal(tmp_path, data)


def test_tensor_named_twice_is_refused(tmp_path):
    """Two tensors of one name are refused."""
    data = header(tensors=tensor() * 2, tensor_count=2)

    assert "tensor 't' occurs twice" in refusal(tmp_path, data)


def test_key_named_twice_is_refused(tmp_path):
    """Two metadata values of one name are refused."""
    key = text("k") + struct.pack("<II", UINT32, 1)

    assert "key 'k' occurs twice" in refusal(tmp_path, header(keys=key * 2, key_count=2))


def test_alignment_must_be_a_power_of_two(tmp_path):
    """An alignment of 0 would divide by zero."""
    key = text("general.alignment") + struct.pack("<II", UINT32, 0)

    assert "not a power of two" in refusal(tmp_path, header(keys=key, key_count=1))


def test_text_that_is_not_utf8_is_refused(tmp_path):
    """A string that is not UTF-8 is refused."""
    keys = struct.pack("<Q", 2) + b"\xff\xfe"

    assert "not UTF-8" in refusal(tmp_path, header(keys=keys, key_count=1))


def test_unknown_quantization_is_refused(tmp_path):
    """A tensor type that the gguf package does not know is named."""
    data = header(tensors=tensor(kind=250), tensor_count=1)

    assert "unknown type 250" in refusal(tmp_path, data, UnsupportedArchitecture)


def test_row_that_does_not_fill_blocks_is_refused(tmp_path):
    """A quantized row must be whole blocks."""
    data = header(tensors=tensor(shape=(33,), kind=8), tensor_count=1)

    assert "does not divide into blocks" in refusal(tmp_path, data)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_header_is_read_or_refused(tmp_path, write_gguf, data):
    """Any damaged byte or cut end is an error of ours or still a header: never a crash or hang."""
    whole = tmp_path / "whole.gguf"
    if not whole.exists():
        write_gguf(whole)
    content = bytearray(whole.read_bytes())
    end = data.draw(st.integers(0, len(content)))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, 2000))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(content[:end])
    with contextlib.suppress(RegistryError):
        read_header(damaged)
