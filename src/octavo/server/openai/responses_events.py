"""The events of a streamed response, as OpenAI's API reference has them."""

from msgspec import Struct

from octavo.server.openai.answers import ContentLogprob
from octavo.server.openai.responses_items import OutputItem, OutputText, ReasoningText, ResponseObject


class ResponseEvent(Struct, tag_field="type"):
    """What all events have."""

    sequence_number: int
    """Counts a stream's events from 0."""


class ResponseCreated(ResponseEvent, tag="response.created"):
    response: ResponseObject


class ResponseInProgress(ResponseEvent, tag="response.in_progress"):
    response: ResponseObject


class ResponseCompleted(ResponseEvent, tag="response.completed"):
    response: ResponseObject


class ResponseIncomplete(ResponseEvent, tag="response.incomplete"):
    response: ResponseObject


class ResponseFailed(ResponseEvent, tag="response.failed"):
    response: ResponseObject


class StreamError(ResponseEvent, tag="error"):
    """Comes before `response.failed`."""

    message: str
    code: str | None
    param: str | None = None


class OutputItemAdded(ResponseEvent, tag="response.output_item.added"):
    output_index: int
    item: OutputItem


class OutputItemDone(ResponseEvent, tag="response.output_item.done"):
    output_index: int
    item: OutputItem


class ItemEvent(ResponseEvent):
    """What events about the inside of an item have."""

    output_index: int
    item_id: str


class PartEvent(ItemEvent):
    """What events about a content part have."""

    content_index: int


class ContentPartAdded(PartEvent, tag="response.content_part.added"):
    part: OutputText | ReasoningText


class ContentPartDone(PartEvent, tag="response.content_part.done"):
    part: OutputText | ReasoningText


class OutputTextDelta(PartEvent, tag="response.output_text.delta"):
    delta: str
    logprobs: list[ContentLogprob]


class OutputTextDone(PartEvent, tag="response.output_text.done"):
    text: str
    logprobs: list[ContentLogprob]


class ReasoningTextDelta(PartEvent, tag="response.reasoning_text.delta"):
    delta: str


class ReasoningTextDone(PartEvent, tag="response.reasoning_text.done"):
    text: str


class CallArgumentsDelta(ItemEvent, tag="response.function_call_arguments.delta"):
    delta: str


class CallArgumentsDone(ItemEvent, tag="response.function_call_arguments.done"):
    name: str
    arguments: str


StreamEvent = (
    ResponseCreated
    | ResponseInProgress
    | OutputItemAdded
    | ContentPartAdded
    | OutputTextDelta
    | OutputTextDone
    | ReasoningTextDelta
    | ReasoningTextDone
    | ContentPartDone
    | CallArgumentsDelta
    | CallArgumentsDone
    | OutputItemDone
    | ResponseCompleted
    | ResponseIncomplete
    | ResponseFailed
    | StreamError
)
