"""What is sent back, field by field as Anthropic's API reference has it."""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, field

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class MessageUsage(Struct):
    """Tokens: those of the prompt that the prefix cache had are told apart."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_creation: None = None
    inference_geo: None = None
    output_tokens_details: None = None
    server_tool_use: None = None
    service_tier: Literal["standard"] = "standard"


class TextBlock(Struct, tag_field="type", tag="text"):
    text: str
    citations: list[None] = field(default_factory=list)
    """Anthropic's schema requires the field, and Vercel's AI SDK takes no null in it."""


class ThinkingBlock(Struct, tag_field="type", tag="thinking"):
    thinking: str
    signature: str
    """A digest of the text. It is not looked at when the block comes back."""


class DirectCaller(Struct, frozen=True, tag_field="type", tag="direct"):
    """The model itself calls, and no code that it runs elsewhere."""


class ToolUseBlock(Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]
    caller: DirectCaller = DirectCaller()


Block = TextBlock | ThinkingBlock | ToolUseBlock


class Message(Struct, tag_field="type", tag="message"):
    id: str
    model: str
    content: list[Block]
    usage: MessageUsage
    role: Literal["assistant"] = "assistant"
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    stop_details: None = None
    container: None = None


class MessageStart(Struct, tag_field="type", tag="message_start"):
    message: Message


class BlockStart(Struct, tag_field="type", tag="content_block_start"):
    index: int
    content_block: Block


class TextDelta(Struct, tag_field="type", tag="text_delta"):
    text: str


class ThinkingDelta(Struct, tag_field="type", tag="thinking_delta"):
    thinking: str


class SignatureDelta(Struct, tag_field="type", tag="signature_delta"):
    signature: str


class InputDelta(Struct, tag_field="type", tag="input_json_delta"):
    partial_json: str


BlockPiece = TextDelta | ThinkingDelta | SignatureDelta | InputDelta


class BlockDelta(Struct, tag_field="type", tag="content_block_delta"):
    index: int
    delta: BlockPiece


class BlockStop(Struct, tag_field="type", tag="content_block_stop"):
    index: int


class MessageEnd(Struct):
    stop_reason: StopReason | None
    stop_sequence: str | None


class MessageDelta(Struct, tag_field="type", tag="message_delta"):
    delta: MessageEnd
    usage: MessageUsage


class MessageStop(Struct, tag_field="type", tag="message_stop"):
    pass


Event = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop


class MessageErrorDetail(Struct):
    type: str
    message: str
    details: dict[str, Any] | UnsetType = UNSET


class MessageError(Struct, tag_field="type", tag="error"):
    """What is sent in place of an answer, or ends a stream that fails."""

    error: MessageErrorDetail
    request_id: str | UnsetType = UNSET


class TokenCount(Struct):
    """What /v1/messages/count_tokens answers."""

    input_tokens: int
