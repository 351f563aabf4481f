"""What every endpoint is given: the front, the configuration, and the counts of this server."""

import time
from dataclasses import dataclass, field

from starlette.requests import Request

from octavo import __version__
from octavo.checkpoints.generation_config import SamplingDefaults
from octavo.config import EngineConfig
from octavo.knobs import flag, parse_size
from octavo.metrics.requests import Metrics
from octavo.sampling.grammar_bounds import GrammarBounds
from octavo.server.errors import ApiError
from octavo.server.front import Front
from octavo.server.request_limits import OpenRequests
from octavo.server_config import ServerConfig


@dataclass(frozen=True, slots=True)
class Serving:
    """A server's parts."""

    front: Front
    engine: EngineConfig
    config: ServerConfig
    open_requests: OpenRequests
    metrics: Metrics
    sampling_defaults: SamplingDefaults
    """For what requests leave out."""
    created: int = field(default_factory=lambda: int(time.time()))
    """When the server started, in Unix seconds."""

    @property
    def model_names(self) -> tuple[str, ...]:
        """What the model is called, as /v1/models lists it."""
        return served_names(self.engine, self.config)

    @property
    def model_name(self) -> str:
        """The first of its names: what it is called in answers, whichever name the request used, and in metrics."""
        return self.model_names[0]

    @property
    def system_fingerprint(self) -> str:
        """What an answer depends on beside its request: the version, the model and the form of its weights."""
        form = "-".join(filter(None, (self.front.ready.dtype, self.front.ready.weights)))
        return f"octavo-{__version__}-{self.model_name}-{form}"

    @property
    def grammar_bounds(self) -> GrammarBounds:
        """Caps on what answers are to conform to."""
        config = self.config
        return GrammarBounds(
            max_grammar_bytes=parse_size(config.max_grammar_bytes, 2**40, flag("max_grammar_bytes")),
            max_grammar_depth=config.max_grammar_depth,
            max_grammar_repeats=config.max_grammar_repeats,
            max_grammar_time=config.max_grammar_time,
        )

    @property
    def max_tokenize_bytes(self) -> int:
        """Cap on the UTF-8 bytes of a text that is tokenized without having to fit into the model's context."""
        return parse_size(self.config.max_tokenize_bytes, 2**40, flag("max_tokenize_bytes"))

    def check_model(self, name: str | None) -> None:
        """Refuse a request for another model. One that names none, or "", is for this one.

        Raises:
            ApiError: with status 404.
        """
        if name and name not in (*self.model_names, self.engine.model):
            raise ApiError(
                404,
                f"the model {name[:100]!r} is not served here; this server has "
                + ", ".join(repr(served) for served in self.model_names),
                code="model_not_found",
                param="model",
            )


def served_names(engine: EngineConfig, config: ServerConfig) -> tuple[str, ...]:
    """What a server calls its model: one name or several, that of answers first."""
    return config.served_model_name or (engine.model,)


def serving_of(request: Request) -> Serving:
    """The server that a request came to."""
    serving: Serving = request.app.state.serving
    return serving
