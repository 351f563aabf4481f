"""What crosses between the front and the engine in its own process: msgpack-encoded structs, token ids only."""

import msgspec

from octavo.memory import Ledger
from octavo.outputs import DraftUse
from octavo.scheduling.admission import Limits
from octavo.scheduling.messages import EngineRequest, RequestUpdate


class Submit(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Queue a request."""

    request: EngineRequest


class Abort(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """End a request, or one of its sequences."""

    request_id: str
    index: int | None = None


class Pin(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Compute a prefix and keep its blocks for good, before any request is submitted; `Pinned` is the answer."""

    token_ids: list[int]
    name: str
    """What an error calls it."""


Command = Submit | Abort | Pin
"""From the front to the engine."""


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The model is loaded and the KV cache allocated."""

    limits: Limits
    block_bytes: int
    num_swap_blocks: int
    weight_bytes: int
    dtype: str
    weights: str
    """Of fewer bits: which; empty where all are of `dtype`."""
    kernels: str
    """Which kernels were chosen, and why."""
    phases_s: dict[str, float]
    """Seconds that each part of the engine's start took."""


class Pinned(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A prefix is pinned, and this is what requests can have now."""

    limits: Limits


class EngineLoad(msgspec.Struct, frozen=True, array_like=True):
    """What the engine is doing: gauges, and counters since its start."""

    ledger: Ledger
    num_running: int
    num_waiting: int
    num_steps: int
    num_begun: int
    """Requests that have begun to run so far."""
    drafts: DraftUse = DraftUse()


class Updates(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """What a step gave all requests, one message a step; without updates where only the load has changed."""

    updates: list[RequestUpdate]
    load: EngineLoad


class Refusal(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A request that the engine would not take, or that it has dropped before it began. `kind` is the name of an error
    class of `octavo.errors`."""

    request_id: str
    message: str
    kind: str = "RequestError"


class Failure(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The engine cannot start or go on. `kind` is the name of an error class of `octavo.errors`."""

    kind: str
    message: str


Event = Ready | Pinned | Updates | Refusal | Failure
"""From the engine to the front."""

encode = msgspec.msgpack.Encoder().encode
decode_command = msgspec.msgpack.Decoder(Command).decode
decode_event = msgspec.msgpack.Decoder(Event).decode
