"""What the clients' tests ask for: small enough that a model which rambles ends, with every kind of part in it."""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, Field

ShortText = Annotated[str, Field(max_length=12)]
ASK = "What is the weather in Oslo and in Rome?"


class Sky(StrEnum):
    """How much of it is to be seen."""

    CLEAR = "clear"
    CLOUDY = "cloudy"


class Reading(BaseModel, extra="forbid"):
    """One measurement."""

    degrees: int = Field(ge=-9, le=40)


class Report(BaseModel, extra="forbid"):
    """The weather in a city."""

    city: ShortText
    sky: Sky
    readings: list[Reading] = Field(min_length=1, max_length=2)
    note: ShortText | None


class Verdict(BaseModel, extra="forbid"):
    """A report without texts and lists, for clients that leave their bounds out of a schema."""

    sky: Sky
    is_cold: bool
