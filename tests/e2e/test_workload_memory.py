"""Over the workloads of the paper's lengths the ledger equals a recount at each step, and waste stays small."""

import json
import subprocess
import sys

import pytest

from octavo.engine.engine import Engine
from octavo.sampling_params import SamplingParams
from octavo.scheduling import EngineRequest
from scheduling.checking import ShadowExecutor, capacity, check_engine


@pytest.mark.parametrize(("kind", "num_requests", "most_waste"), [("sharegpt", 64, 0.04), ("alpaca", 256, None)])
@pytest.mark.parametrize("share_of_demand", [1.5, 0.3], ids=["roomy pool", "tight pool"])
def test_the_ledger_equals_a_recount_at_each_step(
    shared_folder, tmp_path, kind, num_requests, most_waste, share_of_demand
):
    path = tmp_path / "work.json"
    script = shared_folder / "peers" / "make_workload.py"
    arguments = ["--kind", kind, "--requests", str(num_requests), "--scale", "1", "--out", str(path)]
    subprocess.run([sys.executable, str(script), *arguments], check=True, capture_output=True)
    work = json.loads(path.read_text())
    demand = sum(-(-(len(each["ids"]) + each["out"]) // 16) for each in work)
    executor = ShadowExecutor(capacity(max(130, int(demand * share_of_demand))))
    engine = Engine(executor, max_num_seqs=256, max_num_batched_tokens=2048)
    for number, each in enumerate(work):
        params = SamplingParams(temperature=0, max_tokens=each["out"], ignore_eos=True)
        engine.add(EngineRequest(str(number), each["ids"], params, float(number), number))
    used = unfilled = 0
    generated = 0
    while engine.has_unfinished:
        generated += sum(len(s.token_ids) for update in engine.step() for s in update.sequences)
        check_engine(engine)
        ledger = engine.ledger()
        used += ledger.num_used_blocks * ledger.block_size
        unfilled += ledger.num_unfilled_slots
        assert ledger.num_unfilled_slots < ledger.block_size * engine.scheduler.limits.max_num_seqs
    assert generated == sum(each["out"] for each in work)
    assert (engine.scheduler.num_preemptions > 0) == (share_of_demand < 1)
    waste = unfilled / used
    print(f"{kind}: waste {waste:.2%} of allocated slots, averaged over {engine.num_steps} steps")
    assert most_waste is None or waste < most_waste
