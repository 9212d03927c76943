"""Generated questions with known answers, and minimal pairs: what separates architectures."""

from service.core.probes.grading import graded
from service.core.probes.items import DEFAULT_LEVELS, KINDS, ProbeItem, ProbeKind, probe_items

__all__ = ["DEFAULT_LEVELS", "KINDS", "ProbeItem", "ProbeKind", "graded", "probe_items"]
