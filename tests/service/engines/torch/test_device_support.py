"""Which models the torch engine runs on which device."""

import pytest

from model_registry.spec import ModelSpec, ResolvedModel, Variant
from service.core.errors import ModelNotReady
from service.engines.torch.device_support import check, uncompiled

GPU = "cuda:0 NVIDIA L4"


def model(quantization=None):
    spec = ModelSpec(
        id="m", family="transformer", licence="x", context_tokens=64, sources=(),
        variants={"v": Variant(quantization=quantization)},
    )  # fmt: skip
    return ResolvedModel(spec=spec, variant="v", path="", weights_sha256=None)


@pytest.mark.parametrize("quantization", ["int8", "int4", "gguf"])
def test_quantized_weights_are_refused_on_a_gpu(quantization):
    """Their kernels are compiled for the CPU; the reason names the device and the way out."""
    with pytest.raises(ModelNotReady, match=rf"m:v: {quantization} .* on the CPU only.*L4; use m"):
        check(model(quantization), device=GPU, kernels="auto")
    check(model(quantization), device="cpu", kernels="auto")


def test_plain_weights_run_on_a_gpu_without_compiled_kernels():
    """Which is said, unless compiled kernels are asked for: then it is refused."""
    check(model(), device=GPU, kernels="auto")

    assert "CPU only" in uncompiled(device=GPU, kernels="auto")
    with pytest.raises(ModelNotReady, match=r'torch.kernels is "compiled", but .*L4'):
        check(model(), device=GPU, kernels="compiled")


def test_eager_kernels_refuse_quantized_weights():
    """On any device."""
    with pytest.raises(ModelNotReady, match=r'int8 .*torch.kernels is "eager"'):
        check(model("int8"), device="cpu", kernels="eager")
    check(model(), device="cpu", kernels="eager")
