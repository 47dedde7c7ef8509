"""The command `doctor`, which tells also what keeps Keras from being imported."""

import argparse
import dataclasses
import json
from pathlib import Path

from keras_cvt import diagnostics
from keras_cvt._utils.foreign_output import kept_back
from keras_cvt._utils.tables import render
from keras_cvt.diagnostics.findings import guarded


def run_doctor(options: argparse.Namespace) -> int:
    """Print what works here and what does not; return the exit status."""
    if options.photo and not options.weights:
        raise ValueError("Expected --photo with --weights only.")
    findings = []
    for part in _parts(options):
        findings += part
        if not options.json:
            print(_table(part), end="\n\n", flush=True)
    problems = [finding for finding in findings if finding.status == "problem"]
    if options.json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"findings": rows, "problems": len(problems)}, indent=2))
    else:
        print(f"Problems: {len(problems)}." if problems else "No problems.")
    return 1 if problems else 0


def _parts(options):
    """Yield lists of findings, each when it is there."""
    # TensorFlow prints when it is imported.
    with kept_back():
        environment = diagnostics.examine()
    yield environment
    if any(f.topic == "backend" and f.status == "problem" for f in environment):
        return
    with kept_back():
        network = guarded("network", lambda: [diagnostics.check_network()])
    yield network
    if options.weights:
        yield guarded("published weights", diagnostics.check_repositories)
        photo = Path(options.photo) if options.photo else None
        yield guarded(
            "published weights", lambda: [diagnostics.check_known_logits(photo)]
        )


def _table(findings):
    rows = [
        [
            # Once for each topic.
            finding.topic if i == 0 or findings[i - 1].topic != finding.topic else "",
            finding.name,
            "" if finding.status == "ok" else finding.status,
            finding.value,
        ]
        for i, finding in enumerate(findings)
    ]
    lines = render(["topic", "name", "", "found"], rows).splitlines()
    advice = [f"{f.name}: {f.advice}" for f in findings if f.advice]
    return "\n".join([*lines, *advice])
