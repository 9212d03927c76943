"""Who holds how much, over HTTP."""

import os


def test_memory_has_budget_models_processes_and_device(serve):
    """Every model whose files are here has a row, and unknown is null."""
    report = serve().get("/v1/memory").json()
    assert report["budget_bytes"] > 0
    assert report["free_bytes"] == report["budget_bytes"] - report["used_bytes"]
    rows = {row["id"]: row for row in report["models"]}
    assert rows["echo"]["status"] == "ready"
    assert (rows["echo"]["engine"], rows["echo"]["weights_bytes"]) == ("echo", 0)
    assert rows["echo:half"]["weights_bytes"] is None
    (service,) = report["processes"]
    assert (service["name"], service["pid"]) == ("service", os.getpid())
    assert service["rss_bytes"] > 10_000_000
    assert report["device"] == {"name": "cpu", "allocated_bytes": None, "reserved_bytes": None}


def test_the_budget_is_the_one_that_was_set(serve):
    """A size as people write it."""
    report = serve(memory_budget="1.5MiB").get("/v1/memory").json()
    assert report["budget_bytes"] == 1_572_864
