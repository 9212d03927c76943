"""The catalogue reads TOML strictly and finds models by the names that clients use."""

import pytest

from model_registry.architecture import read_layers
from model_registry.catalog import SHIPPED_MODELS, load_catalog
from model_registry.errors import CatalogError, UnknownModel, UnknownVariant
from model_registry.footprint import predict
from model_registry.sources.locate import local_path
from model_registry.sources.model_files import read_config

PLAIN = """
id = "{id}"
family = "ssm"
licence = "MIT"
context_tokens = 512

[[sources]]
kind = "folder"
path = "weights"
"""
CATALOG = load_catalog()
SHIPPED = [
    "smollm2-135m-instruct",
    "smollm2-360m-instruct",
    "smollm2-1.7b-instruct",
    "phi-3.5-mini-instruct",
    "phi-3.5-moe-instruct",
    "mamba-130m",
    "mamba-2.8b",
    "codestral-mamba-7b",
    "falcon-mamba-7b-instruct",
    "jamba-1.5-mini",
    "falcon-h1-0.5b-instruct",
    "falcon-h1-tiny-90m-instruct",
    "granite-4.0-h-350m",
    "granite-4.0-h-1b",
    "lfm2-350m",
    "zamba2-1.2b-instruct",
    "nemotron-h-4b-instruct",
    "qwen3.5-0.8b",
    "reference-transformer",
    "reference-ssm",
    "reference-hybrid",
]


def refusal(folder, text, name="mine"):
    (folder / f"{name}.toml").write_text(text)
    with pytest.raises(CatalogError) as caught:
        load_catalog([folder])
    return str(caught.value)


def test_shipped_catalogue_is_complete():
    """The shipped catalogue holds the models it promises, and no others."""
    assert sorted(SHIPPED) == list(CATALOG.entries)


@pytest.mark.parametrize("model", SHIPPED)
def test_family_follows_from_the_architecture(model):
    """A shipped model's family is the one that its layers make it."""
    spec = CATALOG.entries[model].spec

    assert spec.family == read_layers(spec.architecture).family


@pytest.mark.parametrize("model", SHIPPED)
def test_numbers_name_their_source(model):
    """Every shipped model says where its numbers were read."""
    assert CATALOG.entries[model].spec.architecture_source


PUBLISHED_PARAMETERS = {
    "smollm2-135m-instruct": 134_515_008,  # llama.cpp counts the same in the GGUF file
    "smollm2-360m-instruct": 361_821_120,  # model.safetensors of 723,674,912 bytes in bf16
    "phi-3.5-mini-instruct": 3.82e9,
    "phi-3.5-moe-instruct": 41.9e9,
    "mamba-2.8b": 2.77e9,
    "codestral-mamba-7b": 7_285_403_648,
    "jamba-1.5-mini": 51.6e9,
    "zamba2-1.2b-instruct": 2.43e9 / 2,  # model.safetensors of 2.43 GB in bf16
    "nemotron-h-4b-instruct": 4.49e9,
    "lfm2-350m": 354_483_968,
    "granite-4.0-h-1b": 1.46e9,
}


@pytest.mark.parametrize("model", PUBLISHED_PARAMETERS)
def test_numbers_add_up_to_the_published_size(model):
    """The numbers give the published parameter count within half a percent."""
    counted = read_layers(CATALOG.entries[model].spec.architecture).parameters

    assert counted == pytest.approx(PUBLISHED_PARAMETERS[model], rel=0.005)


@pytest.mark.parametrize("kind", ["transformer", "ssm", "hybrid"])
def test_reference_numbers_are_those_of_the_shipped_files(kind):
    """The catalogue says of the reference trio what its config.json says."""
    entry = CATALOG.entries[f"reference-{kind}"]
    config = read_config(local_path(entry, entry.spec.sources[0].path))
    at = {"context_tokens": 1024, "dtype": entry.spec.dtype}

    assert predict(entry.spec.architecture, **at) == predict(config, **at)


def test_own_folder_adds_models(tmp_path):
    """A folder of an operator's own is read beside the shipped one."""
    (tmp_path / "mine.toml").write_text(PLAIN.format(id="mine"))

    assert load_catalog([tmp_path]).entries["mine"].file == tmp_path / "mine.toml"


def test_unknown_key_names_file_key_and_known_keys(tmp_path):
    """An unknown key is refused with the file, the key and those that are known."""
    message = refusal(tmp_path, PLAIN.format(id="mine") + "\n[variants.x]\ndtpye = 'float32'\n")

    assert f"{tmp_path}/mine.toml" in message
    assert "`dtpye`" in message
    assert "Known keys: engine, dtype, quantization, adapter, description" in message


def test_adapters_are_variants(tmp_path):
    """Each PEFT folder is addressed as `model:name`."""
    (tmp_path / "mine.toml").write_text(PLAIN.format(id="mine") + "\n[adapters]\npolite = 'p'\n")
    entry, variant = load_catalog([tmp_path]).find("mine:polite")

    assert entry.spec.variants[variant].adapter == "p"


def test_an_adapter_may_not_hide_a_variant(tmp_path):
    """One name stands for one thing."""
    both = "\n[adapters]\nx = 'p'\n[variants.x]\ndtype = 'float32'\n"

    assert "both name x" in refusal(tmp_path, PLAIN.format(id="mine") + both)


@pytest.mark.parametrize("extra", ["engine = 'openai'", "remote = {base_url = 'http://a/v1'}"])
def test_a_remote_engine_and_its_server_go_together(tmp_path, extra):
    """A server that nobody asks, or an engine without one, is a mistake."""
    assert "[remote]" in refusal(tmp_path, extra + PLAIN.format(id="mine"))


def test_unknown_source_key_lists_the_keys_of_sources(tmp_path):
    """An unknown key of a source is answered with the keys of sources."""
    message = refusal(tmp_path, PLAIN.format(id="mine") + "pth = 'x'\n")

    assert "`pth`" in message
    assert "repository, revision" in message


def test_missing_key_is_named(tmp_path):
    """A missing key is named, with the advice to add it."""
    text = PLAIN.format(id="mine").replace('licence = "MIT"\n', "")

    assert "`licence`; add that key" in refusal(tmp_path, text)


@pytest.mark.parametrize("model", ["Mine", "-mine", "a b", "x" * 65, "../mine", ""])
def test_bad_id_is_refused(tmp_path, model):
    """An id outside the pattern is refused, naming its key."""
    message = refusal(tmp_path, PLAIN.format(id=model))

    assert "$.id" in message


def test_id_must_be_the_file_name(tmp_path):
    """An id that is not the file's name is refused with the way out."""
    message = refusal(tmp_path, PLAIN.format(id="other"))

    assert "rename the file to other.toml or change `id`" in message


def test_duplicate_id_names_both_files(tmp_path):
    """An id that is taken is refused, naming both files."""
    message = refusal(tmp_path, PLAIN.format(id="mamba-130m"), name="mamba-130m")

    assert str(tmp_path / "mamba-130m.toml") in message
    assert str(SHIPPED_MODELS / "mamba-130m.toml") in message


def test_broken_toml_names_file_and_line(tmp_path):
    """A file that is not TOML is refused with the line."""
    assert "is not valid TOML" in refusal(tmp_path, "id = \n")


def test_missing_folder_is_named(tmp_path):
    """A folder that does not exist is refused by name."""
    with pytest.raises(CatalogError, match="nowhere: is not a folder"):
        load_catalog([tmp_path / "nowhere"])


def test_find_takes_model_and_variant():
    """A model is found by its id, and by its id with a variant."""
    entry = CATALOG.entries["reference-ssm"]

    assert CATALOG.find("reference-ssm") == (entry, None)
    assert CATALOG.find("reference-ssm:float32") == (entry, "float32")


def test_names_are_all_that_find_takes():
    """An entry's names are its id and its variants, and each is found."""
    entry = CATALOG.entries["reference-ssm"]

    names = ("float32", "int8", "int4", "vllm")
    variants = tuple(f"reference-ssm:{name}" for name in names)
    assert entry.names() == ("reference-ssm", *variants)
    assert all(CATALOG.find(name)[0] is entry for name in entry.names())


def test_unknown_model_suggests_close_ids():
    """A mistyped id is answered with the ids it may have meant."""
    with pytest.raises(UnknownModel, match="did you mean reference-hybrid"):
        CATALOG.find("reference-hybird")


@pytest.mark.parametrize("name", ["reference-ssm:int3", "reference-ssm:"])
def test_unknown_variant_lists_those_there_are(name):
    """An unknown or empty variant is answered with the variants of that model."""
    with pytest.raises(UnknownVariant, match="it has: float32"):
        CATALOG.find(name)
