"""The requests that wait and those that run, in order of their ranks."""

from bisect import bisect_left, insort

from octavo.scheduling.request import Request, RequestState


class Queues:
    """A request is in one of two queues until it is over. Those that run hold blocks; those that wait hold none of
    the pool's."""

    def __init__(self) -> None:
        self._by_id: dict[str, Request] = {}
        self._waiting: list[Request] = []
        self._running: list[Request] = []
        self.num_running_sequences = 0
        """Places of the running requests' sequences."""
        self.num_begun = 0
        """Requests that have been admitted for the first time, since the start."""

    @property
    def waiting(self) -> list[Request]:
        return self._waiting.copy()

    @property
    def running(self) -> list[Request]:
        return self._running.copy()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def __bool__(self) -> bool:
        return bool(self._by_id)

    def find(self, request_id: str) -> Request | None:
        return self._by_id.get(request_id)

    @property
    def next(self) -> Request | None:
        """Who is admitted next."""
        return self._waiting[0] if self._waiting else None

    @property
    def last(self) -> Request:
        """Of those that run the last in rank. There must be one."""
        return self._running[-1]

    def add(self, request: Request) -> None:
        """A new request waits behind all others of its rank."""
        self._by_id[request.request_id] = request
        insort(self._waiting, request, key=_rank)

    def admit(self, request: Request) -> None:
        """A waiting request runs from now on."""
        self.num_begun += request.first_scheduled_s is None
        _remove(self._waiting, request)
        insort(self._running, request, key=_rank)
        self.num_running_sequences += request.num_places
        request.state = RequestState.RUNNING

    def preempt(self, request: Request) -> None:
        """A running request waits again, in the place of its rank."""
        _remove(self._running, request)
        insort(self._waiting, request, key=_rank)
        self.num_running_sequences -= request.num_places
        request.state = RequestState.WAITING

    def shrink(self, request: Request, num_places: int) -> None:
        """A request that had `num_places` places has lost a sequence, and with the last one it is over."""
        is_running = request.state is RequestState.RUNNING
        if is_running:
            self.num_running_sequences -= num_places - request.num_places
        if not request.sequences:
            _remove(self._running if is_running else self._waiting, request)
            del self._by_id[request.request_id]
            request.state = RequestState.FINISHED


def _rank(request: Request) -> tuple[float, int]:
    return request.rank


def _remove(queue: list[Request], request: Request) -> None:
    """Take a request out of a queue. No two requests have the same rank."""
    del queue[bisect_left(queue, request.rank, key=_rank)]
