"""How a request gives up its blocks: to be computed again, or moved to the swap space and back (paper, section 4.5)."""

from typing import NamedTuple

from octavo.config import PreemptionMode
from octavo.execution.plan import Plan, StepOutput
from octavo.memory import KVManager
from octavo.scheduling.plan_writer import PlanWriter
from octavo.scheduling.request import Request

PREFILL_TOKENS = 4
"""New tokens a row, on average, from which on a step tells how fast tokens are recomputed."""
DECAY = 0.9
"""What a step's share in a rate has become one measured step later."""


class Rate:
    """Units a second, learned from what has been done: the latest count most, and the large more than the small."""

    def __init__(self) -> None:
        self._amount = self._seconds = 0.0

    def learn(self, amount: float, seconds: float) -> None:
        """Take one measurement; one that took no time tells nothing."""
        if amount > 0 and seconds > 0:
            self._amount = DECAY * self._amount + amount
            self._seconds = DECAY * self._seconds + seconds

    def seconds_for(self, amount: float) -> float | None:
        """How long an amount takes; None before anything is known."""
        return amount * self._seconds / self._amount if self._amount else None


class Decision(NamedTuple):
    """How to preempt, and what was reckoned."""

    swaps: bool
    why: str


class Preemption:
    """Decides how a request is preempted.

    Args:
        mode: `recompute` or `swap`, or `auto`: whichever has been faster for such an amount, judging by the steps so
            far. Swap before both are known: it shows how fast it is. Where the swap space has no room it is recompute.
        block_bytes: of one block.
    """

    def __init__(self, mode: PreemptionMode, block_bytes: int) -> None:
        self._mode: PreemptionMode = mode
        self._block_bytes = block_bytes
        self.compute = Rate()
        """Tokens."""
        self.moves = Rate()
        """Bytes."""

    def learn(self, plan: Plan, output: StepOutput) -> None:
        """Take a step's times."""
        num_moved = len(plan.swap_out) + len(plan.swap_in)
        if num_moved:
            self.moves.learn(num_moved * self._block_bytes, output.move_s)
        num_tokens = sum(plan.num_new)
        if num_tokens >= PREFILL_TOKENS * len(plan.rows):
            self.compute.learn(num_tokens, output.compute_s)

    def take_blocks(self, request: Request, memory: KVManager, writer: PlanWriter) -> str:
        """Take away the blocks of a request that runs. Returns how, how much that is and why, in words."""
        request.drafts.clear()
        for sequence in request.sequences:
            writer.take_back_drafts(sequence)  # of a step in flight, accepted or not
        decision = self.decide(request, memory)
        writer.lose_blocks(request)
        amount = _swap_out(request, memory, writer) if decision.swaps else _give_up(request, memory)
        return f"{amount}; {decision.why}"

    def decide(self, request: Request, memory: KVManager) -> Decision:
        """How to preempt a request that holds blocks now."""
        num_blocks = memory.num_distinct_blocks([sequence.table for sequence in request.sequences])
        if self._mode == "recompute":
            return Decision(False, "as --preemption-mode says")
        if num_blocks > memory.num_free_swap_blocks:
            return Decision(
                False, f"the swap space has {memory.num_free_swap_blocks} free blocks of {num_blocks} needed"
            )
        if self._mode == "swap":
            return Decision(True, "as --preemption-mode says")
        recompute_s = self.compute.seconds_for(request.num_distinct_tokens(memory.block_size))
        swap_s = self.moves.seconds_for(2 * num_blocks * self._block_bytes)
        if recompute_s is None or swap_s is None:
            return Decision(True, "auto has not measured both yet")
        why = f"auto reckons {recompute_s * 1e3:.1f} ms to recompute, {swap_s * 1e3:.1f} ms to move out and back"
        return Decision(swap_s < recompute_s, why)


def _swap_out(request: Request, memory: KVManager, writer: PlanWriter) -> str:
    """Let the blocks be moved to the swap space."""
    sequences = [sequence for sequence in request.sequences if sequence.table.num_blocks]
    saved, moves = memory.swap_out([sequence.table for sequence in sequences])
    for sequence, table in zip(sequences, saved, strict=True):
        sequence.saved, sequence.table = table, sequence.table.fresh()
    writer.swap_out(moves)
    memory.totals.num_swaps += 1
    num_bytes = len(moves) * memory.block_bytes
    request.note(num_preemptions=1, num_swaps=1, moved_bytes=num_bytes)
    return f"{num_bytes} bytes moved out"


def _give_up(request: Request, memory: KVManager) -> str:
    """Let go of the blocks, to be computed again."""
    request.forget_blocks(memory.block_size)
    for sequence in request.sequences:
        memory.free(sequence.table)
        sequence.table = sequence.table.fresh()
    memory.totals.num_recomputes += 1
    request.note(num_preemptions=1)
    return f"{request.num_lost_tokens} tokens to compute again, but for what the prefix cache keeps"
