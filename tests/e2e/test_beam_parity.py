"""Beam search finds what transformers' finds: every width, length penalty and way of stopping."""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

from octavo import LLM, BeamSearchParams
from octavo.checkpoints.locate import locate
from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.execution.executor import PendingOutput
from octavo.execution.local import LocalExecutor
from octavo.execution.plan import Plan
from octavo.layer_groups import one_group
from octavo.memory import BlockDemand
from octavo.scheduling import EngineRequest, RequestUpdate
from octavo.structured_outputs import Grammar
from tiny_checkpoints import make_llama, transformers_from_gguf
from toy_grammars import KINDS, allowed_to_change

NUM_TOKENS = 48
EOS = 2
PENALTIES = (0.5, 1.0, 2.0)
CONFIGURATIONS = list(itertools.product((2, 4, 8), (True, False, "never"), PENALTIES))
SCORE_TOLERANCE = 1e-4
"""transformers adds log-probabilities up in float32."""

TIE = 1e-3
"""Scores of the real model, in float32, this close may come in either order."""

Found = list[tuple[list[int], float]]
"""Hypotheses, best first: token ids and score."""


def params_of(width: int, early_stopping: Any, length_penalty: float, **others: Any) -> BeamSearchParams:
    return BeamSearchParams(
        beam_width=width,
        early_stopping=early_stopping,
        length_penalty=length_penalty,
        max_tokens=NUM_TOKENS,
        **others,
    )


@torch.inference_mode()
def oracle(
    model: Any, prompts: list[list[int]], params: BeamSearchParams, eos: Sequence[int] = (EOS,), **others: Any
) -> list[Found]:
    """What transformers finds for prompts padded on the left to one batch."""
    longest, width = max(map(len, prompts)), params.beam_width
    output = model.generate(
        torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts]),
        attention_mask=torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts]),
        num_beams=width,
        num_return_sequences=width,
        early_stopping=params.early_stopping,
        length_penalty=params.length_penalty,
        max_new_tokens=params.max_tokens,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=list(eos) or -1,
        return_dict_in_generate=True,
        output_scores=True,
        **others,
    )
    tokens, scores = output.sequences[:, longest:].tolist(), output.sequences_scores.tolist()
    ended = [ids[: next((i + 1 for i, token in enumerate(ids) if token in eos), len(ids))] for ids in tokens]
    return [list(zip(ended[i : i + width], scores[i : i + width], strict=True)) for i in range(0, len(ended), width)]


def score(tokens: list[int], cumulative_logprob: float | None, params: BeamSearchParams) -> float:
    assert cumulative_logprob is not None
    return cumulative_logprob / float(len(tokens) ** params.length_penalty)


class Tiny:
    """A float64 model here and in transformers, and prompts for it."""

    def __init__(self, folder: Any) -> None:
        make_llama(folder, dtype="float64")
        self.model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64)
        self.config = EngineConfig(model=str(folder), dtype="float64", kv_cache_memory="16MiB", block_size=4)
        self.executor = LocalExecutor(self.config, grammars=KINDS)
        r = random.Random(0)
        self.prompts = [[r.randrange(3, 97) for _ in range(r.randrange(1, 30))] for _ in range(16)]

    def search(
        self, params: BeamSearchParams, grammar: Grammar | None = None, executor: Any = None
    ) -> tuple[list[RequestUpdate], Engine]:
        """What each prompt's request found, and the engine that searched."""
        engine = Engine(executor or self.executor, max_num_seqs=128, max_num_batched_tokens=512)
        for number, prompt in enumerate(self.prompts):
            request = EngineRequest(str(number), prompt, params.sampling_params(), float(number), grammar=grammar)
            engine.add(request)
        found: dict[str, RequestUpdate] = {}
        while engine.has_unfinished:
            found |= {update.request_id: update for update in engine.step()}
        assert engine.ledger().num_used_blocks == 0
        return [found[str(number)] for number in range(len(self.prompts))], engine

    def check(self, params: BeamSearchParams, grammar: Grammar | None = None, **others: Any) -> int:
        """Compare all hypotheses; returns how many ended before the longest length."""
        updates, _ = self.search(params, grammar)
        num_ended = 0
        for update, wanted in zip(updates, oracle(self.model, self.prompts, params, **others), strict=True):
            assert [sequence.token_ids for sequence in update.sequences] == [tokens for tokens, _ in wanted]
            got = [score(s.token_ids, s.cumulative_logprob, params) for s in update.sequences]
            assert got == pytest.approx([value for _, value in wanted], abs=SCORE_TOLERANCE)
            assert [s.finish_reason == "stop" for s in update.sequences] == [tokens[-1] == EOS for tokens, _ in wanted]
            num_ended += sum(len(tokens) < NUM_TOKENS for tokens, _ in wanted)
        return num_ended


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    # Its products are so small that handing them to threads takes most of the time.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Tiny(tmp_path_factory.mktemp("tiny"))
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize(("width", "early_stopping", "length_penalty"), CONFIGURATIONS)
def test_sixteen_prompts_find_exactly_what_transformers_finds(
    tiny: Tiny, width: int, early_stopping: Any, length_penalty: float
) -> None:
    num_ended = tiny.check(params_of(width, early_stopping, length_penalty))
    assert num_ended or length_penalty == 2, "no hypothesis ended by itself"


def test_several_stops_end_hypotheses_as_several_ends_of_sequence_do(tiny: Tiny) -> None:
    stops = [5, 17, 40, 63]
    params = params_of(4, False, 1.0, stop_token_ids=stops)
    updates, _ = tiny.search(params)
    num_stopped = 0
    for update, wanted in zip(updates, oracle(tiny.model, tiny.prompts, params, eos=[EOS, *stops]), strict=True):
        assert [sequence.token_ids for sequence in update.sequences] == [tokens for tokens, _ in wanted]
        for sequence in update.sequences:
            last = sequence.token_ids[-1]
            assert sequence.stop_token_id == (last if last in stops else None)
            num_stopped += last in stops
    assert num_stopped > 0


def test_past_end_of_sequence_every_hypothesis_has_the_longest_length(tiny: Tiny) -> None:
    params = params_of(4, False, 1.0, ignore_eos=True)
    updates, _ = tiny.search(params)
    for update, wanted in zip(updates, oracle(tiny.model, tiny.prompts, params, eos=[]), strict=True):
        assert [sequence.token_ids for sequence in update.sequences] == [tokens for tokens, _ in wanted]
        assert all(len(sequence.token_ids) == NUM_TOKENS for sequence in update.sequences)


def test_bias_and_allowed_tokens_act_as_they_do_in_transformers(tiny: Tiny) -> None:
    biased = params_of(4, False, 1.0, logit_bias={7: 3.0, 50: -2.0})
    tiny.check(biased, sequence_bias={(7,): 3.0, (50,): -2.0})
    allowed = [EOS, *range(20, 60)]
    restricted = params_of(4, False, 1.0, allowed_token_ids=allowed)
    tiny.check(restricted, prefix_allowed_tokens_fn=lambda batch, tokens: allowed)


def test_a_grammar_of_a_beams_own_tokens_acts_as_it_does_in_transformers(tiny: Tiny) -> None:
    longest = max(map(len, tiny.prompts))
    tiny.check(
        params_of(4, True, 1.0),
        Grammar("changing", str(EOS)),
        prefix_allowed_tokens_fn=lambda batch, tokens: allowed_to_change(EOS, 97, tokens.tolist()[longest:]),
    )


def test_a_small_pool_changes_no_hypothesis_and_is_whole_afterwards(tiny: Tiny) -> None:
    params = params_of(4, False, 1.0)
    updates, _ = tiny.search(params)
    small = LocalExecutor(replace(tiny.config, kv_cache_memory=f"{60 * tiny.executor.capacity.block_bytes}"))
    worst_case = BlockDemand(4, one_group(2), max_tokens_in_flight=2048)
    demand = sum(worst_case.of_request(len(prompt), len(prompt) + NUM_TOKENS, 4) for prompt in tiny.prompts)
    assert small.capacity.num_blocks < demand / 10
    again, engine = tiny.search(params, executor=small)
    assert engine.scheduler.num_preemptions > 0
    for update, wanted in zip(again, updates, strict=True):
        assert [each.token_ids for each in update.sequences] == [each.token_ids for each in wanted.sequences]


def test_no_token_is_computed_twice_because_of_a_fork(tiny: Tiny) -> None:
    class Counting:
        """The tiny model's executor, counting the tokens that it computes."""

        capacity, depth = tiny.executor.capacity, 1
        num_new = num_sampled = 0

        prepare = tiny.executor.prepare

        def submit(self, plan: Plan) -> PendingOutput:
            self.num_new += sum(plan.num_new)
            self.num_sampled += len(plan.sampled_rows)
            return tiny.executor.submit(plan)

    counting = Counting()
    tiny.search(params_of(8, "never", 1.0), executor=counting)
    first_tokens = len(tiny.prompts)
    assert counting.num_new == sum(map(len, tiny.prompts)) + counting.num_sampled - first_tokens


SENTENCES = [
    "The capital of France is",
    "Once upon a time there was",
    "A good way to learn a language is",
    "Water boils at",
    "Q: What is 7 + 5?\nA:",
    "The three primary colours are",
    "def fibonacci(n):",
    "Dear Sir or Madam,",
    "In 1969, two men",
    "My favourite book is about",
    "To bake bread you need",
    "The opposite of hot is",
    "Photosynthesis is the process by which",
    "She opened the door and",
    "The most important thing about memory is",
    "List: apples, pears,",
]


@pytest.mark.parity
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("width", "early_stopping", "length_penalty"), [(2, True, 1.0), (4, False, 0.5), (4, "never", 2.0), (8, False, 1.0)]
)
def test_smollm2_finds_what_transformers_finds_but_for_ties(
    smollm2: LLM, width: int, early_stopping: Any, length_penalty: float
) -> None:
    """Where rounding tips a choice another hypothesis is found, with a score that is the same within `TIE`."""
    params = params_of(width, early_stopping, length_penalty)
    model = transformers_from_gguf(locate("smollm2").path, num_layers=30)
    outputs = smollm2.beam_search(SENTENCES, params, use_tqdm=False)
    found = oracle(model, [output.prompt_token_ids for output in outputs], params)
    num_differing = 0
    for output, wanted in zip(outputs, found, strict=True):
        got = [(own.token_ids, score(own.token_ids, own.cumulative_logprob, params)) for own in output.outputs]
        assert [value for _, value in got] == pytest.approx([value for _, value in wanted], abs=TIE)
        num_differing += [tokens for tokens, _ in got] != [tokens for tokens, _ in wanted]
    print(f"{width} beams, {early_stopping}, {length_penalty}: {num_differing} of {len(SENTENCES)} differ at ties")
    assert num_differing <= 2
