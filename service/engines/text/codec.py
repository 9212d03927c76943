"""TextCodec: a model's tokenizer and chat template, from prompts to token ids and back."""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from tokenizers import AddedToken, Tokenizer

from service.core.chat import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from service.core.errors import InvalidRequest, ModelNotReady
from service.core.ports import TextTokens, TokenizerInfo
from service.engines.text.bound_reader import read_bound
from service.engines.text.chat_template import CHATML, ChatTemplate, Rendered
from service.engines.text.text_bound import TextBound
from service.engines.text.token_bytes import TokenBytes

TemplateChoice = Literal["model", "chatml", "none"]
CHATML_END: Final = "<|im_end|>"
END_OF_TEXT: Final = "<|endoftext|>"
"""Stands between the documents that many models are trained on."""


class TextCodec:
    """The tokenizer and chat template of one model folder, without remote code. Thread-safe."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        named: dict[str, str],
        template: str | None,
        eos_ids: Iterable[int],
    ) -> None:
        """Wrap a tokenizer.

        Args:
            tokenizer: As read from `tokenizer.json`.
            named: Special tokens by role, e.g. `{"eos_token": "</s>"}`.
            template: Source of the chat template; None refuses conversations.
            eos_ids: Tokens that end an answer.
        """
        _register(tokenizer, named.values())
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._special = {token.content: token for token in added.values() if token.special}
        self._special_ids = {token.content: id_ for id_, token in added.items() if token.special}
        self._silent = frozenset(self._special_ids.values())
        self._bytes = TokenBytes(tokenizer)
        self._named = named
        self._template = (
            ChatTemplate(template, special_tokens=self._special, names=named)
            if template is not None
            else None
        )
        self.eos_ids = frozenset(eos_ids)
        """Tokens that end an answer."""
        self.strips_leading_space = self._bytes.strips_leading_space
        """Whether the tokenizer adds a space of its own before a text."""
        self.bound: TextBound | None = read_bound(
            tokenizer, self._bytes.spell, byte_level=self._bytes.byte_level
        )
        """Fewest tokens of a text; None where the tokenizer sets no bound."""

    @classmethod
    def open(cls, folder: Path, choice: TemplateChoice) -> "TextCodec":
        """Read a model folder. Raises ModelNotReady naming the file at fault."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelNotReady(f"{folder.name}: there is no tokenizer.json in the model's folder")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception for every fault of the file
            raise ModelNotReady(f"{folder.name}: tokenizer.json cannot be read: {error}") from error
        # Its post-processor says what a text begins and ends with: like transformers, this ignores
        # `add_bos_token` and `add_eos_token` of tokenizer_config.json where there is the file.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        settings = _read_json(folder / "tokenizer_config.json")
        named = _named_tokens(_read_json(folder / "special_tokens_map.json") | settings)
        return cls(
            tokenizer,
            named=named,
            template=_chatml(tokenizer, named)
            if choice == "chatml"
            else _template_source(folder, settings, choice),
            eos_ids=_eos_ids(folder, tokenizer, named, choice),
        )

    @cached_property
    def info(self) -> TokenizerInfo:
        """Special tokens and chat template."""
        return TokenizerInfo(
            bos_token=self._named.get("bos_token"),
            eos_token=self._named.get("eos_token"),
            pad_token=self._named.get("pad_token"),
            chat_template=self._template.source if self._template else None,
        )

    def encode(
        self,
        prompt: Prompt,
        *,
        add_special_tokens: bool = True,
        context_tokens: int | None = None,
    ) -> list[int]:
        """Tokenize a prompt. Raises InvalidRequest.

        Special tokens in plain text are control tokens, as with transformers and vLLM, since such
        prompts are often rendered by the client; in a conversation only the template's are. A
        template writes its own beginning of sequence; a plain text that starts with one gets no
        second. A text that cannot fit `context_tokens` is refused before it is tokenized: raises
        ContextOverflow.
        """
        match prompt:
            case TokenPrompt(token_ids=token_ids):
                return list(token_ids)
            case TextPrompt(text=text):
                self._check_length(text, context_tokens)
                return self._encode_text(text, add_special_tokens=add_special_tokens)
            case ChatPrompt():
                if self._template is None:
                    raise InvalidRequest(
                        "This is a base model without a chat template: use /v1/completions.",
                        param="messages",
                    )
                rendered = self._template.render(prompt)
                self._check_length(rendered.plain, context_tokens)
                return self._encode_rendered(rendered)

    def split(self, text: str, *, context_tokens: int) -> TextTokens:
        """Tokenize a plain text, its special tokens as text too, and tell where tokens begin."""
        reader = self._literal_readers[0]
        encoded = reader.encode_batch([text], add_special_tokens=False)[0]
        begins = text_begins(text, encoded.offsets)
        start_id = self._start_id
        return TextTokens(
            token_ids=tuple(encoded.ids),
            begins_bytes=begins,
            start_id=start_id,
            start_token=None if start_id is None else self._tokenizer.id_to_token(start_id),
            context_tokens=context_tokens,
        )

    @cached_property
    def _start_id(self) -> int | None:
        """What the tokenizer puts before a text, else beginning of text, else what ends one."""
        added = self._tokenizer.encode("").ids
        named = (self._named.get("bos_token"), END_OF_TEXT, self._named.get("eos_token"))
        ids = (self._tokenizer.token_to_id(token) for token in named if token)
        return next((id_ for id_ in (*added[:1], *ids) if id_ is not None), None)

    def message_start(self, prompt: ChatPrompt, token_ids: Sequence[int]) -> int:
        """Find where the last message of a conversation begins; 0 if that cannot be told.

        It is where the tokens of the prompt leave those of the conversation without that message.
        """
        if self._template is None or prompt.continue_final_message or not prompt.messages[1:]:
            return 0
        try:
            rendered = self._template.render(ChatPrompt(prompt.messages[:-1]), opens_answer=False)
        except InvalidRequest:  # a template may refuse to end with this message
            return 0
        pairs = zip(self._encode_rendered(rendered), token_ids, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 bytes that a token adds to an answer; none for a special token."""
        return b"" if token_id in self._silent else self._bytes[token_id]

    def token_text(self, token_id: int) -> str:
        """Text of one token, special ones included; U+FFFD for part of a character."""
        return self._bytes[token_id].decode("utf-8", "replace")

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of token ids."""
        read = self.token_bytes if skip_special_tokens else self._bytes.__getitem__
        data = b"".join(map(read, token_ids))
        if self.strips_leading_space:
            data = data.removeprefix(b" ")
        return data.decode("utf-8", "replace")

    def _check_length(self, text: str, context_tokens: int | None) -> None:
        if context_tokens is not None and self.bound is not None:
            self.bound.check(text, context_tokens=context_tokens)

    def _encode_text(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids = _encode(self._tokenizer, text, add_special_tokens=add_special_tokens)
        bos = self._named.get("bos_token")
        if bos and len(ids) > 1 and ids[0] == ids[1] == self._tokenizer.token_to_id(bos):
            del ids[0]
        return ids

    def _encode_rendered(self, rendered: Rendered) -> list[int]:
        if not rendered.literals:
            return _encode(self._tokenizer, rendered.text)
        return self._encode_guarded(rendered)

    def _encode_guarded(self, rendered: Rendered) -> list[int]:
        """Split at the template's special tokens, and tokenize the rest as plain text."""
        pieces = self._splitter.split(rendered.text)
        for index in range(1, len(pieces), 2):
            token = self._special[pieces[index]]
            if token.lstrip:
                pieces[index - 1] = pieces[index - 1].rstrip()
            if token.rstrip:
                pieces[index + 1] = pieces[index + 1].lstrip()
        restore = str.maketrans(rendered.literals)
        ids: list[int] = []
        for index, piece in enumerate(pieces):
            if index % 2:
                ids.append(self._special_ids[piece])
            elif piece:
                reader = self._literal_readers[bool(index)]
                ids += _encode(reader, piece.translate(restore))
        return ids

    @cached_property
    def _splitter(self) -> "re.Pattern[str]":
        ordered = sorted(self._special, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, ordered))})")

    @cached_property
    def _literal_readers(self) -> tuple[Tokenizer, Tokenizer]:
        """Tokenizers that take special tokens as plain text: at the text's start, and after it."""
        source = self._tokenizer.to_str()
        # Metaspace may put a space before the first piece of a text; later pieces must get none.
        later = source.replace('"prepend_scheme":"first"', '"prepend_scheme":"never"')
        readers = Tokenizer.from_str(source), Tokenizer.from_str(later)
        for reader in readers:
            reader.encode_special_tokens = True
        return readers


def text_begins(text: str, offsets: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Byte at which each token begins, from the characters that it covers.

    White space that a tokenizer leaves out of its offsets belongs to the token after it.
    """
    positions: Sequence[int] = range(len(text) + 1)
    if not text.isascii():
        positions = tuple(accumulate((len(char.encode()) for char in text), initial=0))
    begins: list[int] = []
    begin = covered = 0
    for first, end in offsets:
        begin = max(begin, min(first, covered))
        covered = max(covered, end)
        begins.append(positions[begin])
    return tuple(begins)


def _encode(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool = False) -> list[int]:
    # `Tokenizer.encode` holds the interpreter's lock for as long as it takes, and with it every
    # other thread: a megabyte of text would stop all models. Encoding a batch releases it.
    return tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids


class _GenerationConfig(Struct):
    eos_token_id: int | list[int] | None = None


def _register(tokenizer: Tokenizer, names: Iterable[str]) -> None:
    """Mark named tokens as special, as transformers does, where the file does not."""
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    missing = [
        name for name in names if name not in known and tokenizer.token_to_id(name) is not None
    ]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in missing])


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise ModelNotReady(f"{path.parent.name}: {path.name} cannot be read: {error}") from error


def _named_tokens(settings: dict[str, Any]) -> dict[str, str]:
    named = {}
    for role, value in settings.items():
        text = value.get("content") if isinstance(value, dict) else value
        if role.endswith("_token") and isinstance(text, str):
            named[role] = text
    return named


def _template_source(folder: Path, settings: dict[str, Any], choice: TemplateChoice) -> str | None:
    if choice == "none":
        return None
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    source = _read_json(folder / "chat_template.json").get("chat_template")
    source = source or settings.get("chat_template")
    if isinstance(source, list):
        named = {entry["name"]: entry["template"] for entry in source}
        source = named.get("default")
    if not isinstance(source, str):
        raise ModelNotReady(
            f"{folder.name}: the tokenizer ships no chat template; set `chat_template` to "
            "`chatml` or `none` in the model's file"
        )
    return source


def _chatml(tokenizer: Tokenizer, named: dict[str, str]) -> str:
    """Return ChatML, with a beginning of sequence if the tokenizer adds one to every text."""
    bos_id = tokenizer.token_to_id(named.get("bos_token", ""))
    begins = bos_id is not None and tokenizer.encode("").ids[:1] == [bos_id]
    return "{{ bos_token }}" + CHATML if begins else CHATML


def _eos_ids(
    folder: Path, tokenizer: Tokenizer, named: dict[str, str], choice: TemplateChoice
) -> set[int]:
    """Collect end tokens: the generation config's, else the config's, and the tokenizer's."""
    ids: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        eos = msgspec.convert(_read_json(folder / name), _GenerationConfig).eos_token_id
        if eos is not None:
            ids = {eos} if isinstance(eos, int) else set(eos)
            break
    names = [named.get("eos_token"), CHATML_END if choice == "chatml" else None]
    return ids | {
        id_ for name in names if name and (id_ := tokenizer.token_to_id(name)) is not None
    }
