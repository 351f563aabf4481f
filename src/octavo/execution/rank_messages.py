"""What crosses between the multi-process executor and its ranks: msgpack-encoded structs, one plan a step."""

import msgspec

from octavo.config import EngineConfig
from octavo.execution.executor import Capacity, ExecutionTimes, LoadedModel
from octavo.execution.plan import Plan, StepOutput
from octavo.structured_outputs import Grammar, ReasoningSection


class Start(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Load this rank's share of the model. The first message; `Started` is the answer."""

    config: EngineConfig
    rank: int
    rendezvous: int
    """Descriptor of an empty file in memory, through which the ranks find each other."""
    progress: bool
    grammars: dict[str, str]
    """The kinds of grammars to know: where each is imported from."""


class Run(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Run a plan: the same message to all ranks. Rank 0 answers with `Done`."""

    plan: Plan


class Prepare(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Begin to make ready what a row will want: to rank 0, at any time, without an answer."""

    wanted: Grammar | ReasoningSection


class TellTimes(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Tell where the time has gone: to rank 0, with no plan before it unanswered. `Times` is the answer."""


class Started(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The share is loaded. All ranks say the same."""

    capacity: Capacity
    loaded: LoadedModel
    depth: int


class Done(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """What a step gave."""

    output: StepOutput


class Times(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Where the time of all steps has gone."""

    times: ExecutionTimes


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The rank cannot go on, and ends. `kind` is the name of an error class of `octavo.errors`."""

    kind: str
    message: str


Order = Run | Prepare | TellTimes
"""From the executor to a rank that has started."""
Report = Started | Done | Times | Failed
"""From a rank to the executor."""

encode = msgspec.msgpack.Encoder().encode
decode_start = msgspec.msgpack.Decoder(Start).decode
decode_order = msgspec.msgpack.Decoder(Order).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
