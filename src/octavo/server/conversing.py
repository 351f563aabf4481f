"""The next turn of a conversation, whichever API asks for it: from messages and tools to the parts of its answers."""

import dataclasses
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from octavo.answers.answer_format import AnswerReader
from octavo.answers.parts import Answer, CallArguments, CallStart, Part, Reasoning
from octavo.answers.tools import ToolUse
from octavo.errors import RequestError
from octavo.output_assembler import Delta
from octavo.outputs import CompletionOutput, RequestOutput
from octavo.sampling_params import SamplingParams
from octavo.scheduling.admission import check_task
from octavo.server.errors import ApiError
from octavo.server.openai import run
from octavo.server.reasoning import ReasoningAsk
from octavo.server.request_context import RequestContext
from octavo.server.serving import Serving
from octavo.structured_outputs import StructuredOutputsParams
from octavo.tokenization.conversation import Conversation

EndReason = Literal["stop", "length", "abort", "error", "tool_calls"]
"""Why an answer is over; `stop`, too, where a stop of the client's has cut a call short: it is not to be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a request asks of the next turn."""

    conversation: Conversation
    """Without tools, and without what reasoning sets."""
    params: SamplingParams
    use: ToolUse
    reasoning: ReasoningAsk
    structured_field: str = "response_format"
    """The field that says what the text for the user conforms to (`params.structured_outputs`)."""
    cut: run.Cut | None = None
    add_special_tokens: bool = False
    cache_salt: str | None = None
    priority: int = 0
    predicted: str = ""
    """A text that answers may resemble."""


@dataclass(frozen=True, slots=True)
class Gained:
    """What one answer gained."""

    delta: Delta
    parts: Sequence[Part]
    end_reason: EndReason | None
    """With the last of an answer only."""


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """An answer that is over."""

    output: CompletionOutput
    """As the model wrote it."""
    parts: list[Part]
    """In order, as they came."""
    end_reason: EndReason | None

    @property
    def answer(self) -> Answer:
        """The parts, joined."""
        answer = Answer()
        answer.add(self.parts)
        return answer


async def prompt_of(serving: Serving, turn: Turn) -> run.Prompt:
    """The prompt that a turn goes on from.

    Raises:
        ApiError: the model cannot reason as it is asked to.
        ContextLengthError: it is too long.
        RequestError: the messages are malformed, or the template refuses them.
    """
    return await _prompt(serving, turn, await _known_variables(serving, turn))


async def _known_variables(serving: Serving, turn: Turn) -> frozenset[str]:
    """Those of the chat template that the turn is rendered by."""
    return await serving.front.template_variables(turn.conversation.chat_template, turn.use.may_call)


async def _prompt(serving: Serving, turn: Turn, known: frozenset[str]) -> run.Prompt:
    front = serving.front
    variables = dict(turn.conversation.variables)
    if turn.use.may_call:
        variables["tools"] = [tool.as_function() for tool in turn.use.tools]
    variables = turn.reasoning.variables(known, front.answer_format) | variables
    text, token_ids = await front.tokenize_chat(
        dataclasses.replace(turn.conversation, variables=variables),
        turn.add_special_tokens,
        None if turn.cut is None else serving.max_tokenize_bytes,
    )
    return run.Prompt(text, token_ids).cut(turn.cut, turn.params, serving)


async def begin(serving: Serving, context: RequestContext, turn: Turn) -> "Answers":
    """Hand a turn to the engine.

    Raises:
        OctavoError: it is refused; nothing has been begun.
    """
    check_task("generate", serving.front.ready.limits.capabilities)  # what else is wrong would not help an encoder
    answer_format = serving.front.answer_format
    params = await _held(serving, turn)
    known = await _known_variables(serving, turn)
    prompt = await _prompt(serving, turn, known)
    tells_reasoning = turn.reasoning.is_told_apart
    readers = [
        answer_format.reader(prompt.text or "", turn.use, reads_reasoning=tells_reasoning) for _ in range(params.n)
    ]
    reasoning = None
    budget = turn.reasoning.budget(known)
    if params.structured_outputs is not None or budget is not None:
        reasoning = serving.front.reasoning_section(readers[0].is_reasoning, budget)
    reads = turn.use.may_call or tells_reasoning
    await run.start(
        serving,
        context,
        [prompt],
        params,
        turn.cache_salt,
        turn.priority,
        reasoning=reasoning,
        kept_specials=answer_format.markers if reads else frozenset(),
        prediction=await _prediction(serving, turn.predicted),
    )
    return Answers(serving, context, readers, turn)


async def _prediction(serving: Serving, text: str) -> list[int]:
    """The tokens of a text that answers may resemble; what is longer than any answer is left out.

    Raises:
        RequestError: it is too long to tokenize.
    """
    if not text:
        return []
    token_ids = await serving.front.tokenize(text, add_special_tokens=False, max_bytes=serving.max_tokenize_bytes)
    return token_ids[: serving.front.ready.limits.max_model_len]


async def _held(serving: Serving, turn: Turn) -> SamplingParams:
    """The turn's parameters, with all that its answers conform to: what the user is told, and calls of tools.

    Raises:
        ApiError: answers cannot be held to that here.
    """
    asked, field = turn.params.structured_outputs, turn.structured_field
    text = None if asked is None else _form_of(asked, field)
    if text is None and asked is not None and turn.use.may_call:
        told = f"{field}: a structural tag says all that an answer holds: leave out the tools, or say it otherwise"
        raise ApiError(400, told, param=field)
    form = serving.front.answer_format.answer_grammar(turn.use, text)
    if form != text:
        if turn.use.may_call:
            field = "tools" if text is None or turn.use.must_call else f"tools and {field}"
        asked = StructuredOutputsParams(structural_tag={"type": "structural_tag", "format": form})
    if asked is not None:
        await run.check_structure(serving, asked, field)
    return msgspec.structs.replace(turn.params, structured_outputs=asked, thinking_token_budget=None)


def _form_of(asked: StructuredOutputsParams, field: str) -> dict[str, Any] | None:
    """What text conforms to, as a part of a structural tag. None for what is such a tag itself: that is the answer's
    whole text, marks and all.

    Raises:
        ApiError: the source is malformed; the message names the field.
    """
    try:
        grammar = asked.grammar_of_output()
    except RequestError as error:
        raise ApiError(400, f"{field}: {error}", param=field) from error
    match grammar.kind:
        case "json_object":
            return {"type": "json_schema", "json_schema": {"type": "object"}}
        case "json_schema":
            return {"type": "json_schema", "json_schema": json.loads(grammar.source)}
        case "choice":
            texts = json.loads(grammar.source)
            return {"type": "or", "elements": [{"type": "const_string", "value": text} for text in texts]}
        case "regex":
            return {"type": "regex", "pattern": grammar.source}
        case "structural_tag":
            return None
        case _:
            return {"type": "grammar", "grammar": grammar.source}


class Answers:
    """The answers to a turn, as they come or whole."""

    def __init__(self, serving: Serving, context: RequestContext, readers: Sequence[AnswerReader], turn: Turn) -> None:
        self._serving = serving
        self._context = context
        self._readers = readers
        self._tells_reasoning = turn.reasoning.is_told
        self._arguments: list[list[str] | None] = [None] * len(readers)
        """Of each answer's latest call, in pieces."""

    @property
    def output(self) -> RequestOutput:
        """All so far, as the model wrote it."""
        return self._context.generations[0].output

    async def gained(self) -> AsyncIterator[list[Gained]]:
        """What the answers gain, step by step, until all are over.

        Raises:
            OctavoError: the engine refused the request or died.
        """
        async for gained in run.deltas(self._serving, self._context):
            yield [self._gained(delta) for delta in gained.deltas]

    async def whole(self) -> list[WholeAnswer]:
        """The answers, once all are over: what joining what they gained gives.

        Raises:
            OctavoError: as `gained`.
        """
        parts: list[list[Part]] = [[] for _ in self._readers]
        ends: list[EndReason | None] = [None] * len(parts)
        async for steps in self.gained():
            for each in steps:
                parts[each.delta.index] += each.parts
                ends[each.delta.index] = each.end_reason
        outputs = self.output.outputs
        return [WholeAnswer(*each) for each in zip(outputs, parts, ends, strict=True)]

    def _gained(self, delta: Delta) -> Gained:
        index, reader = delta.index, self._readers[delta.index]
        parts = [*reader.push(delta.text)] if delta.text else []
        if delta.finish_reason is not None:
            parts += reader.finish()
        if not self._tells_reasoning:
            parts = [part for part in parts if not isinstance(part, Reasoning)]
        parts = [_named(part) for part in parts]
        self._note_calls(index, parts)
        has_stopped_to_call = delta.finish_reason == "stop" and self._ends_with_call(index, delta)
        return Gained(delta, parts, "tool_calls" if has_stopped_to_call else delta.finish_reason)

    def _note_calls(self, index: int, parts: Sequence[Part]) -> None:
        for part in parts:
            arguments = self._arguments[index]
            if isinstance(part, CallStart):
                self._arguments[index] = []
            elif isinstance(part, CallArguments) and arguments is not None:
                arguments.append(part.text)

    def _ends_with_call(self, index: int, delta: Delta) -> bool:
        """Whether an answer that has stopped wants its calls made: not where what the client stops it at has cut one
        short."""
        arguments = self._arguments[index]
        return arguments is not None and (delta.stop_reason is None or _is_object("".join(arguments)))


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _named(part: Part) -> Part:
    """Calls have ids, the model's own or new ones."""
    if isinstance(part, CallStart) and part.id is None:
        return dataclasses.replace(part, id=f"call_{uuid.uuid4().hex[:24]}")
    return part
