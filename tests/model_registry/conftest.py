"""Tiny GGUF files and catalogue entries that the registry's tests start from."""

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import quantize
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from model_registry.catalog import CatalogEntry, read_entry

HIDDEN, INNER, LAYERS, HEADS, KEY_VALUE_HEADS, HEAD_DIM = 64, 96, 2, 4, 2, 16
CORPUS = ["the capital of France is Paris", "a river of 123 stones", "hello hello world"] * 9
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer that splits digits, as SmolLM2's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end|>", "<|start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def llama_weights(vocabulary: int, *, tied: bool = True) -> dict[str, np.ndarray]:
    """Random weights by llama.cpp's names, representable in bf16."""
    random = np.random.default_rng(0)
    queries, keys = HEADS * HEAD_DIM, KEY_VALUE_HEADS * HEAD_DIM
    shapes = {"token_embd": (vocabulary, HIDDEN), "output_norm": (HIDDEN,)}
    shapes |= {} if tied else {"output": (vocabulary, HIDDEN)}
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        shapes |= {
            f"{block}attn_norm": (HIDDEN,),
            f"{block}attn_q": (queries, HIDDEN),
            f"{block}attn_k": (keys, HIDDEN),
            f"{block}attn_v": (keys, HIDDEN),
            f"{block}attn_output": (HIDDEN, queries),
            f"{block}ffn_norm": (HIDDEN,),
            f"{block}ffn_gate": (INNER, HIDDEN),
            f"{block}ffn_up": (INNER, HIDDEN),
            f"{block}ffn_down": (HIDDEN, INNER),
        }
    weights = {}
    for name, shape in shapes.items():
        values = random.normal(0, 0.1, shape).astype(np.float32)
        bits = values.view(np.uint32) & np.uint32(0xFFFF0000)
        weights[f"{name}.weight"] = bits.view(np.float32)
    return weights


@pytest.fixture
def write_gguf(byte_tokenizer) -> Callable[..., Path]:
    """Write a tiny Llama as GGUF; keywords change one thing each."""

    def write(  # noqa: PLR0913
        path: Path,
        *,
        architecture: str = "llama",
        weights: dict[str, np.ndarray] | None = None,
        quantization: gguf.GGMLQuantizationType | None = None,
        vocabulary_kind: str = "gpt2",
        pre_tokenizer: str = "smollm",
        experts: int = 0,
        leave_out: str = "",
        add_bos: bool = False,
    ) -> Path:
        vocabulary = byte_tokenizer.get_vocab()
        tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_context_length(256)
        writer.add_embedding_length(HIDDEN)
        writer.add_feed_forward_length(INNER)
        writer.add_block_count(LAYERS)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(KEY_VALUE_HEADS)
        writer.add_rope_dimension_count(HEAD_DIM)
        writer.add_rope_freq_base(10000.0)
        writer.add_layer_norm_rms_eps(1e-5)
        if experts:
            writer.add_expert_count(experts)
        writer.add_tokenizer_model(vocabulary_kind)
        writer.add_tokenizer_pre(pre_tokenizer)
        writer.add_token_list(tokens)
        writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
        merges = byte_tokenizer.to_str()
        writer.add_token_merges(_merges(merges))
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(0)
        writer.add_pad_token_id(0)
        writer.add_add_bos_token(add_bos)
        writer.add_chat_template(TEMPLATE)
        for name, values in (weights or llama_weights(len(tokens))).items():
            if name == leave_out:
                continue
            if quantization is not None and values.ndim > 1:
                packed = quantize(values, quantization)
                writer.add_tensor(name, packed, raw_dtype=quantization)
            else:
                writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def _merges(tokenizer_json: str) -> list[str]:
    return [" ".join(pair) for pair in json.loads(tokenizer_json)["model"]["merges"]]


ENTRY = """
id = "{id}"
family = "transformer"
licence = "MIT"
context_tokens = 256
{extra}
[[sources]]
{source}
"""


@pytest.fixture
def make_entry(tmp_path) -> Callable[..., CatalogEntry]:
    """Write and read a catalogue file with one source."""

    def make(source: str, *, model: str = "tiny", extra: str = "") -> CatalogEntry:
        folder = tmp_path / "catalogue"
        folder.mkdir(exist_ok=True)
        file = folder / f"{model}.toml"
        file.write_text(ENTRY.format(id=model, source=source, extra=extra))
        return read_entry(file)

    return make


@pytest.fixture
def write_folder() -> Callable[..., Path]:
    """Write a model folder; keywords add to its `config.json`."""

    def write(folder: Path, **config: object) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(LLAMA_CONFIG | config))
        (folder / "tokenizer.json").write_text("{}")
        save_file({"weight": np.zeros(4, np.float32)}, folder / "model.safetensors")
        return folder

    return write


LLAMA_CONFIG = {
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_VALUE_HEADS,
    "tie_word_embeddings": True,
}
