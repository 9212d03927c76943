"""From a folder with `config.json` and safetensors to a model with slots."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from model_registry.spec import ResolvedModel
from service.core.errors import ModelNotReady
from service.core.events import ModelBuild
from service.engines.torch.messages import LoadProgress
from service.engines.torch.model import SlotModel

ENGINE_VERSION = f"torch {torch.__version__}, transformers {transformers.__version__}"
#: Which kernels run: transformers' modelling code, operator by operator.
KERNEL_PATH = "transformers-eager"

#: `model_type`s that the equality suite holds against `transformers.generate`.
SERVED = frozenset(
    {
        "bamba",
        "falcon_h1",
        "falcon_mamba",
        "gemma3_text",
        "granitemoehybrid",
        "jamba",
        "lfm2",
        "llama",
        "mamba",
        "mamba2",
        "nemotron_h",
        "phi3",
        "phimoe",
        "qwen2",
        "qwen3",
        "qwen3_5",
        "qwen3_5_text",
        "qwen3_next",
        "zamba2",
    }
)
_STATE_ON_MODULE = (
    "transformers keeps its recurrent state on the module rather than in the cache, so one loaded "
    "model cannot answer two requests"
)
REFUSED = {"recurrent_gemma": _STATE_ON_MODULE, "rwkv": _STATE_ON_MODULE}


def load(
    resolved: ResolvedModel, *, slots: int, progress: Callable[[LoadProgress], None]
) -> SlotModel:
    """Load a model. Raises ModelNotReady with the reason and the fix."""
    check(resolved)
    with _reported(resolved, progress):
        network = _network(resolved)
    progress(LoadProgress(model_id=resolved.id, stage="slots"))
    build = ModelBuild(
        weights_sha256=resolved.weights_sha256,
        dtype=resolved.dtype,
        quantization=resolved.quantization,
        engine="torch",
        engine_version=ENGINE_VERSION,
        device=device_name(),
        kernel_path=KERNEL_PATH,
    )
    try:
        return SlotModel(network, resolved, build, slots=slots)
    except ModelNotReady:
        raise
    except Exception as error:  # modelling code that cannot run here fails in any way it likes
        raise ModelNotReady(
            f"{resolved.id}: {ENGINE_VERSION} cannot run this model: {error}"
        ) from error


def check(resolved: ResolvedModel) -> None:
    """Raises ModelNotReady if the model is of a kind that is not served."""
    if resolved.quantization is not None:
        raise ModelNotReady(
            f"{resolved.id}: the torch engine has no {resolved.quantization} kernels yet; "
            f"use {resolved.spec.id}"
        )
    kind = str(_read_config(resolved).get("model_type"))
    if kind in REFUSED:
        raise ModelNotReady(f"{resolved.id}: model type {kind!r} is refused: {REFUSED[kind]}")
    if kind not in SERVED:
        raise ModelNotReady(
            f"{resolved.id}: unknown model type {kind!r}; served are {', '.join(sorted(SERVED))}"
        )


def device() -> torch.device:
    """Where models are held: the first CUDA device, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """The device as records name it."""
    chosen = device()
    return "cpu" if chosen.type == "cpu" else f"{chosen} {torch.cuda.get_device_name(chosen)}"


def _read_config(resolved: ResolvedModel) -> Mapping[str, Any]:
    path = Path(resolved.path) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelNotReady(
            f"{resolved.id}: {path} cannot be read; `triptych models pull {resolved.spec.id}` "
            "fetches the model"
        ) from error
    if not isinstance(config, dict):
        raise ModelNotReady(f"{resolved.id}: {path} is not a JSON object")
    return config


def _network(resolved: ResolvedModel) -> PreTrainedModel:
    try:
        network: PreTrainedModel
        report: dict[str, Any]
        network, report = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
            resolved.path,
            dtype=getattr(torch, resolved.dtype),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # files can be wrong in many ways; each is a model that cannot load
        raise ModelNotReady(f"{resolved.id}: the weights cannot be loaded: {error}") from error
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:5])
        raise ModelNotReady(
            f"{resolved.id}: {len(report['missing_keys'])} tensors are missing from the weights "
            f"({missing}…): they do not fit {resolved.path}/config.json"
        )
    network.eval().requires_grad_(requires_grad=False)
    network.to(device())  # type: ignore[arg-type]
    return network


@contextmanager
def _reported(resolved: ResolvedModel, progress: Callable[[LoadProgress], None]) -> Iterator[None]:
    """Report bytes while transformers goes through the tensors, in proportion to their number."""
    total = sum(file.stat().st_size for file in Path(resolved.path).glob("*.safetensors"))

    def report(done: int, of: int) -> None:
        progress(
            LoadProgress(
                model_id=resolved.id,
                stage="weights",
                done_bytes=total * done // of,
                total_bytes=total,
            )
        )

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        if len(args) == 1 and hasattr(args[0], "__len__"):
            return _counted(args[0], report)
        return factory(*args, **kwargs)

    report(0, 1)
    previous = transformers_logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(previous)
    report(1, 1)


def _counted(items: Any, report: Callable[[int, int], None]) -> Iterator[Any]:  # noqa: ANN401
    step = max(len(items) // 100, 1)
    for done, item in enumerate(items):
        if done % step == 0:
            report(done, len(items))
        yield item
