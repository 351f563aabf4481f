"""A request's body, from bytes to checked fields, without holding the event loop: a large body is read in a thread,
and what could be slow to build is counted before anything is built of it."""

import asyncio
import codecs
import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
from fastapi import Request
from pydantic import BaseModel

from octavo.server.errors import ApiError
from octavo.server.openai.aliases import Alias, own_fields
from octavo.server.request_limits import check_sizes
from octavo.server.serving import serving_of

SMALL_BYTES = 2**16
"""Bodies up to here are read at once: that takes about a millisecond, whatever they hold."""
MAX_PARTS = 100_000
"""Lists, objects and texts of one body, names of fields included. Making them costs much more than reading long texts
does."""
MAX_NUMBERS = 1_500_000
"""Numbers and further single values of one body."""

_MARK = re.compile(rb'["\[{]')
_PIECE_OF_TEXT = re.compile(rb'(?:[^"\\]++|\\.){0,4096}+("?)', re.DOTALL)

NO_ALIASES: Mapping[str, Alias] = MappingProxyType({})

Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request, kind: type[Body], aliases: Mapping[str, Alias] = NO_ALIASES) -> Body:
    """The body of a request as its endpoint wants it.

    Args:
        aliases: other names of its fields.

    Raises:
        ApiError: it is no JSON, contradicts itself, or is larger than the server's limits.
        pydantic.ValidationError: a field is wrong.
    """
    body, serving = await request.body(), serving_of(request)

    def read() -> Body:
        content = own_fields(json_object(body), aliases)
        check_sizes(content, serving.config, serving.front.ready.limits)
        return kind.model_validate(content)

    return read() if len(body) <= SMALL_BYTES else await asyncio.to_thread(read)


def json_object(body: bytes) -> dict[str, Any]:
    """The object that a body holds.

    The standard library reads small bodies, because its errors say where they are; msgspec reads large ones, because
    it is several times as fast.

    Raises:
        ApiError: the body is no JSON object, or has too many parts.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        if len(body) <= SMALL_BYTES:
            content = json.loads(body)
        else:
            _check_parts(body)
            content = msgspec.json.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(f"a number in it is too large, numbers must be finite ({error})") from error
    except UnicodeDecodeError as error:
        raise _invalid(f"byte {error.start} is not {error.encoding.upper()} ({error.reason})") from error
    except RecursionError as error:
        raise _invalid("it is nested too deeply") from error
    except (json.JSONDecodeError, msgspec.DecodeError) as error:
        raise _invalid(str(error)) from error
    except ValueError as error:  # the interpreter converts whole numbers only up to a length
        raise _invalid("a number in it has too many digits") from error
    if not isinstance(content, dict):
        raise ApiError(400, "the body must be a JSON object")
    return content


def _invalid(reason: str) -> ApiError:
    return ApiError(400, f"the body is not valid JSON: {reason}", code="invalid_json")


def _check_parts(body: bytes) -> None:
    """Most bodies have few of the marks at all; in others those inside of texts are left out."""
    num_marks = body.count(b"[") + body.count(b"{") + body.count(b'"') // 2
    if num_marks <= MAX_PARTS and body.count(b",") <= MAX_NUMBERS:
        return
    num_parts = num_numbers = place = 0
    while mark := _MARK.search(body, place):
        num_numbers += body.count(b",", place, mark.start())
        num_parts += 1
        _check_counts(num_parts, num_numbers)
        place = mark.end()
        if mark.group() == b'"':
            place = _end_of_text(body, place)
    _check_counts(num_parts, num_numbers + body.count(b",", place))


def _check_counts(num_parts: int, num_numbers: int) -> None:
    for count, most, what in (
        (num_parts, MAX_PARTS, "lists, objects and texts"),
        (num_numbers, MAX_NUMBERS, "numbers"),
    ):
        if count > most:
            raise ApiError(
                400,
                f"the body has over {most} {what}, the most that this server reads: send fewer messages or prompts at "
                "once",
                code="body_too_complex",
            )


def _end_of_text(body: bytes, place: int) -> int:
    """The place behind the text's closing quote. In pieces: the interpreter changes threads only between two."""
    while piece := _PIECE_OF_TEXT.match(body, place):
        if piece.group(1) or piece.end() == place:
            return piece.end()
        place = piece.end()
    return place
