"""A profile says at which scale experiments run: a YAML file each in ``notebooks/profiles``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from scellseg_lib import paths
from scellseg_lib.errors import ScellsegError
from scellseg_lib.network import NetworkName
from scellseg_lib.pretraining import PretrainRecipe


class Plan(BaseModel):
    """What is run on one data set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shots: tuple[int, ...]
    """Numbers of annotated images, rising; the largest is that of all but the shot scale."""
    states: tuple[int, ...]
    """Random states; untuned models take the first."""


class Profile(BaseModel):
    """Scale of the experiments: models, data sets, states, steps."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    weights: Literal["released", "packaged", "untrained", "subset:general", "subset:Sgeneral"]
    """Where models start, see `Trial.weights`."""
    levels: tuple[int, ...]
    models: tuple[NetworkName, ...]
    data: dict[str, Plan]
    """Data sets, in the paper's order."""
    contrast: str
    """Contrast images."""
    general_test: tuple[str, ...] = ()
    """Data sets whose split of that name tests what remains of generality (Ext. Data Fig. 4)."""
    subsets: tuple[str, ...] = ()
    """Nested pre-training subsets, poorest first (Fig. 4)."""
    pretraining: PretrainRecipe | None = None
    """How models are pre-trained on subsets; None: by the paper's recipe."""
    steps: int = 100
    precision: Literal["fp32", "bf16"] = "fp32"

    def narrowed(
        self,
        *,
        data: Sequence[str] = (),
        models: Sequence[str] = (),
        states: Sequence[int] = (),
        shots: Sequence[int] = (),
    ) -> Profile:
        """Return the profile with other choices where they are given; empty ones change nothing.

        Raises
        ------
        ScellsegError
            For a data set that the profile does not have, a model that there is not, or no number.
        """
        plans = {name: self.data[name] for name in _known(data, self.data) or self.data}
        update = {"states": tuple(states)} if states else {}
        update |= {"shots": tuple(sorted(shots))} if shots else {}
        chosen = {name: plan.model_dump() | update for name, plan in plans.items()}
        return _validated(
            self.model_dump() | {"data": chosen} | ({"models": tuple(models)} if models else {}),
            self.name,
        )


def names() -> list[str]:
    """Names of the profiles."""
    return sorted(file.stem for file in paths.profiles().glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """Read a profile.

    Raises
    ------
    ScellsegError
        If there is none of that name, or its file does not follow the schema.
    """
    file = paths.profiles() / f"{name}.yaml"
    if name not in names():
        raise ScellsegError(
            f"there is no profile {name!r}", where=file, remedy=f"There are: {', '.join(names())}."
        )
    return _validated({"name": name} | yaml.safe_load(file.read_text()), str(file))


PARAMETERS: dict[str, Any] = {
    "PROFILE": "released",
    "DATA": [],
    "MODELS": [],
    "STATES": [],
    "SHOTS": [],
    "COMPUTE": False,
}
"""Parameters of a figure's notebook, with values of their types; empty: as the profile has it."""


def check_parameters(namespace: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse parameters that a notebook does not have, or of another type; papermill only warns.

    Parameters
    ----------
    namespace : mapping
        ``globals()`` of the notebook, right after its imports.
    known : mapping
        Names of its parameters with a value of their type.

    Raises
    ------
    ScellsegError
        With the nearest known name.
    """
    literals = {
        name: value
        for name, value in namespace.items()
        if isinstance(value, str | int | float | list | dict | tuple | None)
        and not name.startswith("_")
        and name not in ("In", "Out")
    }
    for name, value in literals.items():
        if name not in known:
            near = get_close_matches(name.upper(), known, 1)
            raise ScellsegError(
                f"the notebook has no parameter {name}",
                remedy=f"Did you mean {near[0]}?" if near else f"It has: {', '.join(known)}.",
            )
        if type(value) is not type(known[name]):
            raise ScellsegError(
                f"the parameter {name} is {value!r}",
                remedy=f"Give a value like {known[name]!r}.",
            )


def figure_profile(namespace: Mapping[str, Any]) -> Profile:
    """Check the parameters of a figure's notebook, `PARAMETERS`, and return what they ask for."""
    check_parameters(namespace, PARAMETERS)
    asked = {name: namespace[name] for name in PARAMETERS}
    return load_profile(asked["PROFILE"]).narrowed(
        data=asked["DATA"], models=asked["MODELS"], states=asked["STATES"], shots=asked["SHOTS"]
    )


def _known(wanted: Sequence[str], there: Mapping[str, Any]) -> Sequence[str]:
    if unknown := [name for name in wanted if name not in there]:
        raise ScellsegError(
            f"the profile has no data set {unknown[0]!r}", remedy=f"It has: {', '.join(there)}."
        )
    return wanted


def _validated(content: Mapping[str, Any], where: str) -> Profile:
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()
        )
        raise ScellsegError(
            f"this is no profile: {wrong}", where=where, remedy="See `Profile` for its fields."
        ) from error
