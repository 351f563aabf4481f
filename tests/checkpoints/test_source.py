"""A Hugging Face checkpoint is read under a model's names and in its products' orientation, however it was saved."""

from collections.abc import Iterator

import torch

from octavo.checkpoints.source import HuggingFaceTensors, as_numbers


class Stored:
    """Tensors in memory."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        self.tensors = {name.replace("__", "."): tensor for name, tensor in tensors.items()}

    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def file(self, name: str) -> str:
        return f"file of {name}"

    def form(self, name: str) -> None:
        pass

    def slices(self, name: str, rows: range) -> Iterator[tuple[int, torch.Tensor]]:
        yield rows.start, self.tensors[name][rows.start : rows.stop]


def test_matrices_stored_by_input_are_read_by_output_without_a_copy() -> None:
    matrix, other = torch.arange(12.0).reshape(3, 4), torch.arange(6.0).reshape(2, 3)
    tensors = HuggingFaceTensors(Stored(model__c_fc=matrix, model__other=other), "model.", ("c_fc",))
    assert tensors.shape("model.c_fc") == (4, 3)
    assert tensors.shape("model.other") == (2, 3)
    ((first_row, values),) = tensors.slices("model.c_fc", range(1, 3))
    assert first_row == 1
    assert torch.equal(as_numbers(values), matrix.T[1:3])
    assert as_numbers(values).untyped_storage().data_ptr() == matrix.untyped_storage().data_ptr()
    ((first_row, values),) = tensors.slices("model.other", range(1, 2))
    assert first_row == 1
    assert torch.equal(as_numbers(values), other[1:2])


def test_a_checkpoint_saved_from_the_model_without_a_head_lacks_its_prefix_and_is_read_all_the_same() -> None:
    bare = HuggingFaceTensors(Stored(embed=torch.ones(2, 2), lm_head__weight=torch.zeros(2, 2)), "model.")
    assert bare.names() == ["model.embed", "lm_head.weight"]
    assert bare.file("model.embed") == "file of embed"
    assert torch.equal(as_numbers(next(bare.slices("model.embed", range(2)))[1]), torch.ones(2, 2))
    whole = HuggingFaceTensors(Stored(model__embed=torch.ones(2, 2), other=torch.zeros(2)), "model.")
    assert whole.names() == ["model.embed", "other"]
