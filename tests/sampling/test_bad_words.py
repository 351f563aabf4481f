"""Words that are not generated: the last token of one is impossible behind the others."""

import numpy as np
import pytest

from octavo.sampling.table import SamplingTable
from octavo.sampling_params import SamplingParams

EOS = 7


def held_back(bad_words: list[list[int]], output: list[int], min_tokens: int = 0) -> set[int]:
    """The tokens that may not follow an output."""
    table = SamplingTable()
    params = SamplingParams(temperature=0, min_tokens=min_tokens)
    table.set_row(0, params, seed=0, sequence_index=0, stop_token_ids=[EOS], bad_words=bad_words)
    tokens = np.array(output, dtype=np.int64)
    batch = table.batch(
        np.array([0]), np.array([len(output)]), lambda row, count: (np.array([5, 6]), tokens[:count]), masks=[]
    )
    edits = batch.edits[0]
    return set() if edits.held_back is None else set(edits.held_back.tolist())


@pytest.mark.parametrize(
    ("output", "forbidden"),
    [([], {1}), ([2], {1, 3}), ([9, 2, 3], {1, 4}), ([2, 3, 3], {1}), ([2, 9], {1}), ([3], {1})],
)
def test_a_token_is_held_back_where_it_would_complete_a_word(output: list[int], forbidden: set[int]) -> None:
    assert held_back([[1], [2, 3], [2, 3, 4]], output) == forbidden


def test_the_prompt_begins_no_word() -> None:
    assert held_back([[5, 6, 1]], []) == set()


def test_stops_are_held_back_beside_them() -> None:
    assert held_back([[1]], [], min_tokens=1) == {1, EOS}


def test_a_row_with_bad_words_is_never_plain() -> None:
    table = SamplingTable()
    table.set_row(0, SamplingParams(temperature=0), 0, 0, [EOS], bad_words=[[1]])
    assert table.plain_batch(np.array([0]), []) is None
