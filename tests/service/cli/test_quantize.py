"""`triptych quantize` writes a variant whole or not at all, and its loads use it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from model_registry.catalog import load_catalog
from model_registry.sources.locate import locate
from model_registry.sources.packed import PACKED_NAME
from service.cli.main import main
from support.interrupts import in_background

MODEL = "reference-ssm"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """A data folder with one variant."""
    folder = tmp_path_factory.mktemp("data")
    assert triptych(folder, "quantize", MODEL, "--as", "int8").exit_code == 0
    return folder


def triptych(data_dir: Path, *words: str) -> Result:
    environment = {"NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR")}
    return CliRunner(env=environment).invoke(main, [*words, "--data-dir", str(data_dir)])


def packed(data_dir: Path, variant: str = "int8") -> Path:
    return data_dir / "models" / MODEL / "variants" / variant / PACKED_NAME


def test_a_load_reads_what_was_written(data_dir, caplog):
    """The loader finds the file by the catalogue, and takes the model from it."""
    from service.torch_host.weights.loading import load

    resolved = locate(load_catalog().entries[MODEL], "int8", data_dir / "models")
    with caplog.at_level("INFO"):
        load(resolved, slots=1, progress=lambda _: None)

    assert f"read packed weights from {packed(data_dir).parent}" in caplog.text


def test_what_is_whole_is_left_alone_and_what_is_not_is_renewed(data_dir):
    """A second run writes nothing; after damage, or with --force, it writes anew."""
    written = packed(data_dir).stat().st_ino
    content = packed(data_dir).read_bytes()

    assert triptych(data_dir, "quantize", MODEL, "--as", "int8").exit_code == 0
    assert packed(data_dir).stat().st_ino == written
    packed(data_dir).write_bytes(content[:-1])
    assert triptych(data_dir, "quantize", MODEL, "--as", "int8").exit_code == 0
    assert packed(data_dir).read_bytes() == content


def test_show_says_which_variants_are_packed(data_dir):
    """One line a quantized variant: where its weights are, or the command that packs them."""
    shown = triptych(data_dir, "models", "show", MODEL).stdout

    assert "packed weights of" in shown
    assert f"triptych quantize {MODEL} --as int4" in shown


def test_a_model_without_the_variant_says_how_to_add_it(tmp_path):
    """The catalogue's table is named, not a traceback."""
    (tmp_path / "own.toml").write_text(
        'id = "own"\nfamily = "ssm"\nlicence = "MIT"\ncontext_tokens = 8\n'
        '[[sources]]\nkind = "folder"\npath = "w"\n'
    )
    result = triptych(tmp_path, "quantize", "own", "--as", "int4", "--models", str(tmp_path))

    assert result.exit_code == 1
    assert "[variants.int4]" in result.output


def test_an_interrupted_run_leaves_nothing(tmp_path):
    """Ctrl-C while the other process works: no file, no folder, no staging.

    Also as a background job of a shell, which starts with SIGINT ignored: it used to go on.
    """
    command = [sys.executable, "-m", "service", "quantize", MODEL, "--as", "int4"]
    with subprocess.Popen(
        in_background([*command, "--data-dir", str(tmp_path)]),
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cold")},
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        staged = tmp_path / "models" / ".pulling" / f"{MODEL}-int4" / "packed"
        while not staged.exists():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate()

    assert process.returncode == 130
    assert not staged.parent.exists()
    assert not packed(tmp_path, "int4").parent.exists()
