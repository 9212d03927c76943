"""`triptych models` lists, shows, pulls, checks and sizes what the catalogue holds."""

import json
import re
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread
from msgspec import structs

from model_registry.catalog import load_catalog
from model_registry.footprint import predict
from model_registry.sources import gguf_convert
from model_registry.work import work_formula

ROWS = [
    "model",
    "context_tokens",
    "weights_bytes",
    "attention_kv_bytes",
    "window_kv_bytes",
    "ssm_state_bytes",
    "conv_state_bytes",
]
OWN = """
id = "own"
family = "transformer"
licence = "MIT"
context_tokens = 2048
{extra}

[[sources]]
kind = "folder"
path = "weights"
"""


@pytest.fixture
def own_models(tmp_path):
    """Write a catalogue folder of the operator's own; gives the folder."""

    def write(extra="", name="own"):
        folder = tmp_path / "catalogue"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.toml").write_text(OWN.format(extra=extra))
        return str(folder)

    return write


def test_list_has_every_model(triptych_models):
    """The table names every shipped model and explains its mark."""
    result = triptych_models("list")

    assert result.exit_code == 0
    assert all(model in result.stdout for model in load_catalog().entries)
    assert "nemotron-h-4b-instruct*" in result.stdout
    assert "* architecture numbers that no published config.json" in result.stdout


def test_list_as_json_has_every_model(triptych_models):
    """JSON carries the same models."""
    data = json.loads(triptych_models("list", "--json").stdout)["data"]

    assert [one["id"] for one in data] == list(load_catalog().entries)


def test_show_gives_the_path_of_a_model_that_is_here(triptych_models):
    """The reference trio ships with its weights, so its folder is known."""
    shown = json.loads(triptych_models("show", "reference-ssm", "--json").stdout)

    assert (Path(shown["path"]) / "model.safetensors").is_file()
    assert re.fullmatch("[0-9a-f]{64}", shown["weights_sha256"])
    variants = [f"reference-ssm:{name}" for name in ("float32", "int8", "int4", "vllm")]
    assert shown["names"] == ["reference-ssm", *variants]


def test_show_has_no_path_before_the_pull(triptych_models):
    """A model that is not here has null for a path, but its numbers are known."""
    shown = json.loads(triptych_models("show", "mamba-130m", "--json").stdout)

    assert shown["path"] is None
    assert shown["weights_sha256"] is None
    assert shown["parameters"] == 129_135_360
    assert shown["layers"] == {"ssm": 24}


def test_show_says_how_to_pull(triptych_models):
    """The card of a missing model names the command."""
    assert "run: triptych models pull mamba-130m" in triptych_models("show", "mamba-130m").stdout


def test_pull_tells_the_folder(triptych_models):
    """A pulled model's folder is the last line."""
    result = triptych_models("pull", "reference-ssm")
    name, _, folder = result.stdout.strip().partition(": ")

    assert name == "reference-ssm"
    assert (Path(folder) / "config.json").is_file()


def test_failed_pull_is_one_line(triptych_models):
    """A source that cannot be had ends with one line and code 2."""
    result = triptych_models("pull", "reference-ssm", "--source", "hub")

    assert result.exit_code == 2
    assert result.stderr == ("Error: reference-ssm has no source of kind 'hub'; it has: folder\n")


def test_interrupted_pull_says_how_to_go_on(triptych_models, tmp_path, monkeypatch):
    """Ctrl-C ends with the command that goes on, and code 130."""
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    catalogue = tmp_path / "tiny.toml"
    catalogue.write_text(OWN.format(extra="").replace("own", "tiny"))
    text = catalogue.read_text().replace('"folder"', '"gguf"').replace("weights", "tiny.gguf")
    catalogue.write_text(text)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_convert, "convert_gguf", interrupt)
    result = triptych_models("pull", "tiny", "--models", str(tmp_path))

    assert result.exit_code == 130
    assert "interrupted; run again to go on: triptych models pull tiny" in result.stdout


def test_check_passes_what_is_whole(triptych_models):
    """Every model is named with its state."""
    result = triptych_models("check")

    assert result.exit_code == 0, result.stderr
    assert "reference-hybrid: pulled; all files match the lock" in result.stdout
    assert "mamba-130m: not pulled" in result.stdout


def test_check_names_every_bad_file(triptych_models, own_models):
    """Two bad catalogue files are both reported, each with file, key and fix."""
    own_models('licens = "MIT"', name="own")
    folder = own_models(name="other")
    result = triptych_models("check", "--models", folder)

    assert result.exit_code == 2
    assert "own.toml: Object contains unknown field `licens`" in result.stderr
    assert "other.toml: `id`" in result.stderr


def test_check_finds_a_wrong_family(triptych_models, own_models):
    """A family that the layers contradict is reported."""
    folder = own_models('[architecture]\nmodel_type = "mamba"')
    result = triptych_models("check", "--models", folder)

    assert result.exit_code == 2
    assert "own.toml" in result.stderr


def test_memory_rows_are_the_prediction(triptych_models):
    """Each row has exactly the documented keys and the predicted bytes."""
    result = triptych_models("memory", "jamba-1.5-mini", "--context", "1k,8k", "--json")
    rows = json.loads(result.stdout)["rows"]
    spec = load_catalog().find("jamba-1.5-mini")[0].spec
    predicted = predict(spec.architecture, context_tokens=8192, dtype="bfloat16")

    assert [row["context_tokens"] for row in rows] == [1024, 8192]
    assert list(rows[1]) == ROWS
    assert rows[1]["attention_kv_bytes"] == predicted.attention_kv_bytes
    assert rows[1]["ssm_state_bytes"] == predicted.ssm_state_bytes == rows[0]["ssm_state_bytes"]


def test_memory_of_a_variant_has_its_dtype(triptych_models):
    """float32 doubles the weights of a bfloat16 model."""
    words = ("mamba-2.8b", "mamba-2.8b:float32", "--context", "1k", "--json")
    plain, double = json.loads(triptych_models("memory", *words).stdout)["rows"]

    assert double["weights_bytes"] == 2 * plain["weights_bytes"]


def test_memory_table_marks_what_to_bear_in_mind(triptych_models):
    """Lengths beyond a model's context and unverified numbers carry a mark and a note."""
    result = triptych_models("memory", "mamba-130m", "nemotron-h-4b-instruct")

    assert "8k†" in result.stdout
    assert "† longer than the model's context: mamba-130m 2k" in result.stdout
    assert "nemotron-h-4b-instruct*" in result.stdout


def test_memory_of_a_quantized_variant_is_refused(triptych_models, own_models):
    """Bytes are not predicted for weights whose layout the registry does not know."""
    folder = own_models('[variants.int8]\nquantization = "int8"')
    result = triptych_models("memory", "own:int8", "--models", folder)

    assert result.exit_code == 2
    assert "own:int8 is quantized (int8)" in result.stderr


def test_memory_without_numbers_says_how_to_get_them(triptych_models, own_models):
    """A model with neither numbers nor files names both ways out."""
    result = triptych_models("memory", "own", "--models", own_models())

    assert result.exit_code == 2
    assert "add the numbers of its config.json, or run: triptych models pull own" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "mamba-130"), "did you mean mamba-130m"),
        (("memory", "mamba-130m:int3"), "no variant 'int3'"),
        (("memory", "mamba-130m", "--context", "big"), "'big' is not a length"),
        (("list", "--models", "/nowhere"), "/nowhere"),
        (("memory", "mamba-130m", "--plot", "chart.pdf"), "chart.pdf: --plot draws .png and .html"),
        (("memory", "mamba-130m", "--plot", "/nowhere/a.png"), "/nowhere/a.png: cannot be written"),
    ],
)
def test_refusals_are_one_line(triptych_models, words, message):
    """A wrong word ends with its reason and code 2, never with a traceback."""
    result = triptych_models(*words)

    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("Error:") == 1
    assert "Traceback" not in result.stderr


def test_plot_draws_a_png(triptych_models, tmp_path):
    """The chart is a picture with more than its background on it."""
    file = tmp_path / "chart.png"
    result = triptych_models("memory", "mamba-130m", "phi-3.5-mini-instruct", "--plot", str(file))

    assert f"chart: {file}" in result.stdout
    assert len({tuple(pixel) for row in imread(file)[::10] for pixel in row}) > 10


def test_plot_as_a_page_needs_nothing_else(triptych_models, tmp_path):
    """The page holds drawing and numbers and points to no other file or host."""
    file = tmp_path / "chart.html"
    triptych_models("memory", "mamba-130m", "--context", "1k,2k", "--plot", str(file))
    page = file.read_text()

    assert "<svg" in page
    assert not re.search(r"(src|href)=\"(?!#)", page)
    assert "<script" not in page
    assert "@import" not in page
    assert re.findall(r"<td>([\d,]+)</td>", page)[:2] == ["1,024", "516,541,440"]


def test_missing_matplotlib_names_the_extra(triptych_models, monkeypatch, tmp_path):
    """Without the optional library the message names what to install."""
    monkeypatch.delitem(sys.modules, "service.cli.models.memory_plot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    result = triptych_models("memory", "mamba-130m", "--plot", str(tmp_path / "chart.png"))

    assert result.exit_code == 2
    assert "python -m pip install 'triptych[plot]'" in result.stderr


def test_work_rows_are_the_formula(triptych_models):
    """Each row has the operations and bytes of one request of these lengths."""
    result = triptych_models("work", "mamba-130m", "--context", "1k", "--new-tokens", "9", "--json")
    (row,) = json.loads(result.stdout)["rows"]
    spec = load_catalog().find("mamba-130m")[0].spec
    formula = work_formula(spec.architecture, dtype=spec.dtype)
    expected = formula.of(prompt_tokens=1024, new_tokens=9)

    counts = {"model": "mamba-130m", "context_tokens": 1024, "new_tokens": 9}
    assert row == counts | structs.asdict(expected)


def test_a_step_of_a_state_space_model_costs_the_same_after_any_prompt(triptych_models):
    """The table shows it beside a transformer, whose attention grows."""
    words = ("mamba-130m", "smollm2-135m-instruct", "--context", "1k,32k")
    table = triptych_models("work", *words).stdout
    rows = [line for line in table.splitlines() if "FLOP" in line]
    steps = [re.findall(r"[\d.]+ [kMGT]?FLOP", row)[2] for row in rows]

    assert steps[0] == steps[1]
    assert steps[2] != steps[3]
    assert "one request alone that answers 128 tokens" in table


def test_work_of_gguf_blocks_has_no_bytes(triptych_models, own_models):
    """Operations are those of the plain model; the bytes of its blocks are unknown."""
    numbers = """
[architecture]
model_type = "mamba"
vocab_size = 160
hidden_size = 64
num_hidden_layers = 2
[variants.packed]
quantization = "gguf"
"""
    words = ("own:packed", "--context", "1k", "--json", "--models")
    result = triptych_models("work", *words, own_models(numbers))
    assert result.exit_code == 0, result.stderr
    (row,) = json.loads(result.stdout)["rows"]
    assert row["weight_bytes_read"] is None
    assert row["prefill_flops"] > 0
