"""Files that are changed a little are read, or refused with an error of this package.

`benchmarks/fuzz_files.py` tries thousands of them; `benchmarks/RESULTS.md` has figures.
"""

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "fuzz_files.py"


def test_changed_files_are_read_or_refused():
    command = [sys.executable, str(PROGRAM), "--inputs", "400", "--seed", "1"]
    done = subprocess.run([*command, "--jobs", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, total = (line for line in done.stdout.splitlines() if line.startswith("| all"))
    inputs, read, refused, other = map(int, total.split("|")[2:6])
    # Both happen often, so that the changes are neither too large nor too small.
    assert inputs == 400 and min(read, refused) > 40 and other == 0
