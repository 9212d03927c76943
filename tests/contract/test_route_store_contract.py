"""Every store of routes is asked the same questions."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from service.core.errors import StoreUnavailable
from service.core.routes.by_context import Threshold
from service.core.routes.cheapest import Objectives
from service.core.routes.route import (
    Arm,
    ByContextRoute,
    CheapestRoute,
    FallbackRoute,
    LeastBusyRoute,
    WeightedRoute,
)
from service.core.routes.stored import RouteStore, StoredRoute
from service.storage import open_store
from service.storage.routes import open_routes

ARMS = (Arm(model="a", weight=2.5), Arm(model="b:int8"))
ROUTES = [
    WeightedRoute(arms=ARMS, sticky_header="x-session"),
    FallbackRoute(arms=ARMS),
    LeastBusyRoute(arms=ARMS),
    CheapestRoute(arms=ARMS, minimize="memory", objectives=Objectives(ttft_ms=9.5), explore=0),
    ByContextRoute(thresholds=(Threshold(model="a", up_to_tokens=9), Threshold(model="b"))),
    ByContextRoute(experiment="exp-1", metric="tpot_ms", between=("a", "b")),
]


def stored(route=ROUTES[0], id_="r", **fields) -> StoredRoute:
    return StoredRoute(id=id_, route=route, **({"created_at_ns": 1, "changed_at_ns": 2} | fields))


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RouteStore]:
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/records.db"}
    opened = open_routes(urls[request.param])
    yield opened
    opened.close()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.policy)
def test_a_route_of_every_policy_comes_back_equal(store, route):
    """Every setting survives."""
    store.put(stored(route))
    assert store.all() == (stored(route),)


def test_a_route_is_replaced_by_its_id(store):
    """One route an id."""
    store.put(stored())
    changed = stored(ROUTES[1], changed_at_ns=5)
    store.put(changed)
    assert store.all() == (changed,)


def test_routes_are_in_the_order_of_their_ids(store):
    """So that lists are the same after a restart."""
    for name in ("b", "c", "a"):
        store.put(stored(id_=name))
    assert [one.id for one in store.all()] == ["a", "b", "c"]


def test_a_deleted_route_is_gone(store):
    """Deleting it again is harmless."""
    store.put(stored())
    store.delete("r")
    store.delete("r")
    assert store.all() == ()


def test_routes_outlive_the_process(tmp_path):
    """They are kept in the database of the records."""
    url = f"sqlite:///{tmp_path}/records.db"
    open_store(url).close()
    first = open_routes(url)
    first.put(stored(created_at_ns=2**62))
    first.close()
    again = open_routes(url)
    assert again.all() == (structs.replace(stored(), created_at_ns=2**62),)
    again.close()


def test_a_database_out_of_reach_is_store_unavailable(tmp_path):
    """Not an error of the database's library."""
    with pytest.raises(StoreUnavailable):
        open_routes(f"sqlite:///{tmp_path}/nowhere/records.db")
