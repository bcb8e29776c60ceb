"""What calls leave behind in a process, and what others change in it: a few of the sequences that `make fuzz` tries."""

import pathlib
import subprocess
import sys

FUZZ = pathlib.Path(__file__).with_name("fuzz_state.py")


def test_random_sequences_against_a_model():
    # In a process of its own, whose state it may change.
    run = subprocess.run([sys.executable, str(FUZZ), "300", "2026"], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-6000:]
    assert run.stdout.startswith("state: 300 sequences of seed 2026")
