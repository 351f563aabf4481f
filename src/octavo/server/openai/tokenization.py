"""POST /tokenize and /detokenize, GET /tokenizer_info and /version: the model's tokenizer, as vLLM offers it."""

import asyncio
import json
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request
from msgspec import json as msgspec_json
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from octavo import __version__
from octavo.server.errors import ApiError
from octavo.server.openai.answers import Detokenized, Tokens, Version
from octavo.server.openai.body import FirstError, Text, TokenIds
from octavo.server.openai.contract import gives, takes
from octavo.server.openai.conversation_fields import ConversationFields, Messages
from octavo.server.openai.foreign_fields import Neutral, check_foreign
from octavo.server.openai.json_body import read_body
from octavo.server.request_context import context_of
from octavo.server.serving import Serving, serving_of

router = APIRouter()


class TokenizeBody(ConversationFields):
    """A text, or a conversation."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: Text | None = Field(None, description="name of the served model, as /v1/models lists it")
    prompt: Text | None = Field(None, description="a text; this or messages")
    messages: Messages | None = Field(None, description="a conversation, for the chat template")
    add_special_tokens: bool | None = Field(
        None, description="put the model's own tokens around the text; by default with a prompt, not with messages"
    )
    return_token_strs: bool | None = Field(None, description="tell how the vocabulary spells each token")
    tools: Annotated[list[Any], FirstError()] | None = Field(None, description="for the chat template")

    foreign: ClassVar[dict[str, Neutral]] = dict.fromkeys(
        ("media_io_kwargs", "mm_processor_kwargs", "truncate_prompt_tokens"), ()
    )
    """Fields of vLLM's that would change the tokens and are refused by name."""

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            ApiError: the message names the field.
        """
        if (self.prompt is None) == (self.messages is None):
            both = "both are given" if self.messages is not None else "neither is given"
            raise ApiError(400, f"send either prompt or messages: {both}", param="prompt")
        check_foreign(self.model_extra or {}, self.foreign)
        self.check_conversation()


class DetokenizeBody(BaseModel):
    """Token ids."""

    model_config = ConfigDict(strict=True)

    model: Text | None = Field(None, description="name of the served model, as /v1/models lists it")
    tokens: TokenIds = Field(description="token ids")


@router.post(
    "/tokenize",
    summary="Token ids of a text or a conversation",
    openapi_extra=takes(TokenizeBody),
    responses=gives(Tokens),
)
async def tokenize(request: Request) -> Response:
    """What completions (of a prompt) and chat completions (of messages) would give the model."""
    body = await read_body(request, TokenizeBody)
    serving = _serving_for(body.model, request)
    body.check()
    token_ids = await _token_ids(serving, body)

    def answer() -> bytes:
        pieces = serving.front.tokenizer.token_pieces(token_ids) if body.return_token_strs else None
        return msgspec_json.encode(Tokens(len(token_ids), serving.front.longest_sequence, token_ids, pieces))

    return Response(await asyncio.to_thread(answer), media_type="application/json")


@router.post(
    "/detokenize", summary="The text of token ids", openapi_extra=takes(DetokenizeBody), responses=gives(Detokenized)
)
async def detokenize(request: Request) -> Response:
    """Special tokens are spelled out, so that the text is what was tokenized."""
    body = await read_body(request, DetokenizeBody)
    serving = _serving_for(body.model, request)

    def answer() -> bytes:
        vocab_size = serving.front.ready.limits.vocab_size
        wrong = next((token for token in body.tokens if not 0 <= token < vocab_size), None)
        if wrong is not None:
            told = f"tokens holds token id {wrong}, and this model's ids are 0 to {vocab_size - 1}"
            raise ApiError(400, told, param="tokens")
        text = serving.front.tokenizer.decode(body.tokens, skip_special_tokens=False)
        return msgspec_json.encode(Detokenized(text))

    return Response(await asyncio.to_thread(answer), media_type="application/json")


@router.get("/tokenizer_info", summary="The tokenizer's settings", responses=gives(None, errors=(401,)))
async def tokenizer_info(request: Request) -> Response:
    """As tokenizer_config.json has them, with the chat template in use."""
    description = serving_of(request).front.tokenizer.description()
    # Its numbers may be of any size: that for "no limit" has thirty digits.
    return Response(json.dumps(description), media_type="application/json")


@router.get("/version", summary="Octavo's version", responses=gives(Version, errors=(401,)))
async def version() -> Response:
    """Of this server."""
    return Response(msgspec_json.encode(Version(__version__)), media_type="application/json")


def _serving_for(model: str | None, request: Request) -> Serving:
    context_of(request).model = model
    serving = serving_of(request)
    serving.check_model(model)
    return serving


async def _token_ids(serving: Serving, body: TokenizeBody) -> list[int]:
    """Made off the event loop, as for a completion.

    Raises:
        RequestError: the text is over the cap, or the messages are malformed or the template refuses them.
    """
    if body.prompt is not None:
        return await serving.front.tokenize(
            body.prompt, body.add_special_tokens is not False, serving.max_tokenize_bytes
        )
    tools = {"tools": body.tools} if body.tools else {}
    conversation = body.conversation(body.messages or [], serving.config.allow_request_templates, **tools)
    _, token_ids = await serving.front.tokenize_chat(
        conversation, bool(body.add_special_tokens), serving.max_tokenize_bytes
    )
    return token_ids
