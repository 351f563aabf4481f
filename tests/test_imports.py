"""What starts without torch: the layers that plan, and the command line's help."""

import subprocess
import sys

import pytest


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*({{'torch', 'numpy', 'transformers'}} & sys.modules.keys()))"
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


def test_the_model_runs_without_transformers() -> None:
    assert "transformers" not in loaded_by("from octavo import LLM")
