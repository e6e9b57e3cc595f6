"""The kinds of priors and their specs; no torch. A new kind is a folder beside this file and a line here."""

from collections.abc import Mapping
from typing import Any, Final

from models.fields import read_kind
from models.priors.autoregressive.spec import AutoregressivePriorSpec
from models.priors.diffusion.spec import GaussianPriorSpec, ShiftedPriorSpec
from models.priors.flow.spec import FlowPriorSpec
from models.priors.identity.spec import IdentityPriorSpec
from models.priors.projection.spec import ProjectionPriorSpec
from models.priors.spec import PriorSpec

SPECS: Final[dict[str, type[PriorSpec]]] = {
    "shifted": ShiftedPriorSpec,
    "gaussian": GaussianPriorSpec,
    "flow": FlowPriorSpec,
    "projection": ProjectionPriorSpec,
    "autoregressive": AutoregressivePriorSpec,
    "identity": IdentityPriorSpec,
}


def read_spec(values: Mapping[str, Any]) -> PriorSpec:
    """Return the spec that its ``to_dict`` wrote."""
    return read_kind("prior", SPECS, values)
