"""The requests that wait and those that run, in order of arrival."""

from collections import OrderedDict

from octavo.scheduling.request import Request, RequestState


class Queues:
    """A request is in one of two queues until it is over. Those that run hold blocks; those that wait hold none of
    the pool's."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, Request] = OrderedDict()
        self._running: dict[str, Request] = {}
        self.num_running_sequences = 0
        """Places of the running requests' sequences."""

    @property
    def waiting(self) -> list[Request]:
        return list(self._waiting.values())

    @property
    def running(self) -> list[Request]:
        return list(self._running.values())

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def __bool__(self) -> bool:
        return bool(self._running or self._waiting)

    def find(self, request_id: str) -> Request | None:
        return self._running.get(request_id) or self._waiting.get(request_id)

    @property
    def next(self) -> Request | None:
        """Who is admitted next."""
        return next(iter(self._waiting.values()), None)

    @property
    def latest(self) -> Request:
        """Of those that run the latest arrival. There must be one."""
        return next(reversed(self._running.values()))

    def add(self, request: Request) -> None:
        """A new request waits behind all others."""
        self._waiting[request.request_id] = request

    def admit(self, request: Request) -> None:
        """A waiting request runs from now on."""
        del self._waiting[request.request_id]
        self._running[request.request_id] = request
        self.num_running_sequences += request.num_places
        request.state = RequestState.RUNNING

    def preempt(self, request: Request) -> None:
        """A running request waits again, before all others."""
        del self._running[request.request_id]
        self._waiting[request.request_id] = request
        self._waiting.move_to_end(request.request_id, last=False)
        self.num_running_sequences -= request.num_places
        request.state = RequestState.WAITING

    def shrink(self, request: Request, num_places: int) -> None:
        """A request that had `num_places` places has lost a sequence, and with the last one it is over."""
        is_running = request.state is RequestState.RUNNING
        if is_running:
            self.num_running_sequences -= num_places - request.num_places
        if not request.sequences:
            del (self._running if is_running else self._waiting)[request.request_id]
            request.state = RequestState.FINISHED
