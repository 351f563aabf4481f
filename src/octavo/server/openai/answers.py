"""What is sent back, field by field as OpenAI's API reference has it."""

from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from octavo.outputs import DraftUse, FinishReason, RequestOutput

StopReason = int | str | None
"""The stop text or the stop token that ended an answer; None where it was the model's own end, or the length."""
ChatFinishReason = FinishReason | Literal["tool_calls", "function_call"]
PromptLogprobs = list[dict[int, "PromptLogprob"] | None]


class PromptTokensDetails(Struct):
    """Of the prompt's tokens, those that the prefix cache had."""

    cached_tokens: int


class CompletionTokensDetails(Struct):
    """Of guesses at the answers' tokens, how many were right and how many wrong."""

    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class Usage(Struct):
    """Tokens of a request: prompts counted once, answers all."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails

    @classmethod
    def of(cls, outputs: list[RequestOutput]) -> "Usage":
        num_prompt = sum(len(output.prompt_token_ids) for output in outputs)
        num_generated = sum(len(sequence.token_ids) for output in outputs for sequence in output.outputs)
        num_cached = sum(output.metrics.memory.num_cached_tokens for output in outputs)
        drafts = sum((output.metrics.drafts for output in outputs), DraftUse())
        return cls(
            num_prompt,
            num_generated,
            num_prompt + num_generated,
            PromptTokensDetails(num_cached),
            CompletionTokensDetails(drafts.num_accepted, drafts.num_drafted - drafts.num_accepted),
        )


class PromptLogprob(Struct):
    """A candidate for a position of the prompt (vLLM's extension)."""

    logprob: float
    rank: int
    decoded_token: str


class TopLogprob(Struct):
    """A candidate for a position of a chat answer. `bytes` are the token's UTF-8, maybe a part of a character."""

    token: str
    logprob: float
    bytes: list[int]


class ContentLogprob(TopLogprob):
    """The token of a position and its most likely alternatives."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct):
    content: list[ContentLogprob]
    refusal: None = None


class CalledFunction(Struct):
    name: str
    arguments: str
    """JSON text, as far as the model wrote one."""


class ToolCall(Struct):
    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


class ChatMessage(Struct):
    content: str | None
    """Null where the answer has calls and no text."""
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    annotations: list[None] = []
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    """The same, under another name that clients look for."""
    tool_calls: list[ToolCall] | UnsetType = UNSET
    function_call: CalledFunction | UnsetType = UNSET


class ChatChoice(Struct):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason | None
    stop_reason: StopReason = None
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(Struct, tag_field="object", tag="chat.completion"):
    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class FunctionDelta(Struct):
    name: str | UnsetType = UNSET
    arguments: str = ""


class ToolCallDelta(Struct):
    """A piece of a call. Its id, type and name come with the first."""

    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class ChatDelta(Struct):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET
    function_call: FunctionDelta | UnsetType = UNSET


class ChatChunkChoice(Struct):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: ChatFinishReason | None = None
    stop_reason: StopReason | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET


class ChatChunk(Struct, tag_field="object", tag="chat.completion.chunk"):
    id: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    system_fingerprint: str
    usage: Usage | UnsetType | None = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class TextLogprobs(Struct):
    """Lists with an entry for each token; those of a prompt's first token are None."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    """Where the token's text begins, in characters from the choice's start."""


class TextChoice(Struct):
    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: StopReason | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class TextCompletion(Struct, tag_field="object", tag="text_completion"):
    """A completion, and a chunk of a streamed one."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    system_fingerprint: str
    usage: Usage | UnsetType | None = UNSET


class ModelCard(Struct, tag_field="object", tag="model"):
    """The served model."""

    id: str
    created: int
    owned_by: str
    max_model_len: int
    """Tokens of the longest sequence that model and memory allow."""
    display_name: str
    """The id, for Anthropic's clients, as the next two."""
    created_at: str
    """ISO 8601."""
    type: Literal["model"] = "model"


class ModelList(Struct, tag_field="object", tag="list"):
    data: list[ModelCard]
    first_id: str
    """This and the next two are for Anthropic's clients: the list is whole."""
    last_id: str
    has_more: bool = False


class Tokens(Struct):
    """What /tokenize answers."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Version(Struct):
    """What /version answers."""

    version: str


class Well(Struct):
    """What /health and its like answer where all is well."""

    status: Literal["ok"] = "ok"


class Unavailable(Struct):
    """And where it is not."""

    reason: str
    status: Literal["unavailable"] = "unavailable"


class Detokenized(Struct):
    """What /detokenize answers."""

    prompt: str


Answer = ChatCompletion | TextCompletion
Chunk = ChatChunk | TextCompletion


def json_response(answer: Answer | ModelCard | ModelList) -> Response:
    """An answer sent whole."""
    return Response(msgspec.json.encode(answer), media_type="application/json")
