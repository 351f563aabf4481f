"""A row's tokens are guessed from its own text, as many as are worth what they cost."""

from itertools import islice

import numpy as np
import pytest

from octavo.execution import suffix_drafter
from octavo.execution.plan import ForkedRow, NewRow, Plan
from octavo.execution.row_tables import RowTables
from octavo.execution.suffix_drafter import MAX_DRAFTS, Acceptance, SuffixDrafter
from octavo.sampling_params import SamplingParams

TEXT = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20]


class Rows:
    """Rows and a drafter that follow the same plans."""

    def __init__(self, token_s: float = 0.0) -> None:
        """A token more costs a step so many seconds, beside one."""
        self.drafter = SuffixDrafter()
        self.tables = RowTables(max_model_len=4000, block_size=16)
        for repeat in range(40):
            self.drafter.learn(1, repeat % 16, 1.0 + token_s * (repeat % 16))

    def add(self, row: int, prompt: list[int], prediction: list[int] | None = None) -> None:
        new = NewRow(row, 0, prompt, SamplingParams(), 0, [], prediction=prediction or [])
        self.follow(Plan(added=[new]))

    def follow(self, plan: Plan) -> None:
        self.tables.apply(plan)
        self.drafter.follow(plan)

    def append(self, row: int, token: int) -> list[int]:
        """The drafts of a row that has got a token."""
        self.tables.append(np.array([row]), np.array([token]))
        return self.propose(row)[0]

    def propose(self, *rows: int) -> list[list[int]]:
        return self.drafter.propose(rows, self.tables)


def test_a_text_that_begins_again_is_guessed_to_go_on() -> None:
    rows = Rows()
    rows.add(0, [*TEXT, 1, 2])
    assert rows.append(0, 5) == []
    for token in TEXT[:4]:
        drafts = rows.append(0, token)
    assert drafts[:6] == TEXT[4:]
    assert len(drafts) <= MAX_DRAFTS


def test_a_text_that_goes_round_is_guessed_to_go_on_doing_so() -> None:
    rows = Rows()
    rows.add(0, [7, 8, 9] * 4)
    assert rows.append(0, 7)[:7] == [8, 9, 7, 8, 9, 7, 8]


def test_guesses_that_were_wrong_of_late_are_less_likely_and_fewer() -> None:
    trusted, doubted = Acceptance(), Acceptance()
    for _ in range(20):
        trusted.note(3, True)
        doubted.note(3, False)
    for own in (trusted, doubted):
        chances = list(islice(own.chances(2), 8))
        assert chances == sorted(chances, reverse=True)
    assert next(trusted.chances(3)) > 0.9
    assert next(doubted.chances(3)) < 0.1


def test_the_dearer_a_token_is_the_fewer_are_guessed() -> None:
    counts = []
    for token_s in (0.01, 0.3, 10.0):
        rows = Rows(token_s)
        rows.add(0, [*TEXT * 6, 1, *TEXT * 3])
        counts.append(len(rows.append(0, 11)))
    assert counts[0] > counts[1] > counts[2] == 0


def test_rows_are_followed_once_there_are_so_few_that_drafts_may_pay() -> None:
    rows = Rows(token_s=0.1)
    for row in range(64):
        rows.add(row, [*TEXT * 4, 11, 12])
    assert rows.propose(*range(64)) == [[]] * 64
    assert rows.drafter._num_indexed == 0
    few = rows.propose(3, 7)
    assert few[0][:3] == few[1][:3] == [13, 14, 15]


def test_the_likeliest_guesses_of_a_batch_are_taken() -> None:
    rows = Rows(token_s=0.12)
    rows.add(0, [*TEXT * 4, 3])
    rows.add(1, [*TEXT, 1, 2, 4, 11])
    for token in [11, 12, 13, 14]:
        rows.append(0, token)
    sure, unsure = rows.propose(0, 1)
    assert len(sure) > len(unsure)


def test_a_row_without_its_blocks_is_forgotten_and_guessed_alike_again() -> None:
    rows = Rows()
    rows.add(0, [*TEXT, 1], prediction=[31, 32])
    before = rows.append(0, 11)
    rows.follow(Plan(released=[0]))
    assert rows.drafter._num_indexed == 0
    assert rows.propose(0) == [before]
    rows.follow(Plan(removed=[0]))
    assert (rows.drafter._num_indexed, rows.drafter._rows, rows.drafter._predictions) == (0, {}, {})


def test_an_answer_may_begin_and_go_on_as_its_prediction_does_in_every_fork() -> None:
    rows = Rows()
    rows.add(0, [1, 2, 3], prediction=[31, 32, 33])
    rows.follow(Plan(forked=[ForkedRow(1, 0, 1)]))
    assert rows.propose(0)[0][:3] == [31, 32, 33]
    assert rows.append(1, 32)[:1] == [33]
    assert rows.append(1, 33) == []  # it ends here, and so does what is known


def test_nothing_is_guessed_from_another_rows_text() -> None:
    rows = Rows()
    rows.add(0, TEXT, prediction=[41, 42])
    rows.propose(0)
    rows.add(1, [1, 2])
    assert [rows.append(1, token) for token in (11, 12, 41)] == [[], [], []]


def test_a_long_text_is_indexed_over_several_steps_and_no_more_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(suffix_drafter, "MAX_INDEXED_A_STEP", 100)
    monkeypatch.setattr(suffix_drafter, "MAX_INDEXED", 300)
    rows = Rows()
    rows.add(0, TEXT * 25)
    assert [bool(rows.propose(0)[0]) for _ in range(4)] == [False, False, True, True]
    rows.add(1, TEXT * 10)
    assert [bool(rows.propose(1)[0]) for _ in range(4)] == [False] * 4
    assert rows.drafter._num_indexed == 300
