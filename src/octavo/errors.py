"""Every error Octavo raises on purpose, in one hierarchy. A message names the cause, the limit and the flag that
changes it."""


class OctavoError(Exception):
    """Base of all of Octavo's own errors."""


class ConfigError(OctavoError, ValueError):
    """A knob has a value that cannot work, alone or beside the others."""


class ModelError(OctavoError):
    """A model cannot be found, read or recognised: missing files, corrupt weights, an unknown architecture."""


class RequestError(OctavoError, ValueError):
    """A request is wrong or can never be served by this engine. Raised before anything is allocated for it."""


class GrammarError(RequestError):
    """A grammar that is wrong, or beyond what can be followed."""


class QueueTimeError(OctavoError):
    """A request waits for longer than it may before it begins. Another time it may be served."""


class ContextLengthError(RequestError):
    """A prompt leaves no room for a token in the model's context, or in the memory for it."""


class EngineError(OctavoError, RuntimeError):
    """The engine is not able to go on: a broken invariant or a dead executor."""


class FailedRequestError(OctavoError, RuntimeError):
    """A request failed in the middle of its work; the engine goes on with the others."""


class LostRankError(EngineError):
    """A rank waits in vain for another one of its model, which has ended."""


def error_named(kind: str, message: str) -> OctavoError:
    """The error of a class in this module that another process has told of by name."""
    error: OctavoError = globals().get(kind, EngineError)(message)
    return error
