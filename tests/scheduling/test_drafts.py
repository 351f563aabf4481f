"""Drafts take what a step has to spare, and nothing that another request needs."""

from octavo.engine.engine import Engine
from octavo.sampling_params import SamplingParams
from octavo.scheduling import EngineRequest
from scheduling.checking import ShadowExecutor, capacity, check_drafts, check_engine


def test_drafts_leave_a_later_request_the_blocks_of_its_next_chunk() -> None:
    """With room for one of the two the later request is not preempted, whatever its share of the pool is."""
    num_drafted = 0
    for num_blocks in range(40, 60):
        executor = ShadowExecutor(capacity(num_blocks, block_size=1, max_model_len=100, max_drafts=6))
        engine = Engine(executor, max_num_seqs=2, max_num_batched_tokens=16, prefix_cache_scope="off")
        for number, (num_prompt, max_tokens) in enumerate([(4, 30), (34, 2)]):
            params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
            prompt = [100 * number + i for i in range(num_prompt)]
            engine.add(EngineRequest(str(number), prompt, params, float(number), seed=number))
        while engine.has_unfinished:
            check_drafts(engine)
            engine.step()
            check_engine(engine)
        num_drafted += executor.num_drafted
    assert num_drafted > 100
