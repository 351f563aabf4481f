"""What every endpoint is given: the front, the configuration, and the counts of this server."""

import time
from dataclasses import dataclass, field

from starlette.requests import Request

from octavo.checkpoints.generation_config import SamplingDefaults
from octavo.config import EngineConfig, ServerConfig
from octavo.server.errors import ApiError
from octavo.server.front import Front
from octavo.server.metrics import Metrics
from octavo.server.request_limits import OpenRequests


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
    def model_name(self) -> str:
        """What the model is called in answers."""
        return self.config.served_model_name or self.engine.model

    def check_model(self, name: str | None) -> None:
        """Refuse a request for another model. One that names none is for this one.

        Raises:
            ApiError: with status 404.
        """
        if name not in (None, self.model_name, self.engine.model):
            raise ApiError(
                404,
                f"the model {name[:100]!r} is not served here; this server has {self.model_name!r}",
                code="model_not_found",
                param="model",
            )


def serving_of(request: Request) -> Serving:
    """The server that a request came to."""
    serving: Serving = request.app.state.serving
    return serving
