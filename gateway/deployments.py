"""Which model servers answer, and what share of the requests each of their versions gets. Values only: a change
makes a new `Routing`, which the store takes when nobody else changed it meanwhile."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self
from urllib.parse import urlsplit

from gateway.errors import DeploymentNotFound, InvalidInput, RoutingConflict

OWN: Final = "default"
"""The deployment that is there from the start: the address in each gateway's own settings."""

WHOLE: Final = 100
"""Weights are percents and add up to it."""

DEPLOYMENT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_DEPLOYMENTS: Final = 16
MAX_INSTANCES: Final = 64
MAX_ADDRESS_CHARACTERS: Final = 200
MAX_EARLIER: Final = 20
"""How many changes of weights can be taken back."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where one model server is asked."""

    inference_url: str
    management_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One version of the model and the servers that run it."""

    name: str
    instances: tuple[Address, ...] = ()
    """None: the one that each gateway's own settings name."""
    weight: int = 0
    """Percent of the requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """All deployments, in the order of their names. The weights add up to 100."""

    revision: int = 0
    """Grows by one with each change; 0 is what holds before there was one."""
    deployments: tuple[Deployment, ...] = (Deployment(name=OWN, weight=WHOLE),)
    earlier: tuple[Mapping[str, int], ...] = ()
    """Weights by name as they were before, the latest last."""

    @property
    def weights(self) -> dict[str, int]:
        """The weights by name."""
        return {each.name: each.weight for each in self.deployments}

    def get(self, name: str) -> Deployment:
        """Return a deployment. Raises DeploymentNotFound."""
        found = next((each for each in self.deployments if each.name == name), None)
        if found is None:
            raise DeploymentNotFound(name)
        return found

    def put(self, name: str, instances: Sequence[Address]) -> Self:
        """Return the routing with a deployment of these servers: a new one, without a share yet, or an old one's new
        servers. Raises InvalidInput, naming what breaks a rule.
        """
        problems = _problems(name, instances)
        weight = self.weights.get(name)
        if weight is None and len(self.deployments) >= MAX_DEPLOYMENTS:
            problems["name"] = f"would be one more than the {MAX_DEPLOYMENTS} deployments there may be"
        if problems:
            raise InvalidInput.of(problems)
        changed = Deployment(name=name, instances=tuple(instances), weight=weight or 0)
        kept = [each for each in self.deployments if each.name != name]
        return self._next(deployments=tuple(sorted([*kept, changed], key=lambda each: each.name)))

    def weigh(self, name: str, weight: int) -> Self:
        """Return the routing with `weight` percent for `name`; the others share the rest in the proportion they had.

        Raises DeploymentNotFound; RoutingConflict when the rest would go to nobody, or nobody says to whom.
        """
        before = self.weights
        if self.get(name).weight == weight:
            return self
        others = {other: share for other, share in before.items() if other != name}
        rest = WHOLE - weight
        if rest and not any(others.values()):
            if len(others) != 1:
                which = "there is no other" if not others else "say which of the others shall have it"
                raise RoutingConflict(f"{rest} % of the requests would go nowhere: {which}")
            others = dict.fromkeys(others, 1)
        return self._weighed({name: weight} | in_percent(others, rest), (*self.earlier, before))

    def rolled_back(self) -> Self:
        """Return the routing with the weights before the last change of them. Raises RoutingConflict without one."""
        if not self.earlier:
            raise RoutingConflict("there are no earlier weights to go back to")
        *rest, last = self.earlier
        return self._weighed(in_percent({**dict.fromkeys(self.weights, 0), **last}, WHOLE), tuple(rest))

    def without(self, name: str) -> Self:
        """Return the routing without a deployment. Raises DeploymentNotFound; RoutingConflict while it has a share."""
        if weight := self.get(name).weight:
            raise RoutingConflict(f"{name} gets {weight} % of the requests: give them to another first")
        past = [{other: share for other, share in weights.items() if other != name} for weights in self.earlier]
        return self._next(
            deployments=tuple(each for each in self.deployments if each.name != name),
            earlier=tuple(weights for weights in past if any(weights.values())),
        )

    def _weighed(self, weights: Mapping[str, int], earlier: tuple[Mapping[str, int], ...]) -> Self:
        return self._next(
            deployments=tuple(replace(each, weight=weights[each.name]) for each in self.deployments),
            earlier=earlier[-MAX_EARLIER:],
        )

    def _next(
        self, *, deployments: tuple[Deployment, ...], earlier: tuple[Mapping[str, int], ...] | None = None
    ) -> Self:
        earlier = self.earlier if earlier is None else earlier
        return replace(self, revision=self.revision + 1, deployments=deployments, earlier=earlier)


def in_percent(parts: Mapping[str, int], whole: int) -> dict[str, int]:
    """Return whole numbers in the proportion of `parts` that add up to `whole`, by largest remainder."""
    total = sum(parts.values())
    if not total:
        return dict(parts)
    exact = {name: part * whole / total for name, part in parts.items()}
    shares = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: shares[name] - exact[name])
    for name in by_remainder[: whole - sum(shares.values())]:
        shares[name] += 1
    return shares


def _problems(name: str, instances: Sequence[Address]) -> dict[str, str]:
    problems = {}
    if not DEPLOYMENT_NAME.fullmatch(name):
        problems["name"] = f"must match {DEPLOYMENT_NAME.pattern}"
    if len(instances) > MAX_INSTANCES:
        problems["instances"] = f"are more than {MAX_INSTANCES}"
    elif len({each.inference_url for each in instances}) < len(instances):
        problems["instances"] = "must not name a server twice"
    elif not instances and name != OWN:
        problems["instances"] = f"must name a server; only {OWN} has that of the gateway's settings"
    for number, each in enumerate(instances):
        for part in ("inference_url", "management_url"):
            if problem := _address_problem(getattr(each, part)):
                problems[f"instances.{number}.{part}"] = problem
    return problems


def _address_problem(url: str) -> str | None:
    if len(url) > MAX_ADDRESS_CHARACTERS:
        return f"has more than {MAX_ADDRESS_CHARACTERS} characters"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is no address like http://10.0.0.1:8080"
    plain = url.isascii() and url.isprintable() and " " not in url
    if not plain or parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return "is no address like http://10.0.0.1:8080"
    if parts.username is not None or parts.query or parts.fragment or url.endswith("/"):
        return "must have no user, query or slash at its end"
    return None
