"""Small tokenizers of the two kinds that language models use, made in memory or as files."""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from support import tiny_models

SPECIAL = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MERGES = ("h e", "l l", "he ll", "hell o", "Ġ t", "Ġt h", "Ġth e", "i m", "im _", "e n", "en d")


def byte_level() -> Tokenizer:
    """GPT-2's kind: 5 special tokens, 256 bytes and a few merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [tuple(merge.split()) for merge in MERGES]
    vocabulary = [*SPECIAL, *alphabet, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE({token: id_ for id_, token in enumerate(vocabulary)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _with_special(tokenizer)


def sentence_piece(*, prepend: str = "first") -> Tokenizer:
    """Llama 2's kind: words begin with ▁, unknown characters fall back to bytes."""
    letters = ["▁", *"abcdehlostumi_nr<>|/"]
    merges = [("▁", "h"), ("▁h", "e"), ("l", "l"), ("▁he", "ll"), ("▁hell", "o"), ("▁", "t")]
    vocabulary = [
        *SPECIAL,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *letters,
        *(left + right for left, right in merges),
    ]
    tokenizer = Tokenizer(
        models.BPE(
            {token: id_ for id_, token in enumerate(vocabulary)},
            merges,
            byte_fallback=True,
            unk_token="<pad>",
        )
    )
    if prepend == "normalizer":  # the older files of the kind
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _with_special(tokenizer)


def _with_special(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, rstrip=token == "<|im_end|>") for token in SPECIAL]
    )
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", SPECIAL.index("<s>"))]
    )
    return tokenizer


def write(
    folder: Path, tokenizer: Tokenizer | None = None, *, template: str | None = TEMPLATE
) -> Path:
    """Write a tokenizer's files beside a model's."""
    (tokenizer or byte_level()).save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"content": "<|im_end|>", "__type": "AddedToken"},
        "pad_token": "<pad>",
    }
    if template is not None:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    generation = {"eos_token_id": [SPECIAL.index("</s>"), SPECIAL.index("<|im_end|>")]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def write_model(name: str, folder: Path, **changes: object) -> Path:
    """Write a tiny model (tiny_models) with a tokenizer: a folder that can be chatted with."""
    values = {
        "vocab_size": byte_level().get_vocab_size(),
        "eos_token_id": SPECIAL.index("<|im_end|>"),
    }
    tiny_models.write(name, folder, **(values | changes))
    return write(folder)
