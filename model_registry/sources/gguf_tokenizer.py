"""Rebuild `tokenizer.json` and `tokenizer_config.json` from the metadata of a GGUF file.

Only byte-level BPE vocabularies (`tokenizer.ggml.model = "gpt2"`) are rebuilt, and only with a
pre-tokenizer whose split rule is known here: a wrong split gives other tokens without any error.
The split rules are those that llama.cpp names by `tokenizer.ggml.pre` (`src/llama-vocab.cpp`).
"""

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.pre_tokenizers import PreTokenizer

from model_registry.errors import CorruptFile, UnsupportedArchitecture

_CONTROL, _USER_DEFINED = 3, 4
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
_ROLES = ("bos", "eos", "unknown", "padding")


def _split(pattern: str) -> PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _digits_then_bytes() -> PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _BYTE_LEVEL])


def _pre_tokenizers() -> dict[str, PreTokenizer]:
    return {
        "gpt-2": _BYTE_LEVEL,
        "smollm": _digits_then_bytes(),
        "starcoder": _digits_then_bytes(),
        "llama-bpe": _split(_LLAMA3),
        "llama3": _split(_LLAMA3),
        "qwen2": _split(_QWEN2),
    }


def rebuild_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file describes.

    Raises:
        UnsupportedArchitecture: a vocabulary type or split rule that is not known here, by name.
        CorruptFile: vocabulary, merges and token types do not fit each other.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise UnsupportedArchitecture(
            f"GGUF vocabulary {kind!r} cannot be converted; only byte-level BPE ('gpt2') can. "
            "Take the model from its safetensors repository instead"
        )
    known = _pre_tokenizers()
    pre = metadata.get("tokenizer.ggml.pre", "gpt-2")
    if pre not in known:
        raise UnsupportedArchitecture(
            f"GGUF pre-tokenizer {pre!r} cannot be converted; known are {', '.join(sorted(known))}"
        )
    tokens: list[str] = metadata.get("tokenizer.ggml.tokens", [])
    types: list[int] = metadata.get("tokenizer.ggml.token_type", [])
    if not tokens or len(tokens) != len(types):
        raise CorruptFile(
            f"GGUF tokenizer has {len(tokens)} tokens and {len(types)} token types; re-download it"
        )
    tokenizer = Tokenizer(_bpe(tokens, metadata.get("tokenizer.ggml.merges", [])))
    tokenizer.pre_tokenizer = known[pre]
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = _post_processor(metadata, tokens)
    tokenizer.add_special_tokens(
        [_added(text) for text, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    )
    tokenizer.add_tokens(
        [_added(text) for text, kind in zip(tokens, types, strict=True) if kind == _USER_DEFINED]
    )
    return tokenizer


def _bpe(tokens: list[str], merges: list[str]) -> models.BPE:
    vocabulary = {text: index for index, text in enumerate(tokens)}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    if len(vocabulary) != len(tokens) or not all(all(pair) for pair in pairs):
        raise CorruptFile("GGUF tokenizer has repeated tokens or malformed merges; re-download it")
    try:
        return models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=False)
    except Exception as error:  # tokenizers raises bare Exception
        raise CorruptFile(f"GGUF tokenizer's merges do not fit its vocabulary: {error}") from error


def _added(text: str) -> AddedToken:
    return AddedToken(text, normalized=False)


def _post_processor(metadata: Mapping[str, Any], tokens: list[str]) -> processors.PostProcessor:
    byte_level = processors.ByteLevel(trim_offsets=True)
    if not metadata.get("tokenizer.ggml.add_bos_token", False):
        return byte_level
    index = metadata["tokenizer.ggml.bos_token_id"]
    bos = tokens[index]
    template = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, index)]
    )
    return processors.Sequence([byte_level, template])


def tokenizer_config(metadata: Mapping[str, Any], context_tokens: int) -> dict[str, Any]:
    """Content of `tokenizer_config.json`: special tokens by role and the chat template.

    `PreTrainedTokenizerFast` takes `tokenizer.json` as it stands; a model's own class may rebuild
    its pre-tokenizer and lose the split rule.
    """
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_tokens,
        "clean_up_tokenization_spaces": False,
    }
    for role, name in zip(_ROLES, ("bos", "eos", "unk", "pad"), strict=True):
        index = metadata.get(f"tokenizer.ggml.{role}_token_id")
        if index is not None:
            config[f"{name}_token"] = tokens[index]
    if template := metadata.get("tokenizer.chat_template"):
        config["chat_template"] = template
    return config
