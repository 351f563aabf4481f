"""Formats and patterns of strings that clients send, as the compiler of grammars knows them."""

from typing import Any

Schema = dict[str, Any]

SAY_NOTHING = frozenset({"password", "binary", "path", "file-path", "directory-path", "textarea", "float", "double"})
"""Formats that any text has: they tell how to show it, or what it is for. Those of numbers tell how to keep them."""
BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
PATTERNS = {"base64": BASE64, "byte": BASE64}
"""Formats that a regex says the same as."""
RANGES = {"int32": 2**31, "int64": 2**63}
"""Formats of integers, and the first that is too large."""
SAME_PATTERNS = {
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$": (
        r"^(?:[A-Za-z0-9_'+\-]+\.)*[A-Za-z0-9_'+\-]*[A-Za-z0-9_+\-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
    ),
}
"""Patterns with look-around, which cannot be compiled, and what they match in other words: that of zod's emails."""


def with_known_format(own: Schema, whole: Schema) -> Schema:
    """A schema of a string or a number, without formats and patterns that are unknown but can be said otherwise."""
    if own.get("pattern") in SAME_PATTERNS:
        own = {**own, "pattern": SAME_PATTERNS[own["pattern"]]}
    name = own.get("format")
    if not isinstance(name, str):
        return own
    rest = {key: value for key, value in own.items() if key != "format"}
    if name in SAY_NOTHING:
        return rest
    if name in PATTERNS and "pattern" not in own:
        return {**rest, "pattern": PATTERNS[name]}
    if name in RANGES and own.get("type") == "integer":
        least, most = own.get("minimum", -RANGES[name]), own.get("maximum", RANGES[name] - 1)
        return {**rest, "minimum": max(least, -RANGES[name]), "maximum": min(most, RANGES[name] - 1)}
    if name == "ipvanyaddress" and "anyOf" not in own:
        return {**rest, "anyOf": [{"type": "string", "format": "ipv4"}, {"type": "string", "format": "ipv6"}]}
    return own
