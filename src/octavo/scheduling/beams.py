"""Beam searches in the scheduler: their beams are forked sequences, and what a search chooses becomes rows and
forks."""

from collections.abc import Callable

from octavo.execution.plan import StepOutput
from octavo.outputs import BeamCandidates, FinishReason
from octavo.scheduling.beam_search import BeamSearch
from octavo.scheduling.messages import RequestUpdate, SequenceUpdate
from octavo.scheduling.plan_writer import PlanWriter, ScheduledStep
from octavo.scheduling.request import Request
from octavo.scheduling.sequence import SequenceState


def advance_searches(
    step: ScheduledStep, output: StepOutput, writer: PlanWriter, drop: Callable[[SequenceState], None]
) -> list[RequestUpdate]:
    """Give the beam searches the candidates of their beams; those that are over are reported.

    Args:
        drop: ends a beam's sequence; its blocks are free when it returns.
    """
    candidates: dict[BeamSearch, dict[SequenceState, BeamCandidates]] = {}
    for index, own in output.candidates:
        beam = step.sampled[index]
        search = beam.request.search
        if search is not None and beam.finish_reason is None:
            candidates.setdefault(search, {})[beam] = own
    updates: list[RequestUpdate] = []
    for search, of_beams in candidates.items():
        request = next(iter(of_beams)).request
        _advance(search, of_beams, writer, drop)
        if not request.sequences:
            updates.append(_hypotheses(request, search))
    return updates


def _advance(
    search: BeamSearch,
    candidates: dict[SequenceState, BeamCandidates],
    writer: PlanWriter,
    drop: Callable[[SequenceState], None],
) -> None:
    """Let a search choose among its beams' candidates. The blocks of beams that are dropped are free at once; one that
    is kept several times goes on in its own sequence and in forks of it.

    `search.advance` takes the candidates of all beams, the best beam's first, and returns the beams of the next step in
    that order: each by the place of the beam that it extends, and the token that it adds.
    """
    beams = sorted(candidates, key=lambda beam: beam.rank)
    kept = search.advance([candidates[beam] for beam in beams])
    parents = {extension.parent for extension in kept}
    for place, beam in enumerate(beams):
        if place not in parents:
            drop(beam)
    for rank, extension in enumerate(kept):
        beam = beams[extension.parent]
        if extension.parent in parents:
            parents.remove(extension.parent)
        else:
            beam = _fork(beam, writer)
        beam.rank, beam.output_token_ids = rank, search.beams[rank].token_ids
        writer.choose(beam.row, extension.token_id)


def _fork(parent: SequenceState, writer: PlanWriter) -> SequenceState:
    """Another beam with all of `parent`'s tokens but the last, and its blocks as soon as it runs."""
    request = parent.request
    index = 1 + max(sequence.index for sequence in request.sequences)
    row, fork_at = writer.fork_beam(parent.row, index), parent.num_tokens - 1
    beam = SequenceState(request, index, parent.table.fresh(), parent.num_tokens, parent, fork_at, row)
    request.sequences.append(beam)
    return beam


def _hypotheses(request: Request, search: BeamSearch) -> RequestUpdate:
    """The update of a search that is over: its `n` best hypotheses, whole, and empty ones where it has fewer."""
    update, params = request.begin_update(), request.message.params
    own_stops = params.stop_token_ids or ()
    for index in range(params.n):
        if index >= len(search.hypotheses):
            update.sequences.append(SequenceUpdate(index, [], "abort"))
            continue
        best = search.hypotheses[index]
        last = best.token_ids[-1]
        reason: FinishReason = "stop" if last in request.stop_token_ids else "length"
        update.sequences.append(
            SequenceUpdate(
                index,
                best.token_ids,
                reason,
                stop_token_id=last if last in own_stops else None,
                logprobs=best.told if params.logprobs is not None else None,
                cumulative_logprob=best.cumulative_logprob,
            )
        )
    return update
