"""Outputs conform to what was asked, whatever else happens to their requests, and are those that each gets alone."""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drafters import RowDrafter
from late_queue import LateQueue
from octavo import LLM, BeamSearchParams, SamplingParams, StructuredOutputsParams
from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.errors import RequestError
from octavo.execution.device_queue import DeviceQueue
from octavo.execution.launch import executor_class
from octavo.execution.local import LocalExecutor
from octavo.outputs import CompletionOutput, TokenLogprobs
from octavo.sampling.grammar_sources import check_grammar
from octavo.scheduling.messages import EngineRequest
from octavo.structured_outputs import ReasoningSection
from octavo.tokenization.tokenizer import Tokenizer
from scheduling.checking import check_engine
from tiny_checkpoints import make_llama

SCHEMA = {
    "type": "object",
    "properties": {
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["cat", "dog", "über"]},
        "flags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["age", "kind", "flags"],
    "additionalProperties": False,
}
BY_SCHEMA = StructuredOutputsParams(json=SCHEMA, disable_any_whitespace=True)
BY_REGEX = StructuredOutputsParams(regex="([a-d]{2}-){3}x")
BY_CHOICE = StructuredOutputsParams(choice=["red", "green", "a blue that goes on for long"])
BY_GRAMMAR = StructuredOutputsParams(grammar='start: "(" start ")" | "x"')
Tokens = dict[str, dict[int, list[int]]]
"""By request and sequence."""
EOS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, byte_level_folder: Path) -> Path:
    """A tiny model with a tokenizer of its own: it has more places than that has tokens."""
    path = make_llama(tmp_path_factory.mktemp("tiny"), vocab_size=512)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).write_bytes((byte_level_folder / name).read_bytes())
    return path


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with LLM(str(folder), dtype="float64", kv_cache_memory="2MiB", num_threads=1) as llm:
        yield llm


THINK, END_OF_THOUGHT = (469,), (30, 17, 86, 74, 272, 77, 32)
"""The tokenizer's <think>, and </think>, which is none of its tokens."""


def does_conform(asked: StructuredOutputsParams, text: str) -> bool:
    text = text.rpartition("</think>")[2].lstrip("\n")
    if asked is BY_SCHEMA:
        return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid(json.loads(text)))
    pattern = {BY_REGEX.regex: BY_REGEX.regex, BY_GRAMMAR.regex: r"\(*x\)*"}[asked.regex]
    return text in asked.choice if asked.choice else re.fullmatch(str(pattern), text) is not None


def work() -> list[tuple[EngineRequest, StructuredOutputsParams | None]]:
    """Greedy, sampled, n, beams, penalties, a minimum of tokens; every fifth request is held to nothing, and two of
    three may think before they answer, most of them for some tokens at most."""
    kinds = [
        SamplingParams(temperature=0, max_tokens=60),
        SamplingParams(temperature=1.3, max_tokens=60, seed=7, top_p=0.95),
        SamplingParams(temperature=1.1, n=4, max_tokens=50, seed=11),
        BeamSearchParams(beam_width=3, max_tokens=50).sampling_params(),
        SamplingParams(temperature=1.0, max_tokens=60, seed=3, repetition_penalty=1.2, frequency_penalty=0.3),
        SamplingParams(temperature=1.2, max_tokens=60, n=2, seed=5, min_tokens=3),
    ]
    asked = [BY_SCHEMA, BY_REGEX, BY_CHOICE, BY_GRAMMAR, None]
    sections = [
        None,
        ReasoningSection(opening=THINK, end=END_OF_THOUGHT, is_open=True, max_tokens=4),
        ReasoningSection(opening=THINK, end=END_OF_THOUGHT, is_open=False, max_tokens=2),
    ]
    requests: list[tuple[EngineRequest, StructuredOutputsParams | None]] = []
    for number in range(20):
        own = asked[number % len(asked)]
        prompt = [(17 * (number % 3) * place + 5 * place) % 500 for place in range(3 + 5 * number % 30)]
        grammar = None if own is None else own.grammar_of_output()
        section = sections[number % len(sections)]
        request = EngineRequest(
            str(number), prompt, kinds[number % len(kinds)], float(number), number, grammar=grammar, reasoning=section
        )
        requests.append((request, own))
    return requests


class Run(NamedTuple):
    tokens: Tokens
    logprobs: dict[str, list[TokenLogprobs]]
    """Of the first sequences of requests that ask for them."""
    num_steps: int
    num_preemptions: int
    num_swaps: int


def run(
    folder: Path,
    requests: Sequence[EngineRequest],
    num_blocks: int | None = None,
    *,
    one_by_one: bool = False,
    drafter: Any = None,
    queue: DeviceQueue | None = None,
    foretells: bool = True,
    **knobs: Any,
) -> Run:
    """What requests get, together."""
    common: dict[str, Any] = {"model": str(folder), "block_size": 4, "dtype": "float64", "num_threads": 1}
    knobs = {"speculate": "off"} | knobs
    probe = LocalExecutor(EngineConfig(kv_cache_memory="1MiB", **common))
    size = (num_blocks or 500) * probe.capacity.block_bytes
    probe.close()
    config = EngineConfig(
        kv_cache_memory=size, swap_space=size, max_num_batched_tokens=48, max_num_seqs=24, **common, **knobs
    )
    if drafter is None and queue is None and foretells:
        executor = executor_class(config)(config)
    else:
        executor = LocalExecutor(config, drafter=drafter, queue=queue, foretells=foretells)
    for request in requests:
        for wanted in (request.grammar, request.reasoning):
            if wanted is not None:
                executor.prepare(wanted).result()  # so that all begin in their order
    engine = Engine.configured(executor, config)
    got: Tokens = {}
    logprobs: dict[str, list[TokenLogprobs]] = {}
    left = list(requests)
    while left or engine.has_unfinished:
        while left and not (one_by_one and engine.has_unfinished):
            engine.add(left.pop(0))
        for update in engine.step():
            assert update.error is None
            for sequence in update.sequences:
                got.setdefault(update.request_id, {}).setdefault(sequence.index, []).extend(sequence.token_ids)
                if sequence.index == 0 and sequence.logprobs:
                    logprobs.setdefault(update.request_id, []).extend(sequence.logprobs)
        check_engine(engine)
    totals = engine.ledger().totals
    executor.close()
    return Run(got, logprobs, engine.num_steps, totals.num_preemptions, totals.num_swaps)


@pytest.fixture(scope="module")
def alone(folder: Path) -> Tokens:
    """What each request gets with nobody beside it, a token a step."""
    return run(folder, [request for request, _ in work()], one_by_one=True, foretells=False).tokens


@pytest.fixture(scope="module")
def requests() -> list[EngineRequest]:
    return [request for request, _ in work()]


def test_every_output_that_ends_conforms(alone: Tokens, byte_level: Tokenizer) -> None:
    num_ended = 0
    for request, asked in work():
        for token_ids in alone[request.request_id].values():
            if asked is not None and token_ids[-1:] == [EOS] and len(token_ids) > request.params.min_tokens:
                assert does_conform(asked, byte_level.decode(token_ids))
                num_ended += 1
    assert num_ended > 15


def test_a_bounded_section_ends_after_its_tokens_and_the_answer_conforms(alone: Tokens) -> None:
    num_ended = 0
    for request, _ in work():
        section = request.reasoning
        if section is None or section.max_tokens is None:
            continue
        for token_ids in alone[request.request_id].values():
            begin = 0 if section.is_open else 1
            end = begin + section.max_tokens
            if (section.is_open or token_ids[:1] == [*THINK]) and EOS not in token_ids[:end]:
                assert token_ids[end : end + len(END_OF_THOUGHT)] == [*END_OF_THOUGHT]
                num_ended += 1
    assert num_ended > 8


@pytest.mark.parametrize("mode", ["recompute", "swap"])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_preempted_request_goes_on_where_its_grammar_was(
    folder: Path, alone: Tokens, requests: list[EngineRequest], mode: str, depth: int
) -> None:
    preempted = run(folder, requests, 60, preemption_mode=mode, steps_in_flight=depth)
    assert preempted.tokens == alone
    assert preempted.num_preemptions > 0
    assert (preempted.num_swaps > 0) == (mode == "swap")


def test_a_device_that_works_beside_the_host_gives_the_same(
    folder: Path, alone: Tokens, requests: list[EngineRequest]
) -> None:
    queue = LateQueue()
    assert run(folder, requests, 60, queue=queue, steps_in_flight=2).tokens == alone
    assert queue.num_late > 50


def test_ranks_give_the_same(folder: Path, alone: Tokens, requests: list[EngineRequest]) -> None:
    together = run(folder, requests, tensor_parallel_size=2, speculate="auto")
    assert together.tokens == alone


def test_what_a_grammar_forces_takes_fewer_steps_and_changes_nothing(
    folder: Path, alone: Tokens, requests: list[EngineRequest]
) -> None:
    assert run(folder, requests).tokens == alone
    held = [request for request in requests if request.grammar is not None and request.params.beams is None]
    foretold, plain = run(folder, held, one_by_one=True), run(folder, held, one_by_one=True, foretells=False)
    assert foretold.tokens == plain.tokens
    assert foretold.num_steps < plain.num_steps / 2


def test_requests_without_a_grammar_take_a_token_a_step(folder: Path, requests: list[EngineRequest]) -> None:
    free = [request for request in requests if request.grammar is None and request.reasoning is None]
    assert len(free) > 0
    foretold, plain = run(folder, free, steps_in_flight=2), run(folder, free, foretells=False, steps_in_flight=2)
    assert foretold.num_steps == plain.num_steps


def test_outputs_end_within_what_is_forced_and_tell_of_each_token(folder: Path) -> None:
    def asked(max_tokens: int, **fields: Any) -> EngineRequest:
        params = SamplingParams(temperature=0, max_tokens=max_tokens, logprobs=2, **fields)
        return EngineRequest(str(max_tokens), [7, 8], params, 0.0, grammar=BY_SCHEMA.grammar_of_output())

    reference = run(folder, [asked(80)], foretells=False)
    whole = reference.tokens["80"][0]
    assert whole[-1] == EOS
    cut = run(folder, [asked(length) for length in range(1, len(whole))])
    assert all(cut.tokens[str(length)][0] == whole[:length] for length in range(1, len(whole)))
    assert len(cut.logprobs["30"]) == 30
    for told, expected in zip(cut.logprobs["30"], reference.logprobs["80"], strict=False):
        assert (told.token_id, told.rank, told.top_token_ids) == (
            expected.token_id,
            expected.rank,
            expected.top_token_ids,
        )
        assert [told.logprob, *told.top_logprobs] == pytest.approx([expected.logprob, *expected.top_logprobs])
    stopped = run(folder, [asked(80, stop_token_ids=[whole[3]])]).tokens["80"][0]
    assert stopped == whole[: whole.index(whole[3]) + 1]


class Guesser(RowDrafter):
    """A drafter that guesses what another run has given, wrongly at every third place."""

    max_drafts = 3

    def __init__(self, requests: list[EngineRequest], known: Tokens) -> None:
        self._outputs = [
            (request.prompt_token_ids, output) for request in requests for output in known[request.request_id].values()
        ]
        self.num_right = self.num_wrong = 0

    def guess(self, token_ids: list[int]) -> list[int]:
        for prompt, output in self._outputs:
            whole = prompt + output
            if whole[: len(token_ids)] == token_ids:
                drafts = whole[len(token_ids) : len(token_ids) + self.max_drafts]
                if len(drafts) == self.max_drafts and len(token_ids) % 3 == 0:
                    drafts[1] = (drafts[1] + 1) % 500
                    self.num_wrong += 1
                self.num_right += len(drafts)
                return drafts
        return []


@pytest.mark.parametrize("depth", [1, 2])
def test_drafts_right_and_wrong_change_no_token(
    folder: Path, alone: Tokens, requests: list[EngineRequest], depth: int
) -> None:
    guesser = Guesser(requests, alone)
    assert run(folder, requests, 60, drafter=guesser, steps_in_flight=depth).tokens == alone
    assert guesser.num_right > 100
    assert guesser.num_wrong > 20


def ask(llm: LLM, asked: StructuredOutputsParams, **fields: Any) -> list[CompletionOutput]:
    params = SamplingParams(structured_outputs=asked, **{"max_tokens": 80, "seed": 1, **fields})
    [output] = llm.generate("The", params, use_tqdm=False)
    return output.outputs


def test_an_output_without_the_tokens_for_its_end_is_cut(llm: LLM) -> None:
    [output] = ask(llm, BY_SCHEMA, max_tokens=5)
    assert output.finish_reason == "length"
    [output] = ask(llm, BY_SCHEMA)
    assert output.finish_reason == "stop"
    assert does_conform(BY_SCHEMA, output.text)


def test_a_minimum_of_tokens_gives_way_to_the_grammars_end(llm: LLM) -> None:
    [output] = ask(llm, BY_CHOICE, min_tokens=60)
    assert output.finish_reason == "stop"
    assert output.text in (BY_CHOICE.choice or ())


def test_ignored_ends_fill_what_is_left(llm: LLM) -> None:
    [output] = ask(llm, BY_CHOICE, ignore_eos=True)
    assert (output.finish_reason, len(output.token_ids)) == ("length", 80)
    assert output.text in (BY_CHOICE.choice or ())


def test_a_stop_text_ends_a_constrained_output_before_its_end(llm: LLM) -> None:
    [output] = ask(llm, BY_SCHEMA, stop=['"kind"'])
    assert (output.finish_reason, output.stop_reason) == ("stop", '"kind"')
    assert re.fullmatch(r'\{"age":\d+,', output.text)


def test_what_else_bounds_the_tokens_holds_as_well(llm: LLM) -> None:
    allowed = [*llm.tokenizer.encode("b"), EOS]
    [output] = ask(llm, StructuredOutputsParams(regex="[ab]{20}"), allowed_token_ids=allowed)
    assert (output.text, output.finish_reason) == ("b" * 20, "stop")


def test_a_thinking_budget_ends_what_the_prompt_has_opened_and_the_schema_holds_behind_it(llm: LLM) -> None:
    for budget, asked in ((0, BY_SCHEMA), (5, BY_SCHEMA), (5, None)):
        params = SamplingParams(structured_outputs=asked, thinking_token_budget=budget, max_tokens=90, seed=1)
        [output] = llm.generate("Why? <think>\n", params, use_tqdm=False)
        token_ids = output.outputs[0].token_ids
        assert token_ids[budget : budget + len(END_OF_THOUGHT)] == [*END_OF_THOUGHT]
        if asked is not None:
            assert output.outputs[0].finish_reason == "stop"
            assert does_conform(BY_SCHEMA, output.outputs[0].text)


def test_a_schema_does_not_hold_what_the_prompt_has_opened(llm: LLM) -> None:
    params = SamplingParams(structured_outputs=BY_CHOICE, max_tokens=20, seed=1)
    [thinking] = llm.generate("Why? <think>\n", params, use_tqdm=False)
    [free] = llm.generate("Why? <think>\n", SamplingParams(max_tokens=20, seed=1), use_tqdm=False)
    assert thinking.outputs[0].token_ids == free.outputs[0].token_ids
    [told] = llm.generate("Why? <think>\n</think>\n\n", params, use_tqdm=False)
    assert told.outputs[0].text in (BY_CHOICE.choice or ())


def test_conversations_and_streams_conform_too(llm: LLM) -> None:
    params = SamplingParams(structured_outputs=BY_SCHEMA, max_tokens=80, seed=2)
    [output] = llm.chat([{"role": "user", "content": "Hi"}], params, use_tqdm=False)
    assert does_conform(BY_SCHEMA, output.outputs[0].text)
    parts = [delta.text for assembler in llm.stream("The", params) for delta in assembler.take_delta()]
    assert does_conform(BY_SCHEMA, "".join(parts))


def test_the_stepped_engine_takes_them_under_their_older_name(llm: LLM) -> None:
    from octavo.sampling_params import GuidedDecodingParams

    older: Any = {"choice": ["red", "green"], "backend": "xgrammar"}
    guided: Any = {"guided_decoding": GuidedDecodingParams(**older)}
    engine = llm.llm_engine
    engine.add_request("one", "The", SamplingParams(max_tokens=20, **guided))
    outputs: list[Any] = []
    while engine.has_unfinished_requests():
        outputs += engine.step()
    assert outputs[-1].outputs[0].text in ("red", "green")
    with pytest.raises(RequestError, match="older name"):
        SamplingParams(structured_outputs=BY_CHOICE, **guided)


@pytest.mark.parametrize("asked", [{"json": {"not": {}}}, {"regex": "("}, {"grammar": "start: x"}])
def test_what_cannot_be_followed_is_refused_before_anything_runs(llm: LLM, asked: Any) -> None:
    good = SamplingParams(structured_outputs=BY_CHOICE)
    with pytest.raises(RequestError, match="prompt 1: "):
        llm.generate(["a", "b"], [good, SamplingParams(structured_outputs=StructuredOutputsParams(**asked))])
    assert not llm.engine.has_unfinished


def test_a_request_whose_schema_leaves_nothing_fails_alone(llm: LLM) -> None:
    endless = StructuredOutputsParams(json={"$ref": "#"})
    good = ask(llm, BY_SCHEMA)
    outputs = llm.generate(
        ["The", "The"],
        [SamplingParams(structured_outputs=each, max_tokens=80, seed=1) for each in (endless, BY_SCHEMA)],
        use_tqdm=False,
    )
    assert outputs[0].outputs[0].finish_reason != "stop"
    assert outputs[1].outputs[0].text == good[0].text


SCHEMAS: list[Any] = [
    {"type": "boolean"},
    {"type": "null"},
    {"type": "integer", "minimum": -3, "maximum": 3},
    {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 100},
    {"type": "string", "maxLength": 5},
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "ipv4"},
    {"enum": ["a", 1, None, {"b": [True]}]},
    {"const": {"x": "é\n"}},
    {"type": ["integer", "null"], "maximum": 9, "minimum": 0},
    {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "boolean"}]},
    {"allOf": [{"type": "integer", "minimum": 5}, {"maximum": 7}]},
    {"oneOf": [{"const": "x"}, {"type": "integer", "minimum": 0, "maximum": 9}]},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
    {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": False, "minItems": 2},
    {"type": "object", "properties": {"a": {"type": "boolean"}}, "additionalProperties": False},
    {"type": "object", "properties": {"b": {"const": 1}, "a": {"const": 2}}, "required": ["a", "b"]},
    {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 1},
    {"type": "object", "patternProperties": {"^x[0-9]$": {"type": "null"}}, "additionalProperties": False},
    {"$defs": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "type": "array", "items": {"$ref": "#/$defs/n"},
     "maxItems": 2},
    {"$defs": {"t": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/t"}, {"type": "null"}]}},
                     "required": ["next"], "additionalProperties": False}}, "$ref": "#/$defs/t"},
    {"type": "object", "properties": {"kind": {"const": "a"}}, "required": ["kind"], "title": "T", "description": "d"},
    {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
    {"not": {"type": "null"}},
    {"if": {"type": "null"}, "then": {}, "else": False},
    {"type": "object", "propertyNames": {"pattern": "^a"}},
    {"type": "string", "format": "colour"},
    {"type": "nothing"},
    {"$ref": "#/$defs/missing"},
    {"enum": []},
    {"type": "object", "required": ["a"], "properties": {"a": False}},
]  # fmt: skip


def check_answers(llm: LLM, schemas: Sequence[Any]) -> tuple[int, int]:
    """Ask for an output of each schema, which validates if it has an end, or is refused. Returns how many had an end,
    and how many were refused."""
    good: list[StructuredOutputsParams] = []
    for schema in schemas:
        asked = StructuredOutputsParams(json=schema)
        with contextlib.suppress(RequestError):
            check_grammar(asked.grammar_of_output())
            good.append(asked)
    params = [SamplingParams(structured_outputs=asked, max_tokens=60, seed=4) for asked in good]
    num_ended = 0
    for asked, output in zip(good, llm.generate(["a"] * len(good), params, use_tqdm=False), strict=True):
        assert output.outputs[0].finish_reason in ("stop", "length")
        if output.outputs[0].finish_reason == "stop":
            num_ended += 1
            jsonschema.Draft202012Validator(asked.json, format_checker=jsonschema.FormatChecker()).validate(
                json.loads(output.outputs[0].text)
            )
    return num_ended, len(schemas) - len(good)


def test_outputs_validate_or_schemas_are_refused_with_a_reason(llm: LLM) -> None:
    num_ended, num_refused = check_answers(llm, SCHEMAS)
    assert num_refused == 7
    assert num_ended > 15


names = st.sampled_from(["a", "b", "é", "x y"])
plain: list[Any] = [{"type": "boolean"}, {"type": "null"}, {"type": "string", "maxLength": 3}, {"type": "number"}]
values = st.one_of(st.text('ab"\\\n', max_size=3), st.integers(0, 5))
leaves: Any = st.one_of(
    st.sampled_from(plain),
    st.builds(lambda low: {"type": "integer", "minimum": low, "maximum": low + 30}, st.integers(-40, 9)),
    st.builds(lambda values: {"enum": values}, st.lists(values, min_size=1, max_size=3)),
)
schemas: Any = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(
            lambda items, least, more: {"type": "array", "items": items, "minItems": least, "maxItems": least + more},
            inner, st.integers(0, 1), st.integers(0, 2),
        ),
        st.builds(
            lambda properties, is_closed, need: {
                "type": "object", "properties": properties, "additionalProperties": not is_closed,
                "required": sorted(properties)[: need],
            },
            st.dictionaries(names, inner, max_size=3), st.booleans(), st.integers(0, 3),
        ),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=5,
).flatmap(
    lambda part: st.sampled_from([part, {"$defs": {"p": part}, "type": "array", "items": {"$ref": "#/$defs/p"}}])
)  # fmt: skip


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(schemas, min_size=1, max_size=4))
def test_outputs_validate_against_schemas_of_any_shape(llm: LLM, asked: list[Any]) -> None:
    assert check_answers(llm, asked)[1] == 0
