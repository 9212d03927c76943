"""Body fields outside the schema: known ones are refused by name, others ignored and logged."""

import logging
from collections.abc import Collection

import msgspec
from msgspec import Raw

from service.core.errors import UnsupportedField

log = logging.getLogger(__name__)

#: Fields that other servers obey and this one does not, with the values that change nothing.
#: Ignoring them would answer another question than was asked.
REFUSED: dict[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "function_call": ("none",),
    "functions": ([],),
    "grammar": ("",),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "json_schema": (),
    "length_penalty": (1,),
    "modalities": (["text"],),
    "n": (1,),
    "prediction": (),
    "prompt_logprobs": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "stop_token_ids": ([],),
    "store": (False,),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "web_search_options": (),
}

#: Fields that only label a request or concern features without effect here.
IGNORED = frozenset({"metadata", "parallel_tool_calls", "service_tier", "safety_identifier"})

_decoder = msgspec.json.Decoder(dict[str, Raw])


class FieldCheck:
    """Checks bodies; remembers which unknown names were logged, so that each is logged once."""

    #: Names that are remembered; more would let a client fill the log and the memory.
    most_names = 256

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def check(self, body: bytes, known: Collection[str]) -> None:
        """Raise UnsupportedField for the first field that is refused with its value."""
        for name, raw in _decoder.decode(body).items():
            if name in known or name in IGNORED:
                continue
            if name in REFUSED:
                _refuse(name, msgspec.json.decode(raw))
            elif name not in self._logged and len(self._logged) < self.most_names:
                self._logged.add(name)
                log.info("ignored the unknown request field %.64r", name)


def _refuse(name: str, value: object) -> None:
    if value is None or value in REFUSED[name]:
        return
    raise UnsupportedField(f"`{name}` is not supported.", param=name)
