"""Errors as Anthropic's clients expect them."""

from octavo.server.anthropic.answers import MessageError, MessageErrorDetail
from octavo.server.errors import ApiError, api_error
from octavo.server.openai.event_stream import EventForm, named_event

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}


THREAD_UNSUPPORTED = "thread_unsupported_request"
"""The code of the refusal of a stored conversation: Anthropic's tool runner goes on without one when it sees it."""


def error_event(error: ApiError) -> MessageError:
    """An error in Anthropic's form."""
    detail = MessageErrorDetail(_TYPES.get(error.status, "invalid_request_error"), error.body().error.message)
    if error.code == THREAD_UNSUPPORTED:
        detail.details = {"error_code": THREAD_UNSUPPORTED, "unsupported": [error.param]}
    return MessageError(detail)


EVENTS = EventForm(named_event, lambda error: named_event(error_event(api_error(error))))
"""As the events of /v1/messages are written."""
