"""Shares of the requests: they add up, changes are taken back one by one, and what makes no sense is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.deployments import MAX_DEPLOYMENTS, OWN, Address, Deployment, Routing, in_percent
from gateway.errors import DeploymentNotFound, InvalidInput, RoutingConflict

SERVER = Address("http://10.0.0.2:8080", "http://10.0.0.2:8081")


def with_new(*names: str) -> Routing:
    routing = Routing()
    for name in names:
        routing = routing.put(name, [SERVER])
    return routing


def test_at_first_all_requests_go_to_the_settings_own_server() -> None:
    assert Routing().deployments == (Deployment(name=OWN, weight=100, instances=()),)


def test_a_new_deployment_gets_no_requests_yet_and_changed_servers_keep_their_share() -> None:
    routing = with_new("2.0")
    assert routing.weights == {"2.0": 0, OWN: 100}
    other = Address("http://10.0.0.3:8080", "http://10.0.0.3:8081")
    changed = routing.weigh("2.0", 30).put("2.0", [SERVER, other])
    assert changed.get("2.0") == Deployment(name="2.0", weight=30, instances=(SERVER, other))


def test_each_change_makes_the_next_revision_and_none_makes_none() -> None:
    routing = with_new("2.0")
    assert (routing.revision, routing.weigh("2.0", 20).revision) == (1, 2)
    assert routing.weigh("2.0", 0) is routing


def test_the_others_share_the_rest_in_their_proportion() -> None:
    routing = with_new("2.0", "3.0").weigh("2.0", 20).weigh("3.0", 50)
    assert routing.weights == {"2.0": 10, "3.0": 50, OWN: 40}


def test_rollbacks_take_back_one_change_of_weights_after_the_other() -> None:
    routing = with_new("2.0").weigh("2.0", 20).weigh("2.0", 100)
    back = routing.rolled_back()
    assert back.weights == {"2.0": 20, OWN: 80}
    assert back.rolled_back().weights == {"2.0": 0, OWN: 100}
    assert back.revision == routing.revision + 1
    with pytest.raises(RoutingConflict, match="no earlier"):
        back.rolled_back().rolled_back()


def test_a_rollback_leaves_out_what_was_removed_and_knows_what_was_added() -> None:
    routing = with_new("2.0").weigh("2.0", 20).weigh("2.0", 100).put("3.0", [SERVER]).without(OWN)
    back = routing.weigh("3.0", 100).rolled_back()
    assert back.weights == {"2.0": 100, "3.0": 0}
    assert back.rolled_back().weights == {"2.0": 100, "3.0": 0}  # of 20 to 80 the 20 alone are left


def test_what_gets_requests_is_not_removed() -> None:
    with pytest.raises(RoutingConflict, match="100 %"):
        Routing().without(OWN)
    assert with_new("2.0").weigh("2.0", 100).without(OWN).weights == {"2.0": 100}


@pytest.mark.parametrize(
    ("routing", "reason"), [(Routing(), "no other"), (with_new("2.0", "3.0"), "which|say")], ids=["alone", "several"]
)
def test_a_share_that_nobody_would_take_is_refused(routing: Routing, reason: str) -> None:
    with pytest.raises(RoutingConflict, match=reason):
        routing.weigh(OWN, 50)


def test_what_is_not_there_is_not_found() -> None:
    for act in (lambda: Routing().get("x"), lambda: Routing().weigh("x", 1), lambda: Routing().without("x")):
        with pytest.raises(DeploymentNotFound, match="x"):
            act()


@pytest.mark.parametrize(
    ("name", "instances", "problem"),
    [
        ("../x", [SERVER], "name"),
        ("", [SERVER], "name"),
        ("2.0", [], "instances"),
        ("2.0", [SERVER, SERVER], "instances"),
        ("2.0", [Address("ftp://x", "http://x")], "instances.0.inference_url"),
        ("2.0", [Address("http://x", "http://")], "instances.0.management_url"),
        ("2.0", [Address("http://u:p@x", "http://x")], "instances.0.inference_url"),
        ("2.0", [Address("http://x/?a=b", "http://x")], "instances.0.inference_url"),
        ("2.0", [Address("http://x:99999", "http://x")], "instances.0.inference_url"),
        ("2.0", [Address("http://[::1", "http://x")], "instances.0.inference_url"),
        ("2.0", [Address("http://x\n", "http://x")], "instances.0.inference_url"),
        ("2.0", [Address("http://" + "x" * 200, "http://x")], "instances.0.inference_url"),
    ],
)
def test_what_breaks_a_rule_is_named(name: str, instances: list[Address], problem: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Routing().put(name, instances)
    assert problem in caught.value.problems


def test_there_may_be_only_so_many() -> None:
    full = with_new(*(f"v{number}" for number in range(MAX_DEPLOYMENTS - 1)))
    full.put("v0", [SERVER])
    with pytest.raises(InvalidInput):
        full.put("one-more", [SERVER])


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abcd")),
        st.tuples(st.just("weigh"), st.sampled_from(["a", "b", "c", "d", OWN]), st.integers(0, 100)),
        st.tuples(st.just("without"), st.sampled_from(["a", "b", "c", "d", OWN])),
        st.tuples(st.just("rolled_back")),
    ),
    max_size=30,
)


@given(CHANGES)
def test_whatever_is_changed_the_weights_add_up_to_all_requests(changes: list[tuple[Any, ...]]) -> None:
    routing = Routing()
    for kind, *arguments in changes:
        try:
            routing = getattr(routing, kind)(*arguments, *([[SERVER]] if kind == "put" else []))
        except (DeploymentNotFound, RoutingConflict):
            continue
        assert sum(routing.weights.values()) == 100
        assert min(routing.weights.values()) >= 0


@given(st.dictionaries(st.text(max_size=2), st.integers(0, 100), min_size=1), st.integers(0, 100))
def test_shares_are_within_one_of_their_proportion(parts: dict[str, int], whole: int) -> None:
    shares = in_percent(parts, whole)
    total = sum(parts.values())
    if total:
        assert sum(shares.values()) == whole
        assert all(abs(shares[name] - part * whole / total) < 1 for name, part in parts.items())
