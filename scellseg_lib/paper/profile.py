"""A profile says at which scale experiments run: a YAML file each in ``notebooks/profiles``."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt

from scellseg_lib import paths
from scellseg_lib.datasets.manifest import read_yaml
from scellseg_lib.errors import ScellsegError, telling
from scellseg_lib.network import NetworkName
from scellseg_lib.pretraining import PretrainRecipe

_FIELDS = "See `Profile` for its fields and what they may be."


class ShotPlan(BaseModel, extra="forbid", frozen=True):
    """What is run on one data set."""

    shots: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]  # rising; most use the largest
    states: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]  # untuned: the first


class Profile(BaseModel, extra="forbid", frozen=True):
    """Scale of the experiments: models, data sets, states, steps."""

    name: str
    weights: Literal["released", "packaged", "untrained", "subset:general", "subset:Sgeneral"]
    """Where models start, see `Trial.weights`."""
    levels: Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=9)]
    models: tuple[NetworkName, ...]
    data: dict[str, ShotPlan]  # data sets, in the paper's order
    contrast: str  # contrast images
    general_test: tuple[str, ...] = ()  # data sets for what remains of generality (Ext. Fig. 4)
    subsets: tuple[str, ...] = ()  # nested pre-training subsets, poorest first (Fig. 4)
    pretraining: PretrainRecipe | None = None  # on subsets; None: by the paper's recipe
    unequal_pretraining: str = ""  # what makes a comparison of its models unfair, in words
    steps: PositiveInt = 100
    precision: Literal["fp32", "bf16"] = "fp32"

    @property
    def untuned(self) -> list[tuple[str, str]]:
        """Its models, with what says in a trial that one is not tuned."""
        return [(model, "direct") for model in self.models]

    def narrow(
        self,
        *,
        data: Sequence[str] = (),
        models: Sequence[str] = (),
        states: Sequence[int] = (),
        shots: Sequence[int] = (),
    ) -> "Profile":
        """Return the profile with other choices where they are given; empty ones change nothing."""
        content = self.model_dump() | {"models": tuple(models) or self.models}
        if lacking := [name for name in data if name not in [*self.data]]:
            has = f"It has: {', '.join(self.data)}."
            raise ScellsegError(f"the profile has no data set {lacking[0]!r}", remedy=has)
        content["data"] = {name: content["data"][name] for name in data or self.data}
        with telling("this cannot be chosen", self.name, _FIELDS, ScellsegError):
            for plan in content["data"].values():
                plan["states"] = tuple(states) or plan["states"]
                plan["shots"] = tuple(sorted(shots)) or plan["shots"]
            return Profile.model_validate(content)


def load_profile(name: str) -> Profile:
    """Read a profile; ScellsegError if there is none, or its file does not follow the schema."""
    file = paths.PROFILES / f"{name}.yaml"
    names = sorted(one.stem for one in paths.PROFILES.glob("*.yaml"))
    if name not in names:
        there_are = f"There are: {', '.join(names)}."
        raise ScellsegError(f"there is no profile {name!r}", where=file, remedy=there_are)
    with telling("this is no profile", file, _FIELDS, ScellsegError):
        return Profile.model_validate(read_yaml(file) | {"name": name})


PARAMETERS: dict[str, Any] = {"PROFILE": "released", "DATA": [], "MODELS": [], "STATES": []}
PARAMETERS |= {"SHOTS": [], "COMPUTE": False}
"""Parameters of a figure's notebook, with values of their types; empty: as the profile has it."""


def choose_profile(namespace: Mapping[str, Any]) -> Profile:
    """Check the parameters of a figure's notebook, `PARAMETERS`, and return what they ask for."""
    check_parameters(namespace, PARAMETERS)
    choices = {name.lower(): namespace[name] for name in ("DATA", "MODELS", "STATES", "SHOTS")}
    return load_profile(namespace["PROFILE"]).narrow(**choices)


def check_parameters(namespace: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse parameters that a notebook does not have, or of another type; papermill only warns.

    The namespace is the notebook's ``globals()`` right after its imports; ``known`` has values of
    the right types.
    """
    for name, value in namespace.items():
        put_in = name.startswith("_") or name in ("In", "Out")  # by Python and IPython
        if put_in or not isinstance(value, str | int | float | list | dict | tuple | None):
            continue
        if name not in known:
            near = get_close_matches(name.upper(), known, 1)
            remedy = f"Did you mean {near[0]}?" if near else f"It has: {', '.join(known)}."
            raise ScellsegError(f"the notebook has no parameter {name}", remedy=remedy)
        if type(value) is not type(known[name]):
            remedy = f"Give a value like {known[name]!r}."
            raise ScellsegError(f"the parameter {name} is {value!r}", remedy=remedy)
