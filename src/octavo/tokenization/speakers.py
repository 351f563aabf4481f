"""Systems, developers and users of a conversation, for a chat template that is strict about who speaks when."""

from octavo.tokenization.conversation import Message, joined, text_of
from octavo.tokenization.template_trials import TemplateTrials

SYSTEM_ROLES = ("system", "developer")


def with_heard_systems(turns: list[Message], trials: TemplateTrials) -> list[Message]:
    """Turns in which the template shows all that systems say.

    Developers speak as the system where it knows none. The system speaks at once where the template shows but the first
    message, and through the user where it shows none, or none at this place.
    """
    if any(turn["role"] == "developer" for turn in turns) and not trials.knows_role("developer"):
        turns = [turn | {"role": "system"} if turn["role"] == "developer" else turn for turn in turns]
    num_first = next((index for index, turn in enumerate(turns) if turn["role"] not in SYSTEM_ROLES), len(turns))
    first, others = turns[:num_first], turns[num_first:]
    if num_first > 1 and not trials.shows_two_systems:
        told = "\n\n".join(filter(None, map(text_of, first)))
        first = [first[0] | {"content": told}]
    if first and not trials.shows_role(first[0]["role"]) and trials.shows_role("user"):
        first = [turn | {"role": "user"} for turn in first]
    return first + [
        turn | {"role": "user"} if turn["role"] in SYSTEM_ROLES and not trials.shows_late_role(turn["role"]) else turn
        for turn in others
    ]


def with_heard_users(turns: list[Message], trials: TemplateTrials) -> list[Message]:
    """Turns in which users who speak right behind a user or a tool do so in the same turn, where the template would
    refuse them otherwise."""
    heard: list[Message] = []
    for turn in turns:
        before = heard[-1]["role"] if heard and turn["role"] == "user" else None
        if _takes_user_behind(before, trials):
            heard.append(turn)
        else:
            heard[-1] = heard[-1] | {"content": joined(text_of(heard[-1]), text_of(turn))}
    return heard


def _takes_user_behind(role: str | None, trials: TemplateTrials) -> bool:
    match role:
        case "user":
            return trials.takes_two_users
        case "tool":
            return trials.takes_user_behind_tool
        case _:
            return True
