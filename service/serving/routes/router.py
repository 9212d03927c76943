"""Router: from a request, the routes and the present load to the models to try."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from msgspec import structs

from service.core.chat import ChatRequest
from service.core.errors import InvalidRequest, ModelNotFound
from service.core.model_status import ModelStatus
from service.core.routes.by_context import ByContextRoute, Threshold
from service.core.routes.curves import Crossovers, MeasuredCurves, NoCurves
from service.core.routes.decision import Decision, DecisionInputs
from service.core.routes.route import Route
from service.serving.routes.gather import Surroundings, gather
from service.serving.routes.policies import decide

_NONE: Mapping[str, str] = MappingProxyType({})


class Router:
    """Chooses the models of requests; what it decided by is in the decision."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        models: Callable[[], Mapping[str, ModelStatus]],
        *,
        curves: MeasuredCurves | None = None,
        crossovers: Crossovers | None = None,
    ) -> None:
        self.routes = routes
        self._models = models
        self._curves = curves or NoCurves()
        self._crossovers = crossovers

    def choose(
        self, request: ChatRequest, *, random: float, resting: Mapping[str, str] = _NONE
    ) -> Decision:
        """Decide which models to try for a request, in order.

        *random* in [0, 1) decides where a route draws; *resting* has the error codes of models
        that failed lately. Raises ModelNotFound, or InvalidRequest for a route by an experiment
        without crossovers.
        """
        models = self._models()
        route = self.routes.get(request.model)
        if route is None:
            return _direct(request, models)
        around = Surroundings(
            models=models,
            resting=resting,
            curves=self._curves,
            thresholds=self._thresholds(route),
            random=random,
        )
        facts = gather(request, route, around)
        decision = decide(route, facts)
        inputs = DecisionInputs(definition=route, facts=facts, arms=decision.arms)
        return structs.replace(decision, inputs=inputs.to_json())

    def _thresholds(self, route: Route) -> tuple[Threshold, ...]:
        if not isinstance(route, ByContextRoute) or route.experiment is None:
            return ()
        if self._crossovers is None:
            raise InvalidRequest(
                f"The route is by the crossovers of the experiment {route.experiment}, and this "
                "service has no experiments; give the route `thresholds`.",
                param="model",
            )
        return self._crossovers.thresholds(route.experiment, route.metric, route.between)


def _direct(request: ChatRequest, models: Mapping[str, ModelStatus]) -> Decision:
    if request.model not in models:
        raise ModelNotFound(
            f"The model `{request.model}` does not exist; see GET /v1/models.", param="model"
        )
    return Decision(arms=(request.model,), policy="direct", reason="named by the request")
