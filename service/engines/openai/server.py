"""Address of a server of the OpenAI API, and the time that it is given."""

import os
import re
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from model_registry.spec import Remote, ResolvedModel
from service.core.chat.sampling import ServerKind
from service.core.errors import ModelNotReady

#: URLs, IP addresses, hosts with a port, and absolute paths of files, Windows' too.
_ADDRESS: Final = re.compile(
    r"""\b[a-z][a-z0-9+.-]*://[^\s'"]+
    | \[[0-9a-f:.]*:[0-9a-f:.]*\](?::\d+)?
    | (?<![\w:])(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}\b
    | (?<![\w:])(?:[0-9a-f]{1,4}:){1,6}(?::[0-9a-f]{1,4}){1,6}\b
    | \b[a-z]:\\[^\s'"]+
    | \b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b
    | \b(?:localhost|[a-z0-9-]+(?:\.[a-z0-9-]+)+):\d{2,5}\b
    | (?<![\w/])/[^\s/'"]+/[^\s'"]+""",
    re.IGNORECASE | re.VERBOSE,
)
_HIDDEN: Final = "…"


class OpenAiServer(Struct, frozen=True, kw_only=True):
    """Server that answers for a model."""

    base_url: str
    """Up to and including `/v1`."""
    model: str
    """Name of the model there."""
    api_key: str | None = None
    uds: str | None = None
    """Path of the UNIX socket that it listens on."""
    dialect: ServerKind | None = None
    """None: found out at the start."""
    connect_s: float = 10.0
    first_byte_s: float = 300.0
    """Longest silence before the first token of an answer; keep-alive comments break it."""
    between_tokens_s: float = 60.0
    """Longest wait between two tokens of an answer, comments notwithstanding."""

    def __repr__(self) -> str:
        return f"<OpenAiServer {self.model} at {self.address}>"

    @property
    def address(self) -> str:
        """Address of the server, for logs only; never shown to clients."""
        return self.uds or self.base_url

    def hide_addresses(self, text: str) -> str:
        """Replace addresses and paths in a text that clients will read."""
        text = _ADDRESS.sub(_HIDDEN, text)
        where = urlsplit(self.base_url)
        # Over a socket the host is only a name to fill the URL with.
        for part in (self.uds,) if self.uds else (where.netloc, where.hostname):
            if part:
                text = re.sub(rf"(?<!\w){re.escape(part)}(?!\w)", _HIDDEN, text)
        return text


def remote_server(model: ResolvedModel) -> OpenAiServer:
    """Return the server that the catalogue names. Raises ModelNotReady if its key is not set."""
    remote: Remote | None = model.spec.remote
    assert remote is not None  # the catalogue sees to it
    api_key = None
    if remote.api_key_env:
        api_key = os.environ.get(remote.api_key_env)
        if not api_key:
            raise ModelNotReady(
                f"{model.id}: the environment variable {remote.api_key_env}, which holds the API "
                "key of its server, is not set"
            )
    return OpenAiServer(
        base_url=remote.base_url,
        model=remote.model or model.spec.id,
        api_key=api_key,
        connect_s=remote.connect_s,
        first_byte_s=remote.first_byte_s,
        between_tokens_s=remote.between_tokens_s,
    )
