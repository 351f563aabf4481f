"""Too little address space (`ulimit -v`) is told in a line that says how much is needed."""

import re
import subprocess
import sys

import pytest

from e2e.server_process import SERVE


@pytest.mark.parametrize("limit_mib", [500, 850, 1000])
@pytest.mark.parametrize("command", ["serve", "generate"])
def test_too_little_address_space_is_told_with_what_is_needed(limit_mib: int, command: str) -> None:
    flags = ["--port", "0"] if command == "serve" else ["--max-tokens", "2", "Hi"]
    arguments = " ".join([sys.executable, *SERVE[1:-1], command, "--quantization", "none", *flags])
    limited = f"ulimit -v {limit_mib * 1024}; exec {arguments}"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    needed = re.search(r"ulimit -v allows ([\d,]+) MiB .* needs about ([\d,]+) MiB", done.stderr.splitlines()[-1])
    assert needed, done.stderr
    assert int(needed[2].replace(",", "")) > limit_mib == int(needed[1].replace(",", ""))
