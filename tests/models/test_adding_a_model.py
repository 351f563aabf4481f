"""docs/adding-a-model.md shows the code as it is."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/adding-a-model.md").read_text()
MODELS = ROOT / "src/octavo/models"


def test_the_guides_example_is_the_file_that_it_names_and_its_registration() -> None:
    example, registration = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert example == (MODELS / "qwen3.py").read_text()
    assert registration in (MODELS / "registry.py").read_text()


def test_every_file_that_the_guide_names_is_there() -> None:
    named = set(re.findall(r"`((?:src|tests|models|layers|kernels|csrc)/[\w/]*(?:\.\w+)?)`", GUIDE))
    assert "models/gemma3.py" in named
    for path in named:
        assert (ROOT / path).exists() or (ROOT / "src/octavo" / path).exists(), path


def test_an_architecture_is_a_short_file() -> None:
    shared = {"__init__.py", "config.py", "loader.py", "parts.py", "registry.py"}
    for path in MODELS.glob("*.py"):
        assert path.name in shared or len(path.read_text().splitlines()) < 150, path
