"""Configs are read by model type, in every form that was published."""

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_registry.architecture import MODEL_TYPES, read_layers, readers
from model_registry.errors import CorruptFile, RegistryError, UnsupportedArchitecture
from model_registry.footprint import predict, state_growth
from model_registry.sources.model_files import read_config

LLAMA = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
HYBRID = LLAMA | {
    "num_key_value_heads": 2,
    "shared_intermediate_size": 48,
    "num_local_experts": 0,
    "mamba_n_heads": 4,
    "mamba_d_state": 8,
}
NEMOTRON = LLAMA | {
    "model_type": "nemotron_h",
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "ssm_state_size": 8,
    "n_groups": 1,
}
ZAMBA = LLAMA | {"model_type": "zamba2", "n_mamba_heads": 4}
DELTA = LLAMA | {
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "tie_word_embeddings": True,
}
MAMBA = {"model_type": "mamba", "vocab_size": 104, "hidden_size": 32, "num_hidden_layers": 3}
OLD_AND_NEW = {
    "granite, old layer names": (
        HYBRID | {"model_type": "granitemoehybrid", "layer_types": ["mamba", "attention"]},
        HYBRID
        | {
            "model_type": "granitemoehybrid",
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "bamba, indices": (
        HYBRID | {"model_type": "bamba", "attn_layer_indices": [1]},
        HYBRID
        | {
            "model_type": "bamba",
            "layers_block_type": ["linear_attention", "full_attention", "linear_attention"],
        },
    ),
    "nemotron_h, pattern": (
        NEMOTRON | {"hybrid_override_pattern": "M-*"},
        NEMOTRON | {"layers_block_type": ["linear_attention", "mlp", "full_attention"]},
    ),
    "lfm2, indices and block_ff_dim": (
        LLAMA
        | {
            "model_type": "lfm2",
            "block_ff_dim": 48,
            "intermediate_size": None,
            "full_attn_idxs": [2],
        },
        LLAMA | {"model_type": "lfm2", "layer_types": ["conv", "conv", "full_attention"]},
    ),
    "zamba2, layer numbers": (
        ZAMBA | {"hybrid_layer_ids": [1]},
        ZAMBA | {"layers_block_type": ["mamba", "hybrid", "mamba"]},
    ),
    "mamba, the original code's names": (
        {"model_type": "mamba", "d_model": 32, "n_layer": 3, "vocab_size": 100, "ssm_cfg": {}},
        MAMBA,
    ),
    "mamba2, the original code's names": (
        {
            "model_type": "mamba2",
            "d_model": 64,
            "n_layer": 3,
            "vocab_size": 100,
            "pad_vocab_size_multiple": 16,
            "ssm_cfg": {"layer": "Mamba2", "d_state": 16, "headdim": 32},
        },
        {
            "model_type": "mamba2",
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "vocab_size": 112,
            "num_heads": 4,
            "head_dim": 32,
            "state_size": 16,
            "n_groups": 1,
            "tie_word_embeddings": True,
        },
    ),
    "gemma3, pattern": (
        LLAMA | {"model_type": "gemma3_text", "sliding_window": 8, "sliding_window_pattern": 3},
        LLAMA
        | {
            "model_type": "gemma3_text",
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
    "qwen3_5, nested": (
        {
            "model_type": "qwen3_5",
            "text_config": DELTA | {"model_type": "x", "tie_word_embeddings": False},
            "tie_word_embeddings": True,
        },
        DELTA | {"model_type": "qwen3_5_text"},
    ),
}


@pytest.mark.parametrize("name", OLD_AND_NEW)
def test_old_and_new_forms_read_alike(name):
    """A config as published and as transformers 5 writes it give the same layers and sizes."""
    old, new = OLD_AND_NEW[name]
    first, second = read_layers(old), read_layers(new)

    assert first.layers == second.layers
    assert first.parameters == second.parameters


def test_counts_and_family_of_a_hybrid():
    """Layers are counted by kind; attention beside state makes a hybrid."""
    mix = read_layers(NEMOTRON | {"hybrid_override_pattern": "M-M*"})

    assert mix.counts() == {"ssm": 2, "mlp": 1, "full_attention": 1}
    assert mix.family == "hybrid"


@pytest.mark.parametrize(
    ("config", "family"), [(LLAMA, "transformer"), (MAMBA, "ssm"), (DELTA, "hybrid")]
)
def test_family_follows_from_the_layers(config, family):
    """Attention alone is a transformer, state alone an SSM."""
    config = config | {"model_type": "qwen3_5_text"} if config is DELTA else config

    assert read_layers(config | {"num_hidden_layers": 4}).family == family


def test_shared_attention_counts_its_weights_once():
    """Zamba2's shared block is counted once, its adapters and caches for each use."""
    one = read_layers(ZAMBA | {"layers_block_type": ["hybrid", "mamba", "mamba"]})
    two = read_layers(ZAMBA | {"layers_block_type": ["hybrid", "hybrid", "mamba"]})

    assert two.shared_parameters == one.shared_parameters
    assert two.counts()["shared_attention"] == 2


def test_window_as_long_as_the_context_is_full_attention():
    """A window that never slides within the model's context is no window."""
    window = {"model_type": "phi3", "sliding_window": 64}

    assert read_layers(LLAMA | window | {"max_position_embeddings": 64}).counts() == {
        "full_attention": 3
    }
    assert read_layers(LLAMA | window | {"max_position_embeddings": 128}).counts() == {
        "window_attention": 3
    }


@pytest.mark.parametrize("model_type", ["gpt2", "mamba3", ""])
def test_unknown_type_is_refused_by_name(model_type):
    """A type that is not known is named, with those that are."""
    with pytest.raises(UnsupportedArchitecture, match=rf"{model_type!r} is not known.*zamba2"):
        read_layers(LLAMA | {"model_type": model_type})


@pytest.mark.parametrize("model_type", [None, ["a"], 7, {}])
def test_a_type_that_is_no_string_is_refused(model_type):
    """A `model_type` of another kind is refused by its key; a list used to raise TypeError."""
    with pytest.raises(UnsupportedArchitecture, match="no `model_type` that is a string"):
        read_layers(LLAMA | {"model_type": model_type})


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (LLAMA | {"num_attention_heads": 0}, "num_attention_heads"),
        (LLAMA | {"num_key_value_heads": -1}, "num_key_value_heads"),
        (LLAMA | {"hidden_size": 10**400}, "hidden_size"),
        (LLAMA | {"hidden_size": float("nan")}, "hidden_size"),
        (LLAMA | {"hidden_size": float("inf")}, "hidden_size"),
        (LLAMA | {"hidden_size": 1}, "hidden_size"),
        (LLAMA | {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        (LLAMA | {"attention_bias": "no"}, "attention_bias"),
        (LLAMA | {"model_type": "gemma3_text", "layer_types": [["a"]]}, "layer_types"),
        (LLAMA | {"model_type": "gemma3_text", "layer_types": "full"}, "layer_types"),
        (LLAMA | {"model_type": "lfm2", "full_attn_idxs": {"a": 1}}, "full_attn_idxs"),
        (LLAMA | {"model_type": "lfm2", "block_ffn_dim_multiplier": "2"}, "block_ffn_dim_mult"),
        (LLAMA | {"model_type": "recurrent_gemma", "block_types": []}, "block_types"),
        (NEMOTRON | {"hybrid_override_pattern": 7}, "hybrid_override_pattern"),
        (ZAMBA | {"n_mamba_heads": 1000, "hybrid_layer_ids": [1]}, "n_mamba_heads"),
        ({"model_type": "mamba", "d_model": "8", "n_layer": 1, "vocab_size": 8}, "d_model"),
        ({"model_type": "mamba2", "d_model": 8, "n_layer": 1, "vocab_size": 8, "ssm_cfg": 3},
         "ssm_cfg"),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused_by_its_key(config, named):
    """Zero, negative, huge and mistyped values are UnsupportedArchitecture with the key's name.

    They used to end in ZeroDivisionError, TypeError or an endless loop, and with them the task that
    looks for models.
    """
    with pytest.raises(UnsupportedArchitecture, match=f"`{named}"):
        read_layers(config)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.sampled_from(["attention", "mamba", "auto", "M-*"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)  # fmt: skip
KEYS = sorted(
    {name for path in Path(readers.__file__).parent.rglob("*.py")
     for name in re.findall(r'"([a-zA-Z_]{3,})"', path.read_text())}
)  # fmt: skip


@given(
    base=st.sampled_from([LLAMA, HYBRID, NEMOTRON, ZAMBA, DELTA, MAMBA, {}]),
    model_type=st.sampled_from(MODEL_TYPES) | JSON,
    changes=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6),
)
def test_no_config_raises_anything_but_a_registry_error(base, model_type, changes):
    """Whatever JSON a config.json holds, it is read and sized, or refused as a registry error."""
    config = base | changes | {"model_type": model_type}
    with contextlib.suppress(RegistryError):
        assert read_layers(config).parameters > 0
        assert predict(config, context_tokens=4096).weights_bytes > 0
        state_growth(config)


@pytest.mark.parametrize(
    "content", [b"[" * 200_000, b'{"a": ' * 200_000, b"[]", b"\xff", b"", b"1" * 5000]
)
def test_no_file_raises_anything_but_corrupt_file(tmp_path, content):
    """A config.json that is no JSON object, however deep or long, is CorruptFile."""
    (tmp_path / "config.json").write_bytes(content)

    with pytest.raises(CorruptFile, match=r"config\.json"):
        read_config(tmp_path)


def test_a_folder_in_place_of_the_file_is_corrupt(tmp_path):
    """What cannot be read is CorruptFile with the system's reason."""
    (tmp_path / "config.json").mkdir()

    with pytest.raises(CorruptFile, match="directory"):
        read_config(tmp_path)


def test_each_served_type_has_the_same_file_name_in_the_registry_and_in_the_torch_host():
    """To add an architecture is to add one file name in two places."""
    here = {path.name for path in (Path(readers.__file__).parent / "types").glob("*.py")}
    served = Path("service/torch_host/compiled/architectures")

    assert here == {path.name for path in served.glob("*.py")}


def test_rwkv_is_refused_with_the_reason():
    """RWKV is refused by name and reason."""
    with pytest.raises(UnsupportedArchitecture, match=r"rwkv cannot be served: .*padding"):
        read_layers({"model_type": "rwkv"})


def test_recurrent_gemma_is_read_but_not_servable():
    """RecurrentGemma can be planned for; it says why it cannot be served."""
    mix = read_layers(LLAMA | {"model_type": "recurrent_gemma"})

    assert not mix.servable
    assert "recurrent_gemma cannot be served" in mix.refusal
    assert mix.counts() == {"ssm": 2, "window_attention": 1}


def test_missing_number_is_named():
    """A config without a number that is needed is refused, naming type and key."""
    config = {key: value for key, value in LLAMA.items() if key != "hidden_size"}

    with pytest.raises(UnsupportedArchitecture, match="llama: the config lacks `hidden_size`"):
        read_layers(config)


@pytest.mark.parametrize("value", ["32", True, 1.5, [1]])
def test_number_that_is_none_is_named(value):
    """A value that is no whole number is refused, naming type and key."""
    with pytest.raises(UnsupportedArchitecture, match=r"llama: `hidden_size` is .*not a whole"):
        read_layers(LLAMA | {"hidden_size": value})


def test_unknown_layer_kind_is_named():
    """A layer kind that the type does not have is refused by name."""
    with pytest.raises(
        UnsupportedArchitecture,
        match="nemotron_h: `hybrid_override_pattern` has an unknown layer type 'X'",
    ):
        read_layers(NEMOTRON | {"hybrid_override_pattern": "MX"})


def test_readable_types_are_those_promised():
    """The list of readable types is the documented one."""
    promised = """bamba falcon_h1 falcon_mamba gemma3_text granitemoehybrid jamba lfm2 llama mamba
    mamba2 nemotron_h phi3 phimoe qwen2 qwen3 qwen3_5 qwen3_5_text qwen3_next recurrent_gemma
    zamba2"""

    assert promised.split() == list(MODEL_TYPES)
