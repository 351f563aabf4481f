"""Dummy weights are a function of seed, name and place, however they are drawn."""

import pytest
import torch

from octavo.checkpoints.dummy import SLICE_ELEMENTS, DummyTensors

WIDTH = SLICE_ELEMENTS // 4


def rows(part: range) -> torch.Tensor:
    source = DummyTensors({"matrix": (19, WIDTH)}, seed=5)
    found = dict(source.slices("matrix", part))
    assert list(found) == sorted(found)
    assert min(found) == part.start
    return torch.cat(list(found.values()))


def test_the_same_rows_come_whatever_the_threads_and_the_part_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = rows(range(19))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(rows(range(19)), alone)
    assert torch.equal(rows(range(6, 18)), alone[6:18])
    assert alone.std().item() == pytest.approx(0.02, rel=0.01)
