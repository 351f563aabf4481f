"""Token updates become outputs: text, stops, logprobs and times, whole or as deltas."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.output_assembler import Delta, OutputAssembler
from octavo.outputs import CompletionOutput, FinishReason, Logprob, MemoryUse, RequestMetrics, TokenLogprobs
from octavo.sampling_params import BeamSearchParams, SamplingParams
from octavo.scheduling.messages import EngineRequest, RequestUpdate, SequenceUpdate
from octavo.structured_outputs import Grammar
from octavo.tokenization.tokenizer import Tokenizer

PROMPT = "안녕하세요"
END = 2  # <|im_end|>, the model's end-of-sequence


def make(tokenizer: Tokenizer, **params: Any) -> OutputAssembler:
    prompt_token_ids = tokenizer.encode(PROMPT)
    return OutputAssembler(tokenizer, "request", PROMPT, prompt_token_ids, SamplingParams(**params), arrival_s=0.0)


def update(*sequences: SequenceUpdate, **more: Any) -> RequestUpdate:
    return RequestUpdate("request", list(sequences), **more)


def feed(assembler: OutputAssembler, token_ids: list[int], index: int = 0) -> list[int]:
    """One token a step; returns what had to be aborted."""
    aborted = []
    for token_id in token_ids:
        aborted += assembler.apply(update(SequenceUpdate(index, [token_id])))
    return aborted


def only(assembler: OutputAssembler) -> CompletionOutput:
    (output,) = assembler.output.outputs
    return output


def test_tokens_become_text_as_they_come(byte_level: Tokenizer) -> None:
    assembler = make(byte_level)
    token_ids = byte_level.encode("안녕 🙂 the dog")
    for end in range(1, len(token_ids) + 1):
        assert feed(assembler, [token_ids[end - 1]]) == []
        assert only(assembler).text == byte_level.decode(token_ids[:end]).removesuffix("\ufffd")
    assembler.apply(update(SequenceUpdate(0, [END], "stop")))
    assert only(assembler) == CompletionOutput(0, "안녕 🙂 the dog", [*token_ids, END], None, "stop", None)
    assert assembler.finished


def test_a_request_is_told_as_it_was_asked(byte_level: Tokenizer) -> None:
    output = make(byte_level, n=3).output
    assert (output.request_id, output.prompt, output.prompt_token_ids) == ("request", PROMPT, byte_level.encode(PROMPT))
    assert [completion.index for completion in output.outputs] == [0, 1, 2]
    assert not output.finished


def test_the_token_that_ends_a_sequence_is_not_in_the_text(byte_level: Tokenizer) -> None:
    the, dog = byte_level.encode(" the") + byte_level.encode(" dog")[:1]
    assembler = make(byte_level, stop_token_ids=[dog])
    assembler.apply(update(SequenceUpdate(0, [the, dog], "stop", dog)))
    output = only(assembler)
    assert (output.text, output.token_ids, output.stop_reason) == (" the", [the, dog], dog)


def test_the_token_that_ends_a_sequence_is_shown_if_asked_for(byte_level: Tokenizer) -> None:
    the = byte_level.encode(" the")[0]
    shown = make(byte_level, stop_token_ids=[the], include_stop_str_in_output=True)
    shown.apply(update(SequenceUpdate(0, [the, the], "stop", the)))
    assert only(shown).text == " the the"
    for skips, text in [(True, " the"), (False, " the<|im_end|>")]:
        special = make(byte_level, include_stop_str_in_output=True, skip_special_tokens=skips)
        special.apply(update(SequenceUpdate(0, [the, END], "stop")))
        assert only(special).text == text


def test_the_last_token_of_a_sequence_cut_by_length_is_in_the_text(byte_level: Tokenizer) -> None:
    assembler = make(byte_level, max_tokens=2)
    assembler.apply(update(SequenceUpdate(0, byte_level.encode(" the the"), "length")))
    assert (only(assembler).text, only(assembler).finish_reason) == (" the the", "length")


def test_a_stop_text_ends_its_sequence_and_asks_for_its_abort(byte_level: Tokenizer) -> None:
    assembler = make(byte_level, n=2, stop="\n\n")
    token_ids = byte_level.encode("the dog\n\nfox")
    assert feed(assembler, token_ids, index=1) == [1]
    first, second = assembler.output.outputs
    assert (second.text, second.finish_reason, second.stop_reason) == ("the dog", "stop", "\n\n")
    assert byte_level.decode(second.token_ids) == "the dog\n\n"
    assert not first.finished
    assert not assembler.finished
    assert assembler.apply(update(SequenceUpdate(1, token_ids, "abort"))) == []
    assert assembler.output.outputs[1] == second
    assert second.finish_reason == "stop"


def test_the_stop_text_stays_if_asked_for(byte_level: Tokenizer) -> None:
    assembler = make(byte_level, stop=["dog", "cat"], include_stop_str_in_output=True)
    assert feed(assembler, byte_level.encode("the dog is")) == [0]
    assert only(assembler).text == "the dog"


def test_tokens_after_a_stop_text_in_the_same_update_are_dropped_with_their_logprobs(byte_level: Tokenizer) -> None:
    token_ids = byte_level.encode("a.b.c")
    logprobs = [TokenLogprobs(token_id, -1.0, 1, [], []) for token_id in token_ids]
    assembler = make(byte_level, stop=".", logprobs=0)
    assert assembler.apply(update(SequenceUpdate(0, token_ids, logprobs=logprobs))) == [0]
    output = only(assembler)
    assert (output.text, byte_level.decode(output.token_ids)) == ("a", "a.")
    assert output.logprobs is not None
    assert len(output.logprobs) == len(output.token_ids)
    assert output.cumulative_logprob == -float(len(output.token_ids))


def test_a_sequence_that_the_engine_ended_itself_is_not_aborted(byte_level: Tokenizer) -> None:
    assembler = make(byte_level, stop="dog", max_tokens=3)
    assert assembler.apply(update(SequenceUpdate(0, byte_level.encode("the dog"), "length"))) == []
    assert (only(assembler).finish_reason, only(assembler).stop_reason) == ("stop", "dog")


def test_text_that_could_begin_a_stop_is_released_at_the_end(byte_level: Tokenizer) -> None:
    for reason in ("length", "abort"):
        assembler = make(byte_level, stop="dogs")
        feed(assembler, byte_level.encode("the dog"))
        assert only(assembler).text == "the "
        assembler.apply(update(SequenceUpdate(0, [], reason)))
        assert (only(assembler).text, only(assembler).finish_reason) == ("the dog", reason)


def test_stop_texts_do_not_count_before_min_tokens(byte_level: Tokenizer) -> None:
    token_ids = byte_level.encode("a.b.c")
    assembler = make(byte_level, stop=".", min_tokens=len(byte_level.encode("a.b")))
    assert feed(assembler, token_ids) == [0]
    assert only(assembler).text == "a.b"


@pytest.mark.parametrize("include", [False, True])
def test_a_stop_text_that_begins_before_min_tokens_counts_where_it_is_complete(
    byte_level: Tokenizer, include: bool
) -> None:
    token_ids = byte_level.encode("안녕 xyz!")
    num_before = len(byte_level.encode("안녕 x"))
    assembler = make(byte_level, stop=[" xy"], min_tokens=num_before, include_stop_str_in_output=include)
    assert feed(assembler, token_ids[:num_before]) == []
    assert only(assembler).text == "안녕"
    assert feed(assembler, token_ids[num_before:]) == [0]
    output = only(assembler)
    assert (output.text, output.stop_reason) == ("안녕 xy" if include else "안녕", " xy")
    assert byte_level.decode(output.token_ids) == "안녕 xy"


def test_text_stays_in_order_around_min_tokens(byte_level: Tokenizer) -> None:
    token_ids = byte_level.encode("a.b.c!d.e")
    num_min = len(byte_level.encode("a.b.c!"))
    assembler = make(byte_level, stop=["a.b", ".c", "!d.f"], min_tokens=num_min)
    shown = []
    for token_id in token_ids:
        assert feed(assembler, [token_id]) == []
        shown += [delta.text for delta in assembler.take_delta()]
    assert shown == ["", "", "a.b", "", ".c", "", "", "", "!d.e"]
    assembler.apply(update(SequenceUpdate(0, token_ids[:1], "length")))
    assert (only(assembler).text, only(assembler).finish_reason) == ("a.b.c!d.ea", "length")


def test_special_tokens_are_in_the_text_only_if_asked_for(byte_level: Tokenizer) -> None:
    token_ids = byte_level.encode("a<|endoftext|>b")
    for skips, text in [(True, "ab"), (False, "a<|endoftext|>b")]:
        assembler = make(byte_level, skip_special_tokens=skips)
        feed(assembler, token_ids)
        assert only(assembler).text == text


@pytest.mark.parametrize("stop", [None, "<|im_end|>", "dog"])
def test_special_tokens_that_are_part_of_a_marker_stay_in_the_text_and_others_do_not(
    byte_level: Tokenizer, stop: str | None
) -> None:
    token_ids, params = byte_level.encode("a<|endoftext|>b<|im_start|>c"), SamplingParams(stop=stop)
    markers = {"<tool_call>", "go <|endoftext|>now"}
    assembler = OutputAssembler(byte_level, "request", PROMPT, [1], params, arrival_s=0.0, kept_specials=markers)
    feed(assembler, token_ids)
    assembler.apply(update(SequenceUpdate(0, [END], "stop")))
    assert only(assembler).text == "a<|endoftext|>bc"


def test_an_output_goes_on_from_its_prompt_with_its_space(sentencepiece: Tokenizer) -> None:
    assembler = make(sentencepiece)
    feed(assembler, sentencepiece.encode("the dog", add_special_tokens=False))
    assert only(assembler).text == " the dog"


def test_logprobs_are_by_token_with_their_texts(byte_level: Tokenizer) -> None:
    the, dog = byte_level.encode(" the")[0], byte_level.encode("d")[0]
    assembler = make(byte_level, logprobs=2, prompt_logprobs=1)
    entry = TokenLogprobs(the, -3.0, 5, [dog, END], [-0.5, -1.5])
    assembler.apply(
        update(SequenceUpdate(0, [the], logprobs=[entry]), prompt_logprobs=[TokenLogprobs(dog, -0.5, 1, [dog], [-0.5])])
    )
    assert only(assembler).logprobs == [
        {the: Logprob(-3.0, 5, " the"), dog: Logprob(-0.5, 1, "d"), END: Logprob(-1.5, 2, "<|im_end|>")}
    ]
    assert assembler.output.prompt_logprobs == [None, {dog: Logprob(-0.5, 1, "d")}]


def test_without_logprobs_asked_for_there_are_none(byte_level: Tokenizer) -> None:
    assembler = make(byte_level)
    feed(assembler, byte_level.encode("the"))
    assert only(assembler).logprobs is None
    assert assembler.output.prompt_logprobs is None


def test_times_and_preemptions_are_noted_once(byte_level: Tokenizer) -> None:
    assembler = make(byte_level, n=2)
    metrics = assembler.output.metrics
    assembler.apply(update(first_scheduled_s=1.5))
    assert metrics == RequestMetrics(arrival_s=0.0, first_scheduled_s=1.5)
    feed(assembler, byte_level.encode("the"))
    first_token_s = metrics.first_token_s
    memory = MemoryUse(num_cached_tokens=16, num_preemptions=2, num_recomputed_tokens=40)
    assembler.apply(update(SequenceUpdate(0, [END], "stop"), memory=memory))
    assert not assembler.finished
    assembler.apply(update(SequenceUpdate(1, [END], "stop"), memory=memory))
    assert metrics.memory == memory
    assert metrics.first_token_s == first_token_s
    assert first_token_s is not None
    assert metrics.finished_s is not None
    assert metrics.finished_s >= first_token_s > metrics.arrival_s


def test_a_delta_tells_what_is_new_and_the_end_once(byte_level: Tokenizer) -> None:
    assembler = make(byte_level, n=2, stop="dog!")
    assert assembler.take_delta() == []
    token_ids = byte_level.encode("the dog")
    feed(assembler, token_ids, index=1)
    assert assembler.take_delta() == [Delta(1, "the ", token_ids, None, None, None)]
    assert assembler.take_delta() == []
    assembler.apply(update(SequenceUpdate(1, [END], "stop")))
    assert assembler.take_delta() == [Delta(1, "dog", [END], None, "stop", None)]
    assert assembler.take_delta() == []


@given(data=st.data())
def test_deltas_join_to_the_output(byte_level: Tokenizer, data: st.DataObject) -> None:
    assembler = make(byte_level, n=2, stop=["the d", "\n"], logprobs=0)
    logprobs: list[list[dict[int, Logprob]]] = [[], []]
    joined = [CompletionOutput(index, logprobs=logprobs[index]) for index in range(2)]
    num_ends = [0, 0]

    def take() -> None:
        for delta in assembler.take_delta():
            joined[delta.index].text += delta.text
            joined[delta.index].token_ids += delta.token_ids
            logprobs[delta.index] += delta.logprobs or []
            joined[delta.index].finish_reason = delta.finish_reason
            joined[delta.index].stop_reason = delta.stop_reason
            num_ends[delta.index] += delta.finish_reason is not None

    stream = st.lists(st.integers(0, 505) | st.sampled_from(byte_level.encode("the dog\n")), max_size=4)
    for step in range(data.draw(st.integers(1, 8))):
        sequences = []
        for index in range(2):
            token_ids = data.draw(stream)
            entries = [TokenLogprobs(token_id, -1.0, 1, [], []) for token_id in token_ids]
            reason: FinishReason | None = "length" if step == 7 else None
            sequences.append(SequenceUpdate(index, token_ids, reason, logprobs=entries))
        assembler.apply(update(*sequences))
        if data.draw(st.booleans()):
            take()
    take()
    for output in joined:
        output.cumulative_logprob = -float(len(output.token_ids))
    assert joined == assembler.output.outputs
    assert num_ends == [int(output.finished) for output in joined]


@pytest.mark.parametrize(
    "message",
    [
        EngineRequest("request", [1, 2], SamplingParams(n=2, stop=["a"], logit_bias={3: 1.5}), 12.5, 2**63),
        EngineRequest("request", [1], BeamSearchParams(beam_width=3, early_stopping="never").sampling_params(), 12.5),
        EngineRequest("request", [1], SamplingParams(), 12.5, adapter="french", grammar=Grammar("json_schema", "{}")),
        update(
            SequenceUpdate(1, [5], "stop", 5, [TokenLogprobs(5, -0.5, 1, [5, 6], [-0.5, -2.0])]),
            prompt_logprobs=[],
            first_scheduled_s=3.5,
            memory=MemoryUse(num_preemptions=1),
        ),
    ],
)
def test_messages_cross_a_process_boundary_unchanged(message: msgspec.Struct) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=type(message)) == message
