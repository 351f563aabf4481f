"""How a model writes calls, for whoever holds it to them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Writing:
    """How a call is written in full. `{name}` stands for the tool's name, `{id}` for nine letters and digits."""

    opening: str
    """What a call begins with; its arguments follow."""
    closing: str
    """What follows them."""
    arguments: Literal["json", "python", "tagged"] = "json"
    """JSON; keyword arguments; or `<parameter=key>\\nvalue\\n</parameter>\\n` for each."""
    before: str = ""
    """What stands once in front of all calls."""
    between: str = ""
    """What stands between two calls."""
    behind: str = ""
    """What stands once behind all calls."""
    trigger: str = ""
    """What begins calls wherever it stands in a text; empty where nothing marks them, and they are the whole answer."""
    not_in_text: str = ""
    """A regex of what else readers take for the beginning of a call; `{names}` stands for those of the tools."""
    lead: str = ""
    """What may stand in front of the answer."""
    preamble: Mapping[str, Any] | None = None
    """What may come before text or calls where text is marked, too, as a format of a structural tag."""
    silent_preamble: Mapping[str, Any] | None = None
    """What of it the user is not told."""
    text_opening: str = ""
    """What marks text for the user, where it is marked."""

    def opening_of(self, name: str) -> str:
        in_string = '"{name}"' in self.opening
        return self.opening.replace("{name}", json.dumps(name, ensure_ascii=False)[1:-1] if in_string else name)
