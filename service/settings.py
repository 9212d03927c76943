"""Settings: decoded strictly from TOML, overridden by options, frozen."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from service.core.errors import ConfigError
from service.core.routes.route import Route, RouteId
from service.core.sizes import parse_bytes


def _size(name: str, value: int | str) -> int | None:
    """Bytes that a setting names; None for `auto`. Raises ValueError naming the setting."""
    match value:
        case "auto":
            return None
        case str(text) if not text.isdecimal():
            try:
                return parse_bytes(text)
            except ValueError as error:
                raise ValueError(f"{name}: {error}, or `auto`") from None
        case count:
            return int(count)


class TorchSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[torch]`: the engine that computes on this machine."""

    threads: Annotated[int, Meta(ge=0)] = 0
    """Compute threads; 0: `OMP_NUM_THREADS` of the environment, else all cores."""
    kernels: Literal["auto", "compiled", "eager"] = "auto"
    """Compiled programs or transformers' own code; `auto` compiles every supported architecture."""
    max_itl_ms: Annotated[float, Meta(gt=0)] = 100.0
    """Inter-token latency of running answers, in milliseconds, that prefill should not exceed."""


class PrefixCacheSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[prefix_cache]`: states of earlier prompts that the torch engine keeps."""

    enabled: bool = True
    """Continue prompts that begin like earlier ones where these ended."""
    max_bytes: int | str = "auto"
    """Most memory for them, as `"1GiB"` or in bytes; `"auto"`: 10 % of the memory budget. They
    only ever take what models and running requests leave of the budget."""

    def __post_init__(self) -> None:
        """Raise ValueError for a cap that is not a size."""
        if (_size("max_bytes", self.max_bytes) or 0) < 0:
            raise ValueError(f"max_bytes: {self.max_bytes!r} is less than nothing")

    def bytes_of(self, budget_bytes: int) -> int:
        """The cap, given the memory budget."""
        if not self.enabled:
            return 0
        count = _size("max_bytes", self.max_bytes)
        return min(budget_bytes // 10 if count is None else count, budget_bytes)


class VllmSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[vllm]`: options of vLLM for the models that name it as their engine."""

    python: str = ""
    """Interpreter that has vLLM; empty: `.venv-vllm/bin/python`, else the service's own."""
    arguments: tuple[str, ...] = ()
    """Further arguments of `vllm serve`."""
    kv_cache_bytes: Annotated[int, Meta(gt=0)] = 1_073_741_824
    """Memory for the state of all requests of one model."""
    max_context_tokens: Annotated[int, Meta(ge=0)] = 0
    """Longest context that vLLM serves; 0: the model's own."""
    compile: bool = True
    """Compile models at start: minutes at first, then half a minute more than without."""
    threads: Annotated[int, Meta(ge=0)] = 0
    """Threads that a model computes with on the CPU; 0: as many as the torch engine by default."""
    start_s: Annotated[float, Meta(gt=0)] = 900.0
    """Time limit of a start, in seconds."""


class CompareSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[compare]`: comparisons and experiments are guests among other requests."""

    enabled: bool = True
    """Answer `/v1/compare` and run experiments; otherwise they get 403."""
    max_wait_s: Annotated[float, Meta(ge=0)] = 30.0
    """Longest wait of an isolated arm for an idle machine, in seconds."""
    max_stall_s: Annotated[float, Meta(ge=0)] = 10.0
    """Longest time any other request is held back for an isolated arm, in seconds."""
    max_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """Largest share of the time in which isolated arms may hold others back."""


class PowerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[power]`: energy of requests where the machine has no readable counter."""

    watts: Annotated[float, Meta(ge=0)] = 0.0
    """Power of the device under load, in watts, where its counter cannot be read: the energy of a
    request is then an `estimate`; 0: it is unknown."""


class HttpSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[http]`: time limits of connections."""

    idle_s: Annotated[float, Meta(gt=0)] = 60.0
    """Close a connection after this many idle seconds between requests."""
    head_s: Annotated[float, Meta(gt=0)] = 10.0
    """Time limit for the headers of a request to arrive, in seconds."""
    body_s: Annotated[float, Meta(gt=0)] = 60.0
    """Time limit for the body of a request to arrive, in seconds."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the service; the keys of the TOML file given with `--config`."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    """Port to listen on; 0 picks a free one."""
    data_dir: str = "data"
    """Folder for records, pulled models and the host's socket; created if missing."""
    models: tuple[str, ...] = ()
    """Folders with additional catalogue files."""
    preload: tuple[str, ...] = ("reference-transformer", "reference-ssm", "reference-hybrid")
    """Models to load at start; all others load at their first request."""
    slots: Annotated[int, Meta(ge=1, le=1024)] = 32
    """Requests that one model answers at once."""
    max_queued_requests: Annotated[int, Meta(ge=0)] = 256
    """Requests that may wait or run for one model; more get 503."""
    memory_budget: int | str = "auto"
    """Memory for models and their requests, as `"8GiB"` or in bytes; `"auto"`: 80 % of the memory
    that is free at startup."""
    max_waiting_for_memory: Annotated[int, Meta(ge=0)] = 256
    """Loads and requests that may wait for memory; more get 503."""
    idle_ttl_s: Annotated[float, Meta(ge=0)] = 0.0
    """Unload a model after this many idle seconds; 0: never."""
    prefill_chunk_tokens: Annotated[int, Meta(ge=1)] = 256
    """Longest chunk of a prompt that is prefilled between two decode steps."""
    max_body_bytes: Annotated[int, Meta(ge=1024)] = 1_048_576
    """Largest request body."""
    max_answer_tokens: Annotated[int, Meta(ge=1)] = 4096
    """Largest `max_tokens`, and the default where a request names none."""
    keepalive_s: Annotated[float, Meta(gt=0)] = 10.0
    """Longest silence of a stream, in seconds, before a comment line is sent."""
    stall_s: Annotated[float, Meta(gt=0)] = 60.0
    """Kill an engine that makes no step for this many seconds while requests run."""
    drain_s: Annotated[float, Meta(ge=0)] = 30.0
    """Time that a shutdown waits for running requests, in seconds."""
    request_timeout_s: Annotated[float, Meta(ge=0)] = 0.0
    """Time limit of a request in seconds, default and maximum of `timeout_s`; 0: none."""
    always_include_usage: bool = False
    """Send a usage chunk in every stream, asked for or not."""
    store_content: Literal["none", "full"] = "none"
    """Store prompts and answers with the records."""
    torch: TorchSettings = TorchSettings()
    prefix_cache: PrefixCacheSettings = PrefixCacheSettings()
    vllm: VllmSettings = VllmSettings()
    compare: CompareSettings = CompareSettings()
    http: HttpSettings = HttpSettings()
    power: PowerSettings = PowerSettings()
    probe: bool = True
    """Run the conformance probe when a model is loaded; a model that fails is marked unverified."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    routes: dict[RouteId, Route] = {}
    """Model ids that name several arms."""

    def __post_init__(self) -> None:
        """Raise ValueError for a budget that is not a size; msgspec names the key."""
        if self.memory_budget_bytes is not None and self.memory_budget_bytes <= 0:
            raise ValueError(f"memory_budget: {self.memory_budget!r} leaves no memory for models")

    @property
    def memory_budget_bytes(self) -> int | None:
        """The budget in bytes; None if it is to be determined at startup."""
        return _size("memory_budget", self.memory_budget)


def load_settings(path: Path | None, overrides: dict[str, Any]) -> Settings:
    """Settings from a TOML file and options that override it. Raises ConfigError naming the key."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: is not valid TOML: {error}") from error
    values |= overrides
    try:
        return msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path or 'options'}: {error}; see `triptych serve --help`") from error
