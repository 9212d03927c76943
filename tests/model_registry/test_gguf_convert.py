"""A converted GGUF file is the model that it was made from."""

import json

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from model_registry.errors import CorruptFile, UnsupportedArchitecture
from model_registry.sources.gguf_convert import convert_gguf, round_to_bfloat16

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}
TEXTS = ["the capital of France", "123 stones  and 4\n\nrivers", "<|start|>hello<|end|>", "wörld ✓"]


def converted(tmp_path, file):
    folder = tmp_path / "out"
    folder.mkdir()
    convert_gguf(file, folder)
    return folder


def as_llama_cpp(name, weight, config):
    """A weight of transformers as llama.cpp's converter writes it: Q and K with rows permuted."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    values = weight.float().numpy()
    for part, count in heads.items():
        if part in name:
            rows = values.reshape(count, 2, -1, *values.shape[1:])
            values = rows.swapaxes(1, 2).reshape(values.shape)
    return np.ascontiguousarray(values)


GGUF_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_weights(model):
    weights = {}
    for name, weight in model.state_dict().items():
        path = name.removesuffix(".weight").removeprefix("model.")
        if path.startswith("layers."):
            _, layer, part = path.split(".", 2)
            target = f"blk.{layer}.{GGUF_PARTS[part]}"
        else:
            target = {"embed_tokens": "token_embd", "norm": "output_norm"}.get(path)
        if target:
            weights[f"{target}.weight"] = as_llama_cpp(name, weight, model.config)
    return weights


@pytest.fixture(scope="module")
def original(byte_tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=byte_tokenizer.get_vocab_size(), **SIZES)
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def test_converted_model_gives_the_same_logits(tmp_path, write_gguf, original):
    """Weights, rotary order, norms and tie come through: the logits are equal to the bit."""
    file = write_gguf(tmp_path / "tiny.gguf", weights=gguf_weights(original))
    model = AutoModelForCausalLM.from_pretrained(converted(tmp_path, file)).eval()
    tokens = torch.arange(3, 40)[None]

    with torch.inference_mode():
        assert model.dtype == torch.bfloat16
        assert torch.equal(model(tokens).logits, original(tokens).logits)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "F16"])
def test_quantized_weights_are_near(tmp_path, write_gguf, original, kind):
    """Dequantized weights differ from the original by no more than their quantization explains."""
    quantization = gguf.GGMLQuantizationType[kind]
    file = write_gguf(
        tmp_path / "tiny.gguf", weights=gguf_weights(original), quantization=quantization
    )
    weights = load_file(converted(tmp_path, file) / "model.safetensors")

    for name, weight in weights.items():
        difference = (weight.float() - original.state_dict()[name].float()).abs().max()
        assert difference <= {"Q8_0": 6e-4, "Q4_1": 8e-3, "F16": 3e-4}[kind], name


def test_tokenizer_encodes_as_the_original(tmp_path, write_gguf, byte_tokenizer):
    """The rebuilt tokenizer gives the tokens of the one it was made from, digits apart."""
    folder = converted(tmp_path, write_gguf(tmp_path / "tiny.gguf"))
    rebuilt = Tokenizer.from_file(str(folder / "tokenizer.json"))

    for text in TEXTS:
        ids = rebuilt.encode(text).ids
        assert ids == byte_tokenizer.encode(text).ids
        assert rebuilt.decode(ids, skip_special_tokens=False) == text


def test_transformers_loads_tokenizer_and_template(tmp_path, write_gguf, byte_tokenizer):
    """Transformers reads the folder: special tokens by role, chat template, the same ids."""
    tokenizer = AutoTokenizer.from_pretrained(
        converted(tmp_path, write_gguf(tmp_path / "tiny.gguf"))
    )

    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|start|>", "<|end|>")
    assert tokenizer.apply_chat_template([{"content": "hi"}], tokenize=False) == "hi"
    assert [tokenizer(text).input_ids for text in TEXTS] == [
        byte_tokenizer.encode(text).ids for text in TEXTS
    ]


def test_beginning_of_text_is_added_where_the_file_says_so(tmp_path, write_gguf):
    """`add_bos_token` puts the token before every text."""
    folder = converted(tmp_path, write_gguf(tmp_path / "tiny.gguf", add_bos=True))
    rebuilt = Tokenizer.from_file(str(folder / "tokenizer.json"))

    assert rebuilt.encode("hello").tokens[0] == "<|start|>"


def test_config_names_what_the_metadata_says(tmp_path, write_gguf):
    """config.json carries sizes, stop tokens and rotary base, with short decimals."""
    folder = converted(tmp_path, write_gguf(tmp_path / "tiny.gguf"))
    config = json.loads((folder / "config.json").read_text())

    assert (config["rms_norm_eps"], config["rope_theta"]) == (1e-5, 10000.0)
    assert (config["eos_token_id"], config["head_dim"]) == (0, 16)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 0


REFUSED = {
    "another architecture": ({"architecture": "mamba2"}, "architecture 'mamba2'"),
    "a SentencePiece vocabulary": ({"vocabulary_kind": "llama"}, "vocabulary 'llama'"),
    "an unknown split rule": ({"pre_tokenizer": "klingon"}, "pre-tokenizer 'klingon'"),
    "experts": ({"experts": 4}, "mixture of experts"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_refused_by_name(tmp_path, write_gguf, name):
    """A file that would convert wrongly is refused, naming what is not understood."""
    keywords, message = REFUSED[name]
    file = write_gguf(tmp_path / "tiny.gguf", **keywords)

    with pytest.raises(UnsupportedArchitecture, match=message):
        converted(tmp_path, file)


def test_missing_weight_is_named(tmp_path, write_gguf):
    """A file that lacks a weight is refused, naming it."""
    file = write_gguf(tmp_path / "tiny.gguf", leave_out="blk.1.ffn_up.weight")

    with pytest.raises(CorruptFile, match=r"lacks 1 weights, model.layers.1.mlp.up_proj.weight"):
        converted(tmp_path, file)


def test_wrong_shape_is_refused(tmp_path, write_gguf, original):
    """A weight whose shape its metadata does not explain is refused."""
    weights = gguf_weights(original)
    weights["blk.0.ffn_up.weight"] = weights["blk.0.ffn_up.weight"][:64]

    with pytest.raises(CorruptFile, match=r"ffn_up.weight' has shape \(64, 64\)"):
        converted(tmp_path, write_gguf(tmp_path / "tiny.gguf", weights=weights))


def test_rounding_to_bf16_is_torch_s():
    """Values are rounded to nearest even, as torch rounds them; infinities stay, NaN stays NaN."""
    random = np.random.default_rng(1)
    values = random.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    edges = np.array([np.inf, -np.inf, 0.0, -0.0, 3.4e38], dtype=np.float32)
    values = np.concatenate([values, edges])
    ours = torch.from_numpy(round_to_bfloat16(values).view(np.int16)).view(torch.bfloat16)
    theirs = torch.from_numpy(values).to(torch.bfloat16)

    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours[~ours.isnan()], theirs[~theirs.isnan()])
