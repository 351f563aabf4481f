"""The fields of a body that say how a conversation becomes a prompt, beside its messages."""

from typing import Annotated, Any

from pydantic import BaseModel, Field, WithJsonSchema

from octavo.server.errors import ApiError
from octavo.server.openai.body import Encodable, FirstError, Text
from octavo.server.openai.foreign_fields import unsupported
from octavo.tokenization.conversation import RESERVED_VARIABLES, ROLE, TEXT_KEYS, Conversation

_PART = {
    "type": "object",
    "properties": {
        "type": {"enum": [*TEXT_KEYS]},
        **{key: {"type": "string"} for key in TEXT_KEYS.values()},
    },
    "required": ["type"],
}
_MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"type": "string", "pattern": f"^{ROLE.pattern}$", "examples": ["system", "user", "assistant", "tool"]},
        "content": {
            "anyOf": [{"type": "string"}, {"type": "array", "items": _PART}, {"type": "null"}],
            "description": "null or absent in turns of assistants and tools only",
        },
        "name": {"type": ["string", "null"]},
        "tool_call_id": {"type": ["string", "null"]},
    },
    "required": ["role"],
    "description": "and whatever else the chat template knows",
}
Objects = Annotated[list[dict[str, Any]], FirstError(), Encodable]
Messages = Annotated[Objects, WithJsonSchema({"type": "array", "items": _MESSAGE, "minItems": 1})]
"""`tokenization.conversation` checks them, for chats that do not come over HTTP, too."""


class ConversationFields(BaseModel):
    """For bodies that hold messages."""

    add_generation_prompt: bool | None = Field(None, description="end the prompt with the answer's opening; default")
    continue_final_message: bool | None = Field(None, description="go on with the last message; opens no new one")
    chat_template: Text | None = Field(None, description="in place of the model's; with --allow-request-templates")
    chat_template_kwargs: Annotated[dict[str, Any], Encodable] | None = Field(
        None, description="further variables of the chat template"
    )
    documents: Objects | None = Field(None, description="for chat templates that show documents")

    def check_conversation(self) -> None:
        """Refuse fields that exclude each other.

        Raises:
            ApiError: the message names the field.
        """
        for name in RESERVED_VARIABLES:
            if name in (self.chat_template_kwargs or {}):
                raise ApiError(400, f"chat_template_kwargs must not set {name}", param="chat_template_kwargs")
        if self.continue_final_message and self.add_generation_prompt:
            raise ApiError(
                400,
                "continue_final_message and add_generation_prompt exclude each other: leave out the one or the other",
                param="continue_final_message",
            )

    def conversation(self, messages: list[dict[str, Any]], allow_template: bool, **variables: Any) -> Conversation:
        """What the prompt is made of.

        Args:
            variables: of the template, beside the body's own.

        Raises:
            ApiError: it brings a template, and the server takes none.
        """
        if self.chat_template is not None and not allow_template:
            raise unsupported("chat_template", "leave it out, or start the server with --allow-request-templates")
        documents = {"documents": self.documents} if self.documents else {}
        continues = bool(self.continue_final_message)
        return Conversation(
            messages=messages,
            add_generation_prompt=self.add_generation_prompt is not False and not continues,
            continue_final_message=continues,
            chat_template=self.chat_template,
            variables={**(self.chat_template_kwargs or {}), **documents, **variables},
        )
