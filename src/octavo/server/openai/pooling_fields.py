"""What the bodies of requests that pool have in common."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from octavo.server.openai.body import MAX_WHOLE, FirstError, StopText, Text, TokenIds, Whole
from octavo.server.openai.foreign_fields import Neutral, check_foreign

Inputs = Text | TokenIds | Annotated[list[Text], FirstError()] | Annotated[list[TokenIds], FirstError()]
FOREIGN: dict[str, Neutral] = {
    "activation": (),
    "chat_template": (),
    "embed_dtype": ("float32",),
    "endianness": ("native", "little"),
    "instruction": ("",),
    "messages": (),
    "mm_processor_kwargs": ({},),
    "priority": (0,),
    "softmax": (),
}
"""Fields of other servers that would change what is pooled, refused by name."""


class PoolingFields(BaseModel):
    """How prompts are read. Unknown fields, `user` among them, change nothing and are ignored."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: Text | None = Field(None, description="name of the served model, as /v1/models lists it")
    truncate_prompt_tokens: Whole | None = Field(
        None, ge=-1, le=MAX_WHOLE, description="keep so many tokens of a prompt; -1 is as many as the model takes"
    )
    truncation_side: Literal["left", "right"] | None = Field(
        None, description="where a prompt is cut: left, the default, keeps its end"
    )
    add_special_tokens: bool | None = Field(
        None, description="put the model's own special tokens around texts; the default"
    )
    cache_salt: StopText | None = Field(
        None, description="share computed prefixes only with requests of the same tenant that bring the same text"
    )

    foreign: ClassVar[dict[str, Neutral]] = FOREIGN

    def check_supported(self) -> None:
        """Refuse what cannot be done.

        Raises:
            ApiError: the message names the field.
        """
        check_foreign(self.model_extra or {}, self.foreign)


def inputs_of(given: Inputs) -> Sequence[str | list[int]]:
    """The inputs one by one: a flat list of token ids is one."""
    if isinstance(given, str):
        return [given]
    return [given] if given and isinstance(given[0], int) else given  # type: ignore[return-value]
