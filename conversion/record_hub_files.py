"""Record the commit and the file hashes of the published weights on the Hub.

It needs the Hub. Afterwards, downloads are pinned to these commits and checked against
these hashes.

    python conversion/record_hub_files.py
"""

import argparse
import json
from pathlib import Path

from keras_cvt import zoo
from keras_cvt.repository.listing import checkpoint_hashes

ASSET = Path(__file__).parent.parent / "keras_cvt" / "assets" / "hub_files.json"


def record(repo: str) -> dict:
    """Return the commit of the main branch, and the SHA-256 of its checkpoint files."""
    revision, hashes = checkpoint_hashes(repo)
    if not hashes:
        raise ValueError(
            "Expected a repository whose checkpoint files have hashes. "
            f"Received: {repo}"
        )
    return {"revision": revision, "sha256": hashes}


def main():
    """Write the asset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ASSET)
    parser.add_argument("--repos", nargs="+", default=[r.repo for r in zoo.WEIGHTS])
    options = parser.parse_args()
    recorded = {repo: record(repo) for repo in options.repos}
    options.output.write_text(json.dumps(recorded, indent=2) + "\n")
    print(f"Recorded {len(recorded)} repositories in {options.output}")


if __name__ == "__main__":
    main()
