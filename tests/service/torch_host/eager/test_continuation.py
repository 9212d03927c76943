"""The repairs reach the models that are served from slots, and no others."""

import threading

import torch
from transformers import DynamicCache
from transformers.models.mamba import modeling_mamba

from support import tiny_models


@torch.inference_mode()
def continued(network: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Logits of the last token after a prompt in two pieces through transformers' own cache."""
    cache = DynamicCache(config=network.config)
    network(ids[:, :9], cache_params=cache, use_cache=True)
    return network(ids[:, 9:], cache_params=cache, use_cache=True).logits[0, -1]


def test_other_models_keep_transformers_scan(tiny_model):
    """A model of the same class that is not in slots runs as transformers wrote it.

    That includes the state that restarts at zero: if this fails because the pieces now agree,
    transformers has repaired the scan and `_scan_from_state` can go.
    """
    model = tiny_model("mamba", kernels="eager")
    network = tiny_models.network("mamba")
    ids = torch.arange(3, 20)[None]

    with torch.inference_mode():
        whole = network(ids).logits[0, -1]
    slot = model.take()
    served = model.prefill(slot, ids[0, :9].tolist())
    served = model.prefill(slot, ids[0, 9:].tolist())
    model.release(slot)

    torch.testing.assert_close(served, whole, atol=1e-3, rtol=0)
    assert not torch.allclose(continued(network, ids), whole, atol=1e-2)


def test_a_hand_over_stays_in_its_thread(tiny_model):
    """A thread that loads a Mamba does not see the state of one that is being served."""
    tiny_model("mamba", kernels="eager")
    scan = modeling_mamba.mamba_selective_scan
    scan._handed.over = torch.zeros(1)
    seen = []
    other = threading.Thread(target=lambda: seen.append(getattr(scan._handed, "over", None)))
    other.start()
    other.join()
    scan._handed.over = None

    assert seen == [None]
