"""Figures as files have them."""

from typing import Any

import msgspec


def as_json(figures: Any) -> bytes:
    """Structs, or whatever else msgspec encodes, as JSON that people can read."""
    return msgspec.json.format(msgspec.json.encode(figures)) + b"\n"
