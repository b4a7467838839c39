"""The JSON of deployments."""

from collections.abc import Sequence
from typing import Self

from pydantic import Field

from gateway.deployments import MAX_ADDRESS_CHARACTERS, MAX_INSTANCES, WHOLE, Address
from gateway.members import Group, Member
from gateway.routes.schemas import Input, Output

_INFERENCE, _MANAGEMENT = "http://10.0.0.2:8080", "http://10.0.0.2:8081"


class InstanceInput(Input):
    """A model server to ask."""

    inference_url: str = Field(max_length=MAX_ADDRESS_CHARACTERS, examples=[_INFERENCE])
    """TorchServe's inference address."""
    management_url: str = Field(max_length=MAX_ADDRESS_CHARACTERS, examples=[_MANAGEMENT])
    """Its management address: readiness and the facts about the model come from it."""

    @property
    def address(self) -> Address:
        """Both, as the gateway knows them."""
        return Address(self.inference_url, self.management_url)


class DeploymentInput(Input):
    """A version of the model as it shall be served."""

    instances: list[InstanceInput] = Field(default=[], max_length=MAX_INSTANCES)
    """The servers that run it, each of which has to answer. None, for `default` alone: the one that each gateway's own
    settings name."""


class WeightInput(Input):
    """How much of the traffic a deployment gets."""

    weight: int = Field(ge=0, le=WHOLE, examples=[20])
    """Percent of the requests. The other deployments share the rest in the proportion they had."""


class InstanceOutput(InstanceInput):
    """A model server, as this gateway sees it."""

    live: bool
    """Whether it is asked; one that failed is passed over until it answers a probe."""
    in_flight: int = Field(examples=[0])
    """How many requests of this gateway it has."""

    @classmethod
    def of(cls, member: Member) -> Self:
        """Return `member` as clients see it."""
        address = member.address
        return cls(
            inference_url=address.inference_url,
            management_url=address.management_url,
            live=member.live,
            in_flight=member.in_flight,
        )


class DeploymentOutput(Output):
    """A version of the model."""

    name: str = Field(examples=["2.0"])
    weight: int = Field(examples=[20])
    """Percent of the requests."""
    instances: list[InstanceOutput]

    @classmethod
    def of(cls, group: Group) -> Self:
        """Return `group` as clients see it."""
        members = [InstanceOutput.of(member) for member in group.members]
        return cls(name=group.deployment.name, weight=group.deployment.weight, instances=members)


class DeploymentList(Output):
    """All versions of the model; their weights add up to 100."""

    deployments: list[DeploymentOutput]

    @classmethod
    def of(cls, groups: Sequence[Group]) -> Self:
        """Return `groups` as clients see them."""
        return cls(deployments=[DeploymentOutput.of(group) for group in groups])
