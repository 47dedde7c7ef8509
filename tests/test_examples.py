"""The examples run as programs and do what they say."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_demo_without_a_hub_learns_digits_and_draws_them(tmp_path):
    command = [sys.executable, EXAMPLES / "demo.py", "--offline", "--output", tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    accuracy = re.search(r"has not seen: ([\d.]+)%", result.stdout)
    assert float(accuracy[1]) > 95
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
