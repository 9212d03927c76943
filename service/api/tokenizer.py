"""Tokenizer endpoints, as evaluation harnesses use them."""

from typing import Annotated

from litestar import get, post
from litestar.params import JSONBody, QueryParameter
from msgspec import Meta, Struct

from service.api.openai.prompt import messages
from service.api.openai.routes import Fields, HttpRequest, ModelInPath
from service.api.openai.schema import MOST_MESSAGES, ModelName, WireMessage
from service.api.services import Deps
from service.core.chat import ChatPrompt, Prompt, TextPrompt
from service.core.chat.sampling import TokenId
from service.core.errors import InvalidRequest
from service.core.ports import Engine, TokenizerInfo, Tokenizing
from service.serving.models.pool import Pool


class TokenizeBody(Struct, frozen=True, kw_only=True):
    """Text or conversation to tokenize."""

    prompt: str | None = None
    messages: Annotated[list[WireMessage], Meta(min_length=1, max_length=MOST_MESSAGES)] | None = (
        None
    )
    """Rendered with the model's chat template."""
    add_special_tokens: bool | None = None
    """Default true."""
    model: ModelName | None = None
    """Optional if only one model is loaded."""


class Tokens(Struct, frozen=True, kw_only=True):
    """Token ids of a prompt."""

    tokens: list[int]
    count: int
    max_model_len: int
    model: str


class DetokenizeBody(Struct, frozen=True, kw_only=True):
    """Token ids to decode."""

    tokens: list[TokenId]
    model: ModelName | None = None
    """Optional if only one model is loaded."""


class DetokenizedText(Struct, frozen=True, kw_only=True):
    """Text of token ids."""

    prompt: str
    model: str


@post(
    ["/tokenize", "/m/{model:str}/tokenize"], status_code=200, summary="Tokenize a prompt",
    tags=["tokenizer"],
)  # fmt: skip
async def tokenize(
    data: JSONBody[TokenizeBody],
    request: HttpRequest,
    services: Deps,
    fields: Fields,
    model: ModelInPath = None,
) -> Tokens:
    """Return exactly the tokens that the model would be given."""
    fields.check(await request.body(), TokenizeBody.__struct_fields__)
    name = only_loaded(services.pool, model or data.model)
    special = data.add_special_tokens is not False
    with services.pool.admit(name) as lease:
        engine = await lease.ready()
        async with services.chat.gate.shared():  # it would disturb an isolated measurement
            tokens = await _tokenizing(engine).tokenize(_prompt(data), add_special_tokens=special)
    return Tokens(
        tokens=list(tokens),
        count=len(tokens),
        max_model_len=engine.model.spec.context_tokens,
        model=name,
    )


@post(
    ["/detokenize", "/m/{model:str}/detokenize"], status_code=200, summary="Decode tokens",
    tags=["tokenizer"],
)  # fmt: skip
async def detokenize(
    data: JSONBody[DetokenizeBody],
    request: HttpRequest,
    services: Deps,
    fields: Fields,
    model: ModelInPath = None,
) -> DetokenizedText:
    """Return the text of tokens, special tokens included."""
    fields.check(await request.body(), DetokenizeBody.__struct_fields__)
    name = only_loaded(services.pool, model or data.model)
    with services.pool.admit(name) as lease:
        engine = await lease.ready()
        async with services.chat.gate.shared():
            text = await _tokenizing(engine).detokenize(data.tokens)
    return DetokenizedText(prompt=text, model=name)


@get(
    ["/tokenizer_info", "/m/{model:str}/tokenizer_info"],
    summary="Special tokens and chat template",
    tags=["tokenizer"],
)
async def describe_tokenizer(
    services: Deps,
    model: ModelInPath = None,
    named: Annotated[str | None, QueryParameter(name="model")] = None,
) -> TokenizerInfo:
    """Return special tokens and the chat template."""
    name = only_loaded(services.pool, model or named)
    with services.pool.admit(name) as lease:
        return await _tokenizing(await lease.ready()).tokenizer_info()


def only_loaded(pool: Pool, named: str | None) -> str:
    """Return the model that is named, or the only one that is loaded."""
    if named:
        return named
    loaded = [name for name, hosted in pool.models.items() if hosted.engine is not None]
    if len(loaded) == 1:
        return loaded[0]
    raise InvalidRequest(
        f"`model` is missing, and {len(loaded)} models are loaded; name one, or use the path "
        "/m/MODEL.",
        param="model",
    )


def _prompt(body: TokenizeBody) -> Prompt:
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("Give either `prompt` or `messages`.", param="prompt")
    if body.messages is not None:
        return ChatPrompt(messages(body.messages))
    return TextPrompt(body.prompt or "")


def _tokenizing(engine: Engine) -> Tokenizing:
    if not isinstance(engine, Tokenizing):
        raise InvalidRequest(f"The engine of {engine.model.id} does not expose its tokenizer.")
    return engine
