"""The hub gives one commit, listed files, whole and checked; a broken download goes on."""

import hashlib
import json

import httpx
import pytest

from model_registry.errors import CorruptFile, PullFailed, UnsupportedArchitecture
from model_registry.sources import hub
from model_registry.sources.hub import fetch_repository
from model_registry.spec import HubSource

SOURCE = HubSource(repository="maker/tiny")
COMMIT = "c" * 40
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": bytes(range(256)) * 40,
    "modeling_tiny.py": b"raise SystemExit",
    "pytorch_model.bin": b"\x80pickle",
    "original/model.safetensors": b"elsewhere",
}


class FakeHub:
    """Answers as the hub does: revisions with file hashes, files with ranges."""

    def __init__(self, files):
        self.files = files
        self.asked = []
        self.break_after = {}
        self.sha256 = {
            name: hashlib.sha256(data).hexdigest()
            for name, data in files.items()
            if name.endswith(".safetensors")
        }

    def __call__(self, request):
        if request.url.path.startswith("/api/models/maker/tiny/revision/"):
            return httpx.Response(200, json={"sha": COMMIT, "siblings": self.listed()})
        name = request.url.path.removeprefix(f"/maker/tiny/resolve/{COMMIT}/")
        start = int(request.headers.get("range", "bytes=0-")[6:-1])
        self.asked.append((name, start))
        body = self.files[name][start:]
        if cut := self.break_after.pop(name, None):
            return httpx.Response(206 if start else 200, stream=Broken(body[:cut]))
        return httpx.Response(206 if start else 200, content=body)

    def listed(self):
        return [
            {"rfilename": name, "size": len(data)}
            | ({"lfs": {"sha256": self.sha256[name]}} if name in self.sha256 else {})
            for name, data in self.files.items()
        ]


class Broken(httpx.SyncByteStream):
    """A body that breaks off."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        yield self.data
        raise httpx.ReadError("connection reset")


def fetch(fake, folder, source=SOURCE):
    return fetch_repository(source, folder, lambda step: None, httpx.MockTransport(fake))


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(hub, "_PAUSE_S", 0)


def test_only_weights_configuration_and_tokenizer_are_fetched(tmp_path):
    """Code, pickles and subfolders of the repository are never asked for."""
    fake = FakeHub(FILES)
    commit, folder = fetch(fake, tmp_path)

    assert commit == COMMIT
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert {name for name, _ in fake.asked} == {path.name for path in folder.iterdir()}


def test_sharded_weights_are_those_of_the_index(tmp_path):
    """An index names the weight files; other safetensors stay where they are."""
    index = json.dumps({"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}})
    files = {
        "config.json": b"{}",
        "model.safetensors.index.json": index.encode(),
        "part-1.safetensors": b"1",
        "part-2.safetensors": b"22",
        "consolidated.safetensors": b"all of it again",
    }
    _, folder = fetch(FakeHub(files), tmp_path)

    assert not (folder / "consolidated.safetensors").exists()
    assert (folder / "part-2.safetensors").read_bytes() == b"22"


def test_broken_download_goes_on_where_it_stopped(tmp_path):
    """After a broken connection only the missing bytes are asked for."""
    fake = FakeHub(FILES)
    fake.break_after["model.safetensors"] = 1000
    _, folder = fetch(fake, tmp_path)

    assert fake.asked[-2:] == [("model.safetensors", 0), ("model.safetensors", 1000)]
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_next_pull_goes_on_where_the_last_stopped(tmp_path):
    """What an interrupted pull left is used by the next one."""
    folder = tmp_path / f"hub-{COMMIT}"
    folder.mkdir()
    (folder / "model.safetensors.part").write_bytes(FILES["model.safetensors"][:5000])
    fake = FakeHub(FILES)
    fetch(fake, tmp_path)

    assert ("model.safetensors", 5000) in fake.asked


def test_download_that_brings_nothing_is_given_up(tmp_path):
    """A connection that breaks again and again without a byte ends in one line."""

    def transport(request):
        if request.url.path.startswith("/api/"):
            return httpx.Response(200, json={"sha": COMMIT, "siblings": SIBLINGS})
        raise httpx.ConnectError("refused")

    with pytest.raises(PullFailed, match=r"download interrupted \(refused\); pull again to resume"):
        fetch_repository(SOURCE, tmp_path, lambda step: None, httpx.MockTransport(transport))


SIBLINGS = [{"rfilename": "config.json"}, {"rfilename": "model.safetensors"}]


def test_wrong_hash_is_refused_and_removed(tmp_path):
    """Weights that are not what the hub announced are thrown away."""
    fake = FakeHub(FILES)
    fake.sha256["model.safetensors"] = "0" * 64

    with pytest.raises(CorruptFile, match=r"model.safetensors: size or SHA-256 is not what"):
        fetch(fake, tmp_path)
    assert not (tmp_path / f"hub-{COMMIT}" / "model.safetensors").exists()


def test_pickle_only_repository_is_refused_by_name(tmp_path):
    """A repository without safetensors is refused, naming its pickle."""
    files = {"config.json": b"{}", "pytorch_model.bin": b"\x80"}

    with pytest.raises(UnsupportedArchitecture, match=r"pickle files \(pytorch_model.bin\)"):
        fetch(FakeHub(files), tmp_path)


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "HF_TOKEN"), (403, "gated"), (404, "does not exist"), (500, "500")],
)
def test_refusal_of_the_hub_says_what_to_do(tmp_path, status, message):
    """A refusal names repository and revision and what helps."""
    transport = httpx.MockTransport(lambda request: httpx.Response(status))

    with pytest.raises(PullFailed, match=f"maker/tiny@main .*{message}"):
        fetch_repository(SOURCE, tmp_path, lambda step: None, transport)


def test_index_that_names_a_missing_file_is_refused(tmp_path):
    """An index that names paths is refused before any weights are asked for."""
    index = json.dumps({"weight_map": {"a": "../../evil.safetensors"}}).encode()
    files = {"config.json": b"{}", "model.safetensors.index.json": index}

    with pytest.raises(CorruptFile, match=r"names a file .*evil.* not a path inside it"):
        fetch(FakeHub(files), tmp_path)
