"""Recorded prompts: what of a record can be asked again, and why others cannot."""

from typing import Literal

import msgspec

from service.core.chat import TokenPrompt
from service.core.chat.stored import read_prompt, read_sampling
from service.core.experiments.plan import RecordPrompts
from service.core.record import RequestRecord
from service.serving.experiments.prompts import GivenPrompt

Unusable = Literal["no_content", "tokens", "logit_bias", "parameters", "not_ok", "not_of_a_client"]
"""Why a record's prompt is not asked again: it was not stored; it is token ids, or its parameters
name token ids, of one model; its parameters cannot be read; it did not end well; the service made
the request itself."""


def recorded_prompt(record: RequestRecord, prompts: RecordPrompts) -> GivenPrompt | Unusable:
    """The prompt of a record, with its parameters if they are to be kept."""
    if prompts.keep_parameters and (refused := _not_comparable(record)) is not None:
        return refused
    if record.prompt_content is None:
        return "no_content"
    prompt = read_prompt(record.prompt_content)
    if isinstance(prompt, TokenPrompt):
        return "tokens"
    try:
        sampling = read_sampling(record.sampling)
    except msgspec.ValidationError:
        return "parameters"
    if prompts.keep_parameters and sampling.logit_bias:
        return "logit_bias"
    return GivenPrompt(
        id=record.request_id,
        prompt=prompt,
        new_tokens=sampling.max_tokens if prompts.new_tokens is None else prompts.new_tokens,
        sampling=sampling if prompts.keep_parameters else None,
    )


def _not_comparable(record: RequestRecord) -> Unusable | None:
    """Why a replay would have nothing to be compared with."""
    if record.endpoint not in ("chat", "completion", "compare") or record.shadow_of is not None:
        return "not_of_a_client"
    return None if record.status == "ok" else "not_ok"
