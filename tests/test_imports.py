"""What starts without torch: the layers that plan, and the command line's help."""

import subprocess
import sys

import pytest


def loaded_by(statement: str) -> set[str]:
    watched = {"torch", "numpy", "transformers", "sympy", "gguf", "octavo.models.gemma3"}
    code = f"{statement}; import sys; print(*({watched} & sys.modules.keys()))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import octavo.memory",
        "import octavo.scheduling",
        "import octavo.execution.simulated",
        "import octavo.engine.engine",
        "from octavo import SamplingParams",
        "from octavo.cli.main import build_parser; build_parser()",
    ],
)
def test_planning_and_the_command_line_load_neither_torch_nor_numpy(statement: str) -> None:
    assert loaded_by(statement) == set()


def test_a_model_runs_without_transformers_and_without_the_files_of_other_architectures() -> None:
    assert loaded_by("import octavo.models.llama, octavo.models.registry; from octavo import LLM") == {"torch", "numpy"}


def test_a_model_on_the_meta_device_is_made_without_torchs_symbolic_shapes() -> None:
    """They would take a second of every start."""
    statement = (
        "import torch; from octavo.kernels.quantizing import INT4; from octavo.kernels.grouped import GroupedWeight;"
        "GroupedWeight(64, 64, INT4, torch.device('meta'))"
    )
    assert loaded_by(statement) == {"torch", "numpy"}
