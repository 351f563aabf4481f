"""Whatever /openapi.json allows, and what it forbids, sent to a real server: no failure of the server's own."""

from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from octavo.config import EngineConfig
from server.conftest import Server, running_engine, serving, until

TIMEOUT_S = 60


@pytest.fixture(scope="module")
def small_server() -> Iterator[Server]:
    """Sequences and samples are few, so that what is valid is answered soon."""
    config = EngineConfig(model="smollm2", quantization="int8", kv_cache_memory="64MiB", max_model_len=48)
    with running_engine(config) as background, serving(background, max_n=3, max_prompts=4) as server:
        yield server


def send_cases(server: Server, num_cases: int) -> None:
    """Valid and invalid requests to every operation; then the server is whole and idle."""
    import schemathesis  # seconds, in every worker that collects this module
    from schemathesis.core.result import Ok

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) >= 6
    modes = list(schemathesis.GenerationMode)
    num_with_bodies = sum(operation.method == "post" for operation in operations)
    num_sent = 0
    for operation in operations:
        for mode in modes:
            try:
                cases = operation.as_strategy(generation_mode=mode)
            except schemathesis.errors.InvalidSchema:
                continue

            @settings(
                max_examples=num_cases // (num_with_bodies * len(modes)),  # the others are soon exhausted
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=cases)
            def send(case: schemathesis.Case) -> None:
                nonlocal num_sent
                answer = case.call(timeout=TIMEOUT_S)
                num_sent += 1
                assert answer.status_code < 500, f"{case.method} {case.path} {case.body!r}: {answer.text}"

            with suppress(Unsatisfiable):  # an operation that takes nothing has no invalid cases
                send()
    assert num_sent >= 0.9 * num_cases
    print(f"{num_sent} cases over {len(operations)} operations")
    until(server.background.is_idle)
    with server.http() as http:
        assert http.get("/health").status_code == 200


def test_no_request_that_the_description_allows_or_forbids_fails_the_server(small_server: Server) -> None:
    send_cases(small_server, 120)


@pytest.mark.load
@pytest.mark.timeout(900)
def test_two_thousand_cases_do_not_fail_the_server(small_server: Server) -> None:
    send_cases(small_server, 2200)
