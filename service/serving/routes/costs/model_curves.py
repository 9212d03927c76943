"""Model curves: the costs of one model's requests as functions of length and load."""

import statistics
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from service.core.routes.curves import AskedCost
from service.core.routes.facts import Prediction
from service.serving.routes.costs.fit import Fit, fit
from service.serving.routes.costs.observation import Observation

#: Latest observations that are kept of each octave of prompt lengths: a flood of short prompts
#: leaves what is known of long ones.
KEPT_PER_OCTAVE: Final = 64
#: Share of new observations after which curves are fitted again.
_REFIT_SHARE: Final = 8
#: Answers whose median is the typical length.
_ANSWERS: Final = 128

_Terms = Callable[[Observation], Sequence[float]]


class _Fits(Struct, frozen=True, kw_only=True):
    wait: Fit | None
    prefill: Fit | None
    tpot: Fit | None
    state: Fit | None
    energy: Fit | None
    tokens: Fit | None
    e2e_ms: float | None
    """Mean of a request without its wait: how fast slots become free."""


class ModelCurves:
    """Latest observations of a model, and the curves through them.

    prefill = a + b·L + c·L² + d·L·others over the L prompt tokens that are computed; TPOT = a +
    b·context + c·others, with the mean context of the answer; wait = a + b·others; state = a +
    b·tokens at the end; energy = a + b·L + c·answer; prompt tokens = a + b·bytes. No coefficient
    is negative.
    """

    def __init__(self) -> None:
        self._octaves: dict[int, deque[Observation]] = {}
        self._answers: deque[int] = deque(maxlen=_ANSWERS)
        self._fits: _Fits | None = None
        self._new = 0

    def __repr__(self) -> str:
        return f"<ModelCurves [{self.count} observations]>"

    @property
    def count(self) -> int:
        """Observations kept."""
        return sum(map(len, self._octaves.values()))

    @property
    def answers(self) -> Sequence[int]:
        """Lengths of the latest answers."""
        return self._answers

    def add(self, seen: Observation) -> None:
        """Keep an observation in the place of the oldest of its octave."""
        octave = seen.prompt_tokens.bit_length()
        if octave not in self._octaves:
            self._octaves[octave] = deque(maxlen=KEPT_PER_OCTAVE)
        self._octaves[octave].append(seen)
        self._answers.append(seen.answer_tokens)
        self._new += 1

    def prompt_tokens(self, prompt_bytes: int) -> int | None:
        """Likely tokens of a text; None without observations."""
        tokens = self._fitted().tokens
        return None if tokens is None else max(1, round(tokens.at(1, prompt_bytes)))

    def predict(self, asked: AskedCost) -> Prediction | None:
        """Cost of a request; None without observations."""
        count = self.count
        if count == 0:
            return None
        fits = self._fitted()
        prompt, answer, others = asked.prompt_tokens, asked.answer_tokens, asked.others
        return Prediction(
            observations=count,
            near=self._near(prompt),
            wait_ms=_rounded(self._wait(fits, asked)),
            prefill_ms=_at(fits.prefill, 1, prompt, prompt**2, prompt * others),
            tpot_ms=_at(fits.tpot, 1, prompt + answer / 2, others),
            answer_tokens=answer,
            state_bytes=_at(fits.state, 1, prompt + answer),
            energy_uj=_at(fits.energy, 1, prompt, answer),
        )

    def _near(self, prompt_tokens: int) -> int:
        octave = prompt_tokens.bit_length()
        return sum(
            prompt_tokens <= 2 * seen.prompt_tokens and seen.prompt_tokens <= 2 * prompt_tokens
            for near in (octave - 1, octave, octave + 1)
            for seen in self._octaves.get(near, ())
        )

    @staticmethod
    def _wait(fits: _Fits, asked: AskedCost) -> float | None:
        """Time for the load, for a slot, and what requests wait otherwise beside others."""
        if asked.load_ns is None or fits.wait is None:
            return None
        waited_ms = asked.load_ns / 1e6 + fits.wait.at(1, asked.others)
        behind = 0 if asked.slots is None else max(0, asked.others + 1 - asked.slots)
        if behind and asked.slots:
            if fits.e2e_ms is None:
                return None
            waited_ms += behind * fits.e2e_ms / asked.slots
        return waited_ms

    def _fitted(self) -> _Fits:
        if self._fits is None or self._new * _REFIT_SHARE >= self.count:
            self._fits, self._new = self._fit(), 0
        return self._fits

    def _fit(self) -> _Fits:
        seen = [each for octave in self._octaves.values() for each in octave]
        times = [
            each.prefill_ms + (each.tpot_ms or 0.0) * (each.answer_tokens - 1)
            for each in seen
            if each.prefill_ms is not None
        ]
        return _Fits(
            wait=_curve(seen, lambda one: one.wait_ms, lambda one: (1, one.others)),
            prefill=_curve(
                seen,
                lambda one: one.prefill_ms,
                lambda one: (
                    1,
                    one.computed_tokens,
                    one.computed_tokens**2,
                    one.computed_tokens * one.others,
                ),
            ),
            tpot=_curve(
                seen,
                lambda one: one.tpot_ms,
                lambda one: (1, one.prompt_tokens + one.answer_tokens / 2, one.others),
            ),
            state=_curve(
                seen,
                lambda one: one.state_bytes,
                lambda one: (1, one.prompt_tokens + one.answer_tokens),
            ),
            energy=_curve(
                seen,
                lambda one: one.energy_uj,
                lambda one: (1, one.computed_tokens, one.answer_tokens),
            ),
            tokens=_curve(
                [one for one in seen if one.prompt_bytes is not None],
                lambda one: one.prompt_tokens,
                lambda one: (1, one.prompt_bytes or 0),
            ),
            e2e_ms=statistics.fmean(times) if times else None,
        )


def _curve(
    seen: Sequence[Observation], value: Callable[[Observation], float | None], terms: _Terms
) -> Fit | None:
    known = [(found, terms(one)) for one in seen if (found := value(one)) is not None]
    return fit([row for _, row in known], [found for found, _ in known])


def _at(curve: Fit | None, *terms: float) -> float | None:
    return None if curve is None else _rounded(curve.at(*terms))


def _rounded(value: float | None) -> float | None:
    """Four places are more than a prediction has, and keep records short."""
    return None if value is None else round(value, 4)
