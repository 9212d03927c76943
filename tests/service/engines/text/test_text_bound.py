"""Lower bounds of a text's tokens never exceed what the tokenizer makes of it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from model_registry import reference
from service.core.chat import ChatPrompt, Message, TextPrompt
from service.core.errors import ContextOverflow
from service.engines.text.codec import TextCodec
from service.engines.text.text_bound import TextBound
from support import tiny_text


def normalized(*parts):
    tokenizer = tiny_text.byte_level()
    tokenizer.normalizer = normalizers.Sequence(list(parts))
    return tokenizer


def split(behavior):
    tokenizer = tiny_text.byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("e", behavior), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def trained():
    folder = next(iter(reference.__path__))
    return Tokenizer.from_file(f"{folder}/weights/hybrid/tokenizer.json")


TOKENIZERS = {
    "byte level": tiny_text.byte_level,
    "metaspace": tiny_text.sentence_piece,
    "metaspace always": lambda: tiny_text.sentence_piece(prepend="always"),
    "normalizer": lambda: tiny_text.sentence_piece(prepend="normalizer"),
    "reference": trained,
    "composed": lambda: normalized(normalizers.NFC()),
    "compatible": lambda: normalized(normalizers.NFKC(), normalizers.Lowercase()),
    "shortened": lambda: normalized(normalizers.Replace("hello", "e")),
    "isolated": lambda: split("isolated"),
}
TEXTS = st.lists(
    st.sampled_from(
        [
            *"helo tun\n\u2003€😀é",
            "hello",
            "e\u0301",
            "ﬀ",
            "Å",
            "𝐞",
            "\u1100\u1161",
            *tiny_text.SPECIAL,
        ]
    )
    | st.characters(exclude_categories=["Cs"]),
    max_size=60,
).map("".join)


def codec_of(tokenizer):
    return TextCodec(tokenizer, named={}, template=None, eos_ids=())


CODECS = {name: codec_of(build()) for name, build in TOKENIZERS.items()}


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
@pytest.mark.parametrize("kind", CODECS)
def test_a_text_has_no_fewer_tokens(kind, text):
    """Whatever a normalizer joins and special tokens swallow."""
    codec = CODECS[kind]
    ids = codec.encode(TextPrompt(text), add_special_tokens=False)

    assert codec.bound.least_tokens(text) <= len(ids)


def test_white_space_beside_a_special_token_is_not_counted():
    """A special token with `rstrip` stands for any amount of it."""
    text = "<|im_end|>" + " " * 1000

    assert len(CODECS["byte level"].encode(TextPrompt(text), add_special_tokens=False)) == 1
    assert CODECS["byte level"].bound.least_tokens(text) == 1


def without_a_byte():
    source = tiny_text.byte_level()
    vocabulary = {token: id_ for token, id_ in source.get_vocab().items() if token != "a"}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<pad>", fuse_unk=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = source.pre_tokenizer, source.decoder
    return tokenizer


@pytest.mark.parametrize(
    "build",
    [
        lambda: normalized(normalizers.Strip()),
        lambda: normalized(normalizers.Replace(Regex(" +"), " ")),
        lambda: normalized(normalizers.Replace("e", "")),
        lambda: split("removed"),
        without_a_byte,
    ],
)
def test_a_tokenizer_that_drops_text_has_no_bound(build):
    """Any amount of text could stand for nothing, or for one token."""
    assert codec_of(build()).bound is None


def test_the_longest_token_counts_even_if_it_was_added():
    """Added tokens may be longer than any of the vocabulary."""
    tokenizer = tiny_text.byte_level()
    tokenizer.add_tokens([AddedToken("h" * 500)])

    assert codec_of(tokenizer).bound.token_bytes == 500


def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenized(monkeypatch):
    """The error is the one that a tokenized prompt gets, and says that the count is a bound."""
    codec = codec_of(tiny_text.byte_level())
    monkeypatch.setattr(codec, "_tokenizer", None)

    with pytest.raises(ContextOverflow, match=r"is 100 tokens.*at least 101 tokens"):
        codec.encode(TextPrompt("x" * 100 * codec.bound.token_bytes + "x"), context_tokens=100)


def test_a_conversation_that_cannot_fit_is_refused_once_it_is_rendered(tmp_path, monkeypatch):
    """Only what the template keeps of it counts."""
    template = "{{ messages[-1].content }}"
    codec = TextCodec.open(tiny_text.write(tmp_path, template=template), "model")
    long = Message(role="user", content="x" * 101 * codec.bound.token_bytes)
    short = Message(role="user", content="hello")

    assert codec.encode(ChatPrompt((long, short)), context_tokens=100)
    monkeypatch.setattr(codec, "_tokenizer", None)
    with pytest.raises(ContextOverflow):
        codec.encode(ChatPrompt((short, long)), context_tokens=100)


def test_bytes_are_counted_not_characters():
    """A character of four bytes counts for four."""
    assert TextBound(4).least_tokens("😀" * 3 + "a") == 4
