"""What crosses between the multi-process executor and its ranks: msgpack-encoded structs, one plan a step."""

import msgspec

from octavo.config import EngineConfig
from octavo.execution.executor import Capacity, LoadedModel
from octavo.execution.plan import Plan, StepOutput


class Start(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Load this rank's share of the model. The first message; `Started` is the answer."""

    config: EngineConfig
    rank: int
    rendezvous: str
    """A file, not there yet, through which the ranks find each other."""
    progress: bool


class Run(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Run a plan: the same message to all ranks. Rank 0 answers with `Done`."""

    plan: Plan


class Started(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The share is loaded. All ranks say the same."""

    capacity: Capacity
    loaded: LoadedModel


class Done(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """What a step gave."""

    output: StepOutput


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The rank cannot go on, and ends. `kind` is the name of an error class of `octavo.errors`."""

    kind: str
    message: str


Order = Start | Run
"""From the executor to a rank."""
Report = Started | Done | Failed
"""From a rank to the executor."""

encode = msgspec.msgpack.Encoder().encode
decode_order = msgspec.msgpack.Decoder(Order).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
