"""The field `prediction` of chat completions: a text that the answer may resemble."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from octavo.server.openai.body import FirstError, Text


class PredictedPart(BaseModel):
    """A piece of the text."""

    model_config = ConfigDict(strict=True)

    type: Literal["text"]
    text: Text


class Prediction(BaseModel):
    """What the answer may resemble, such as the file that it edits: it comes faster where it does, and is the same."""

    model_config = ConfigDict(strict=True)

    type: Literal["content"]
    content: Text | Annotated[list[PredictedPart], FirstError()] = Field(description="the text, or its pieces")

    @property
    def text(self) -> str:
        """All of it."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
