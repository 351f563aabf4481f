"""The blocks of an answer, and the events that tell of them, from the answer's parts."""

import base64
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic_core import from_json

from octavo.answers.parts import CallArguments, CallStart, Part, Reasoning, Text
from octavo.server.anthropic.answers import (
    Block,
    BlockDelta,
    BlockPiece,
    BlockStart,
    BlockStop,
    Event,
    InputDelta,
    SignatureDelta,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
)

_Open = type[Text] | type[Reasoning] | int
"""The kind of the block that parts go on with; a call's is its index."""


class BlockWriter:
    """Writes one answer's blocks as events. A block ends where one of another kind begins."""

    def __init__(self) -> None:
        self._num_blocks = 0
        self._open: _Open | None = None
        self._thoughts = hashlib.sha256()

    def write(self, parts: Iterable[Part]) -> Iterator[Event]:
        """The events of what comes next."""
        for part in parts:
            match part:
                case Text(text):
                    yield from self._go_on(Text, TextBlock(""), TextDelta(text))
                case Reasoning(text):
                    yield from self._go_on(Reasoning, ThinkingBlock("", ""), ThinkingDelta(text))
                    self._thoughts.update(text.encode())
                case CallStart(index, name, call_id):
                    yield from self._begin(index, ToolUseBlock(tool_use_id(call_id), name, {}))
                case CallArguments(index, text):
                    yield BlockDelta(self._num_blocks - 1, InputDelta(text))

    def end(self) -> Iterator[Event]:
        """The events that end the last block."""
        if self._open is Reasoning:
            yield BlockDelta(self._num_blocks - 1, SignatureDelta(_signature(self._thoughts)))
            self._thoughts = hashlib.sha256()
        if self._open is not None:
            yield BlockStop(self._num_blocks - 1)
        self._open = None

    def _go_on(self, kind: _Open, block: Block, piece: BlockPiece) -> Iterator[Event]:
        if self._open is not kind:
            yield from self._begin(kind, block)
        yield BlockDelta(self._num_blocks - 1, piece)

    def _begin(self, kind: _Open, block: Block) -> Iterator[Event]:
        yield from self.end()
        self._open = kind
        self._num_blocks += 1
        yield BlockStart(self._num_blocks - 1, block)


def blocks_of(parts: Iterable[Part]) -> list[Block]:
    """An answer's blocks, whole: what a client makes of the events."""
    writer, blocks, inputs = BlockWriter(), list[Block](), dict[int, str]()
    for event in (*writer.write(parts), *writer.end()):
        match event:
            case BlockStart(_, block):
                blocks.append(block)
            case BlockDelta(index, piece):
                block = blocks[index]
                match piece, block:
                    case TextDelta(text), TextBlock():
                        block.text += text
                    case ThinkingDelta(text), ThinkingBlock():
                        block.thinking += text
                    case SignatureDelta(text), ThinkingBlock():
                        block.signature = text
                    case InputDelta(text), _:
                        inputs[index] = inputs.get(index, "") + text
    for index, text in inputs.items():
        block = blocks[index]
        if isinstance(block, ToolUseBlock):
            block.input = _input(text)
    return blocks


def tool_use_id(call_id: str | None) -> str:
    """As Anthropic's ids of calls begin."""
    return "toolu_" + (call_id or "").removeprefix("call_")


def _input(text: str) -> dict[str, Any]:
    """The arguments of a call. Those of an answer that was cut short are as far as they go, as the official client
    reads them; what is no object at all is quoted."""
    try:
        read = from_json(text, allow_partial="trailing-strings")
    except ValueError:
        read = None
    return read if isinstance(read, dict) else {"INVALID_JSON": text}


def _signature(thoughts: Any) -> str:
    return base64.b64encode(thoughts.digest()).decode()
