"""How much memory requests can come to hold, and how long they can get in it."""

from octavo.layer_groups import one_group
from octavo.memory.demand import ReservedDemand


def test_a_run_for_one_token_of_output_lets_a_request_have_that_token() -> None:
    demand = ReservedDemand("pow2", block_size=2, layer_groups=one_group(1), max_model_len=200)
    assert demand.of_request(1, 2, 1) == 1
    assert demand.longest(1, 1, num_blocks=1, limit=200) == 2
