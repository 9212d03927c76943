"""Body fields that the endpoint does not have: known ones are refused, others logged once."""

import logging
from collections.abc import Collection

import msgspec
from msgspec import Raw

from service.api.body import decode_body
from service.core.errors import UnsupportedField

log = logging.getLogger(__name__)

#: Fields that other servers or other endpoints obey, with the values that change nothing.
#: Ignoring them would answer another question than was asked. An endpoint that has the field
#: itself does not look here.
REFUSED: dict[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "add_special_tokens": (True,),
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "grammar": ("",),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "json_schema": (),
    "length_penalty": (1,),
    "logprobs": (False,),
    "messages": (),
    "modalities": (["text"],),
    "model": (),
    "n": (1,),
    "prediction": (),
    "prompt": (),
    "prompt_logprobs": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "return_token_ids": (False,),
    "return_token_strs": (False,),
    "stop_token_ids": ([],),
    "store": (False,),
    "stream": (False,),
    "stream_options": (),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_call_id": (),
    "tool_calls": ([],),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_logprobs": (0,),
    "truncate_prompt_tokens": (),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "web_search_options": (),
}

#: Fields that only label a request or concern features without effect here.
IGNORED = frozenset(
    {"metadata", "parallel_tool_calls", "service_tier", "safety_identifier", "user"}
)

_decoder = msgspec.json.Decoder(dict[str, Raw])


class FieldCheck:
    """Checks bodies, and logs each unknown name once."""

    #: Most names that are logged; more would let a client fill the log and the memory.
    most_names = 256

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def check(self, body: bytes, known: Collection[str]) -> None:
        """Raise UnsupportedField for the first field that is refused with its value."""
        for name, raw in _decoder.decode(body).items():
            if name in known or name in IGNORED:
                continue
            if name in REFUSED:
                _refuse(name, decode_body(bytes(raw), object))
            elif name not in self._logged and len(self._logged) < self.most_names:
                self._logged.add(name)
                log.info("ignored the unknown request field %.64r", name)


def _refuse(name: str, value: object) -> None:
    if value is None or any(_equal(value, harmless) for harmless in REFUSED[name]):
        return
    raise UnsupportedField(f"`{name}` is not supported.", param=name)


def _equal(value: object, harmless: object) -> bool:
    """Compare JSON values: `true` is not 1."""
    return isinstance(value, bool) == isinstance(harmless, bool) and value == harmless
