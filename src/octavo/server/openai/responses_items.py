"""What /v1/responses sends back, field by field as OpenAI's API reference has it: a response and its output items."""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from octavo.outputs import RequestOutput
from octavo.server.openai.answers import ContentLogprob

ItemStatus = Literal["in_progress", "completed", "incomplete"]
FailureCode = Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
ResponseStatus = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]


class OutputText(Struct, tag_field="type", tag="output_text"):
    """What the user is told."""

    text: str
    annotations: list[Any] = []
    logprobs: list[ContentLogprob] = []


class ReasoningText(Struct, tag_field="type", tag="reasoning_text"):
    """What the model has thought."""

    text: str


class OutputMessage(Struct, tag_field="type", tag="message"):
    id: str
    status: ItemStatus = "in_progress"
    role: Literal["assistant"] = "assistant"
    content: list[OutputText] = []


class OutputReasoning(Struct, tag_field="type", tag="reasoning"):
    id: str
    status: ItemStatus = "in_progress"
    summary: list[Any] = []
    """Always empty: the reasoning itself is told."""
    content: list[ReasoningText] = []
    encrypted_content: str | UnsetType = UNSET
    """What clients send back that keep no content of reasoning; where the request asks for it."""


class OutputCall(Struct, tag_field="type", tag="function_call"):
    id: str
    call_id: str
    name: str
    arguments: str = ""
    status: ItemStatus = "in_progress"


OutputItem = OutputMessage | OutputReasoning | OutputCall


class InputTokensDetails(Struct):
    cached_tokens: int
    """Those that the prefix cache had."""
    cache_write_tokens: int = 0
    """Always 0: writing into the prefix cache is no work of its own here."""


class OutputTokensDetails(Struct):
    reasoning_tokens: int


class ResponseUsage(Struct):
    """Tokens of a request."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int

    @classmethod
    def of(cls, output: RequestOutput, num_reasoning: int) -> "ResponseUsage":
        num_prompt = len(output.prompt_token_ids)
        num_generated = sum(len(sequence.token_ids) for sequence in output.outputs)
        num_cached = output.metrics.memory.num_cached_tokens
        return cls(
            num_prompt,
            InputTokensDetails(num_cached),
            num_generated,
            OutputTokensDetails(num_reasoning),
            num_prompt + num_generated,
        )


class IncompleteDetails(Struct):
    reason: Literal["max_output_tokens"]


class ResponseFailure(Struct):
    code: FailureCode
    message: str


class ResponseObject(Struct, tag_field="object", tag="response"):
    """An answer, and what was asked for, as it was carried out."""

    id: str
    created_at: int
    model: str
    status: ResponseStatus = "in_progress"
    completed_at: int | None = None
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    output: list[OutputItem] = []
    usage: ResponseUsage | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] = {}
    parallel_tool_calls: bool = True
    reasoning: dict[str, str | None] = {}
    temperature: float = 1.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    text: dict[str, Any] = {}
    tool_choice: Any = "auto"
    tools: list[dict[str, Any]] = []
    """Those that were offered to the model."""
    top_logprobs: int = 0
    truncation: str = "disabled"
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["default"] = "default"
    background: Literal[False] = False
    store: Literal[False] = False
    """Nothing is kept."""
    previous_response_id: None = None


class InputTokenCount(Struct, tag_field="object", tag="response.input_tokens"):
    """How long a prompt is."""

    input_tokens: int
