"""A model is found where its source put it, whole, and under the hash of its weights."""

import hashlib
import os

import pytest

from model_registry.errors import CorruptFile, NotPulled, UnknownVariant, UnsupportedArchitecture
from model_registry.sources import locate
from model_registry.sources.lock import LOCK_NAME, Lock, lock_files, write_lock
from model_registry.sources.model_files import folder_files
from model_registry.spec import HubSource

HUB = 'kind = "hub"\nrepository = "maker/tiny"'
FOLDER = 'kind = "folder"\npath = "../weights"'


@pytest.fixture
def pulled(tmp_path, write_folder):
    """A folder as a pull from the hub leaves it."""
    folder = write_folder(tmp_path / "models" / "tiny")
    lock = Lock(
        model="tiny",
        source=HubSource(repository="maker/tiny"),
        resolved="c" * 40,
        files=lock_files(folder, folder_files(folder)),
    )
    write_lock(folder / LOCK_NAME, lock)
    return folder


def test_pulled_model_is_found_with_its_hash(pulled, make_entry):
    """Path and hash are those of the pulled files."""
    model = locate(make_entry(HUB), None, pulled.parent)
    weights = hashlib.sha256((pulled / "model.safetensors").read_bytes()).digest()

    assert model.path == str(pulled)
    assert model.weights_sha256 == hashlib.sha256(weights).hexdigest()
    assert model.id == "tiny"


def test_variant_is_carried(pulled, make_entry):
    """A variant shares the folder and changes the element type."""
    entry = make_entry(HUB, extra='[variants.float32]\ndtype = "float32"')
    model = locate(entry, "float32", pulled.parent)

    assert (model.id, model.dtype, model.path) == ("tiny:float32", "float32", str(pulled))


def test_unknown_variant_names_those_there_are(pulled, make_entry):
    """A variant the model has not is refused, with those it has."""
    entry = make_entry(HUB, extra='[variants.float32]\ndtype = "float32"')

    with pytest.raises(UnknownVariant, match="no variant 'int8'; it has: float32"):
        locate(entry, "int8", pulled.parent)


def test_missing_model_names_the_command(tmp_path, make_entry):
    """What is not here says how to get it."""
    with pytest.raises(NotPulled, match=r"run: triptych models pull tiny$"):
        locate(make_entry(HUB), None, tmp_path)


def test_model_of_another_source_counts_as_not_pulled(pulled, make_entry):
    """After the operator names another revision, the old files do not pass for it."""
    entry = make_entry(HUB + '\nrevision = "v2"')

    with pytest.raises(NotPulled):
        locate(entry, None, pulled.parent)


def test_changed_weights_are_refused(pulled, make_entry):
    """One flipped bit of the same size is found, because the time tells to read the file."""
    weights = pulled / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)

    with pytest.raises(CorruptFile, match=r"model.safetensors: differs from its locked SHA-256"):
        locate(make_entry(HUB), None, pulled.parent)


def test_missing_file_is_refused(pulled, make_entry):
    """A file of the lock that is gone is named."""
    (pulled / "tokenizer.json").unlink()

    with pytest.raises(CorruptFile, match=r"tokenizer.json: is missing; pull the model again"):
        locate(make_entry(HUB), None, pulled.parent)


def test_copied_model_is_hashed_once(pulled, make_entry, monkeypatch):
    """New file times alone mean one more reading, which the lock then notes."""
    os.utime(pulled / "model.safetensors", ns=(1, 1))
    locate(make_entry(HUB), None, pulled.parent)

    monkeypatch.setattr("model_registry.sources.lock.hash_file", refuse_to_read)
    assert locate(make_entry(HUB), None, pulled.parent).path == str(pulled)


def refuse_to_read(*_):
    raise AssertionError("read again")


def test_damaged_lock_is_refused(pulled, make_entry):
    """A lock that is no JSON is named."""
    (pulled / LOCK_NAME).write_text("{")

    with pytest.raises(CorruptFile, match=LOCK_NAME):
        locate(make_entry(HUB), None, pulled.parent)


def test_local_folder_needs_no_pull(tmp_path, make_entry, write_folder):
    """A folder is relative to its catalogue file and used where it lies."""
    folder = write_folder(tmp_path / "weights")
    model = locate(make_entry(FOLDER), None, tmp_path / "models")

    assert model.path == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_hash_of_a_local_folder_is_kept(tmp_path, make_entry, write_folder, monkeypatch):
    """The second look reads no weights."""
    write_folder(tmp_path / "weights")
    entry = make_entry(FOLDER)
    first = locate(entry, None, tmp_path / "models").weights_sha256

    monkeypatch.setattr("model_registry.sources.lock.hash_file", refuse_to_read)
    assert locate(entry, None, tmp_path / "models").weights_sha256 == first


def test_hash_of_a_local_folder_follows_its_weights(tmp_path, make_entry, write_folder):
    """New weights in a local folder are a new hash, no corruption."""
    weights = write_folder(tmp_path / "weights") / "model.safetensors"
    entry = make_entry(FOLDER)
    first = locate(entry, None, tmp_path / "models").weights_sha256
    weights.write_bytes(weights.read_bytes() + b"\0")

    assert locate(entry, None, tmp_path / "models").weights_sha256 != first


def test_unservable_architecture_is_refused(tmp_path, make_entry, write_folder):
    """A type that can be sized but not run is refused before an engine loads it."""
    write_folder(
        tmp_path / "weights",
        model_type="recurrent_gemma",
        lru_width=64,
        attention_window_size=32,
        block_types=["recurrent", "attention"],
    )
    with pytest.raises(UnsupportedArchitecture, match="tiny: recurrent_gemma"):
        locate(make_entry(FOLDER), None, tmp_path / "models")


def test_pickles_in_a_folder_are_refused(tmp_path, make_entry, write_folder):
    """A folder whose weights are a pickle is refused, saying why."""
    folder = write_folder(tmp_path / "weights")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    with pytest.raises(UnsupportedArchitecture, match=r"pytorch_model.bin\), which can run code"):
        locate(make_entry(FOLDER), None, tmp_path / "models")


def test_echo_has_no_files(tmp_path, make_entry):
    """The echo engine needs nothing on disk."""
    model = locate(make_entry(FOLDER, extra='engine = "echo"'), None, tmp_path)

    assert (model.path, model.weights_sha256) == ("", None)


def test_unreadable_file_is_one_line(pulled, make_entry):
    """A file that the system does not let us read is named with the reason."""
    (pulled / "tokenizer.json").unlink()
    (pulled / "tokenizer.json").symlink_to(pulled / "tokenizer.json")

    with pytest.raises(CorruptFile, match=r"tokenizer.json: Too many levels"):
        locate(make_entry(HUB), None, pulled.parent)


ADAPTERS = '[adapters]\npolite = "../polite"'


@pytest.fixture
def adapter(tmp_path, make_entry):
    """A folder as PEFT leaves it, beside the catalogue, and the entry that names it."""
    entry = make_entry(FOLDER, extra=ADAPTERS)
    folder = (entry.file.parent / "../polite").resolve()
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder, entry


def test_an_adapter_is_found_and_hashed(adapter, tmp_path, write_folder):
    """Folder and hash are its own; the base keeps its hash, and any change of the adapter shows."""
    folder, entry = adapter
    write_folder(entry.file.parent / "../weights")
    base = locate(entry, None, tmp_path / "models")
    first = locate(entry, "polite", tmp_path / "models")
    again = locate(entry, "polite", tmp_path / "models")
    (folder / "adapter_config.json").write_text('{"r": 8}')
    changed = locate(entry, "polite", tmp_path / "models")

    assert (first.id, first.path, first.adapter_path) == ("tiny:polite", base.path, str(folder))
    assert base.adapter_path is None
    assert first == again
    assert len({base.weights_sha256, first.weights_sha256, changed.weights_sha256}) == 3


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_adapter_names_its_folder_and_file(adapter, tmp_path, write_folder, name):
    """The base is served on; the variant says what is not there."""
    folder, entry = adapter
    write_folder(entry.file.parent / "../weights")
    (folder / name).unlink()

    locate(entry, None, tmp_path / "models")
    with pytest.raises(NotPulled, match=f"tiny:polite: .*{folder} has no {name}; put PEFT's files"):
        locate(entry, "polite", tmp_path / "models")
