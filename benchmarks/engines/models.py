"""The models that are measured, and where they lie."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
#: Made by `random_models.py` and `to_gguf.py`; git ignores it.
CACHE: Final = ROOT / "data" / "benchmark-models"
REFERENCE: Final = ROOT / "model_registry" / "reference" / "weights"

MODELS: Final = {
    "smollm2-135m": ROOT / "data" / "models" / "smollm2-135m-instruct",
    "mamba-130m": CACHE / "mamba-130m",
    "mamba2-130m": CACHE / "mamba2-130m",
    "falcon-h1-130m": CACHE / "falcon-h1-130m",
    "reference-transformer": REFERENCE / "transformer",
    "reference-ssm": REFERENCE / "ssm",
    "reference-hybrid": REFERENCE / "hybrid",
}
GGUF_TYPES: Final = ("bf16", "q8_0")


def folder(model: str) -> Path:
    """The folder of a model. Raises SystemExit with the command that makes it."""
    path = MODELS[model]
    if not (path / "config.json").is_file():
        hint = (
            "python benchmarks/engines/random_models.py"
            if CACHE in path.parents
            else f"triptych models pull {path.name}"
        )
        raise SystemExit(f"{model} is not in {path}; run: {hint}")
    return path


def gguf(model: str, kind: str) -> Path:
    """The GGUF file of a model, whether it is there or not."""
    return CACHE / "gguf" / f"{model}-{kind}.gguf"
