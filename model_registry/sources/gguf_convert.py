"""Turn a GGUF file into a folder that transformers loads: bf16 safetensors, config, tokenizer.

Covers dense Llama-architecture files. Values are dequantized by the `gguf` package and rounded to
bf16 (nearest even), which is the type such checkpoints are published in.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from gguf.quants import dequantize
from safetensors import SafetensorError, TensorSpec, serialize_file

from model_registry.errors import CorruptFile, PullFailed, UnsupportedArchitecture
from model_registry.sources.gguf_header import GgufHeader, TensorInfo, read_header
from model_registry.sources.gguf_tokenizer import rebuild_tokenizer, tokenizer_config

_Number = TypeVar("_Number", bound=np.generic)

_SHARD_BYTES = 2 * 1024**3
_GLOBAL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert_gguf(
    source: Path, folder: Path, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> None:
    """Write `config.json`, tokenizer files, `generation_config.json` and safetensors into `folder`.

    `progress` gets the weights written so far and in all, in bytes of bf16.

    Raises:
        CorruptFile: header or tensors are not what they should be.
        UnsupportedArchitecture: not a dense Llama file, or a vocabulary that cannot be rebuilt.
    """
    header = read_header(source)
    config = llama_config(header)
    tokenizer = rebuild_tokenizer(header.metadata)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        tokenizer_config(header.metadata, config["max_position_embeddings"]),
    )
    write_json(folder / "config.json", config)
    write_json(
        folder / "generation_config.json",
        {key: value for key, value in config.items() if key.endswith("_token_id")},
    )
    _write_weights(source, header, config, folder, progress)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write indented UTF-8 JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def llama_config(header: GgufHeader) -> dict[str, Any]:
    """`config.json` of a dense Llama model from GGUF metadata (keys: ggml's docs/gguf.md)."""
    metadata = header.metadata
    _refuse_other_architectures(header)
    names = {info.name: info for info in header.tensors}
    try:
        heads = metadata["llama.attention.head_count"]
        hidden = metadata["llama.embedding_length"]
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "bfloat16",
            "vocab_size": names["token_embd.weight"].shape[0],
            "hidden_size": hidden,
            "intermediate_size": metadata["llama.feed_forward_length"],
            "num_hidden_layers": metadata["llama.block_count"],
            "num_attention_heads": heads,
            "num_key_value_heads": metadata.get("llama.attention.head_count_kv", heads),
            "head_dim": metadata.get("llama.rope.dimension_count", hidden // heads),
            "max_position_embeddings": metadata["llama.context_length"],
            "rms_norm_eps": _shortest(metadata["llama.attention.layer_norm_rms_epsilon"]),
            "rope_theta": metadata.get("llama.rope.freq_base", 10000.0),
            "hidden_act": "silu",
            "attention_bias": "blk.0.attn_q.bias" in names,
            "mlp_bias": "blk.0.ffn_up.bias" in names,
            "tie_word_embeddings": "output.weight" not in names,
        }
    except KeyError as error:
        raise CorruptFile(f"GGUF metadata or tensor {error} is missing; re-download it") from error
    return config | _token_ids(metadata)


def _shortest(value: float) -> float:
    """A float32 as the shortest decimal that gives it: 1e-05 and not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _refuse_other_architectures(header: GgufHeader) -> None:
    metadata = header.metadata
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise UnsupportedArchitecture(
            f"GGUF architecture {architecture!r} cannot be converted; only 'llama' can. "
            "Take the model from its safetensors repository instead"
        )
    scaling = metadata.get("llama.rope.scaling.type", "none")
    if metadata.get("llama.expert_count", 0):
        raise UnsupportedArchitecture("a mixture of experts in a GGUF file cannot be converted")
    if scaling != "none" or any(info.name == "rope_freqs.weight" for info in header.tensors):
        raise UnsupportedArchitecture("scaled rotary positions in a GGUF file cannot be converted")


def _token_ids(metadata: Mapping[str, Any]) -> dict[str, Any]:
    ids = {
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
    }
    return {key: value for key, value in ids.items() if value is not None}


def hugging_face_name(name: str, layers: int) -> str:
    """`blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj.weight`."""
    if name in _GLOBAL_NAMES:
        return _GLOBAL_NAMES[name]
    parts = name.split(".")
    match parts:
        case ["blk", index, part, "weight" | "bias" as kind] if (
            index.isdecimal() and int(index) < layers and part in _BLOCK_NAMES
        ):
            return f"model.layers.{int(index)}.{_BLOCK_NAMES[part]}.{kind}"
    raise UnsupportedArchitecture(f"tensor {name!r} does not belong to a dense Llama model")


def _shape_of(name: str, config: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape that transformers' Llama gives the weight `name`."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    shapes = {
        "q_proj": (query, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, query),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
        "embed_tokens": (config["vocab_size"], hidden),
        "lm_head": (config["vocab_size"], hidden),
    }
    module, kind = name.split(".")[-2:]
    shape: tuple[int, ...] = shapes.get(module, (hidden,))
    return shape if kind == "weight" else shape[:1]


def undo_rotary_permutation(weight: npt.NDArray[_Number], heads: int) -> npt.NDArray[_Number]:
    """Rows of Q or K from llama.cpp's order (pairs together) to transformers' (halves together).

    Inverse of `LlamaModel.permute` in llama.cpp's `convert_hf_to_gguf.py`.
    """
    pairs = weight.shape[0] // heads // 2
    grouped = weight.reshape(heads, pairs, 2, *weight.shape[1:])
    return grouped.swapaxes(1, 2).reshape(weight.shape)


def round_to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """bf16 bit patterns, rounded to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def _tensor(
    data: npt.NDArray[np.uint8], info: TensorInfo, name: str, config: Mapping[str, Any]
) -> npt.NDArray[np.uint16]:
    if info.shape != _shape_of(name, config):
        raise CorruptFile(
            f"GGUF tensor {info.name!r} has shape {info.shape}, its metadata asks for "
            f"{_shape_of(name, config)}"
        )
    raw = data[info.offset_bytes : info.offset_bytes + info.size_bytes]
    try:
        values = dequantize(raw.reshape(*info.shape[:-1], -1), info.type)
    except NotImplementedError as error:
        raise UnsupportedArchitecture(
            f"GGUF quantization {info.type.name} cannot be dequantized here"
        ) from error
    values = values.reshape(info.shape).astype(np.float32, copy=False)
    return round_to_bfloat16(in_order(values, name, config))


def in_order(
    rows: npt.NDArray[_Number], name: str, config: Mapping[str, Any]
) -> npt.NDArray[_Number]:
    """Rows of the weight `name`, or of what belongs to them, in transformers' order."""
    if ".q_proj." in name:
        return undo_rotary_permutation(rows, config["num_attention_heads"])
    if ".k_proj." in name:
        return undo_rotary_permutation(rows, config["num_key_value_heads"])
    return rows


def _shards(header: GgufHeader) -> Iterator[list[TensorInfo]]:
    """Tensors in runs of at most about two gigabytes of bf16, to bound the memory taken."""
    run: list[TensorInfo] = []
    size = 0
    for info in header.tensors:
        weight_bytes = 2 * int(np.prod(info.shape))
        if run and size + weight_bytes > _SHARD_BYTES:
            yield run
            run, size = [], 0
        run.append(info)
        size += weight_bytes
    yield run


def _write_weights(
    source: Path,
    header: GgufHeader,
    config: Mapping[str, Any],
    folder: Path,
    progress: Callable[[int, int], None],
) -> None:
    data = np.memmap(source, dtype=np.uint8, mode="r")
    shards = list(_shards(header))
    total = sum(2 * int(np.prod(info.shape)) for info in header.tensors)
    done = 0
    weight_map: dict[str, str] = {}
    for index, shard in enumerate(shards, 1):
        file = f"model-{index:05}-of-{len(shards):05}.safetensors"
        if len(shards) == 1:
            file = "model.safetensors"
        tensors = {}
        for info in shard:
            name = hugging_face_name(info.name, config["num_hidden_layers"])
            tensors[name] = _tensor(data, info, name, config)
            weight_map[name] = file
            done += tensors[name].nbytes
            progress(done, total)
        _serialize(tensors, folder / file)
    _refuse_missing_weights(weight_map, config)
    if len(shards) > 1:
        index_json = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index_json)


def _serialize(tensors: Mapping[str, npt.NDArray[np.uint16]], file: Path) -> None:
    specs = {
        name: TensorSpec(
            dtype="bfloat16",
            shape=list(array.shape),
            data_ptr=array.ctypes.data,
            data_len=array.nbytes,
        )
        for name, array in tensors.items()
    }
    try:
        serialize_file(specs, str(file), {"format": "pt"})
    except SafetensorError as error:
        raise PullFailed(f"{file}: cannot be written ({error})") from error


def _refuse_missing_weights(weight_map: Mapping[str, str], config: Mapping[str, Any]) -> None:
    wanted = {
        f"model.layers.{layer}.{part}.weight"
        for layer in range(config["num_hidden_layers"])
        for part in _BLOCK_NAMES.values()
    }
    wanted |= {"model.embed_tokens.weight", "model.norm.weight"}
    if missing := sorted(wanted - weight_map.keys()):
        raise CorruptFile(f"GGUF file lacks {len(missing)} weights, {missing[0]} among them")
