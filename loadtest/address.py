"""Address of the service under test, and encoding of requests to it."""

from urllib.parse import urlsplit

from msgspec import Struct

from loadtest.errors import LoadTestError

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Address(Struct, frozen=True, kw_only=True):
    """A base URL in its parts."""

    tls: bool
    host: str
    port: int
    prefix: str
    """Path before `/v1`, without a slash at its end; usually empty."""

    @classmethod
    def parse(cls, base_url: str) -> "Address":
        """Parse a URL such as `http://127.0.0.1:8000`. Raises LoadTestError."""
        try:
            parts = urlsplit(base_url)
            port = parts.port
        except ValueError as error:
            raise LoadTestError(f"{base_url!r} is not a URL: {error}") from error
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise LoadTestError(
                f"{base_url!r} needs a scheme and a host, as in http://127.0.0.1:8000"
            )
        return cls(
            tls=parts.scheme == "https",
            host=parts.hostname,
            port=port or _DEFAULT_PORTS[parts.scheme],
            prefix=parts.path.rstrip("/"),
        )

    @property
    def local(self) -> bool:
        """The service is on this machine, and shares its monotonic clock."""
        return self.host in {"localhost", "127.0.0.1", "::1"}

    def post(self, path: str, body: bytes, *, request_id: str) -> bytes:
        """An HTTP/1.1 request with a JSON body, head and body together."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = (
            f"POST {self.prefix}{path} HTTP/1.1",
            f"host: {host}:{self.port}",
            "accept: text/event-stream",
            "accept-encoding: identity",
            "content-type: application/json",
            f"content-length: {len(body)}",
            f"x-request-id: {request_id}",
            "user-agent: triptych-loadtest",
        )
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
