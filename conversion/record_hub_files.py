"""Record commit and hashes of the published weights' files, as the Hub states them.

Run by someone with the Hub; from then on downloads are pinned to these commits and
checked against these hashes.

    python conversion/record_hub_files.py
"""

import argparse
import json
from pathlib import Path

from huggingface_hub import HfApi

from keras_cvt import hub_files, zoo

ASSET = Path(__file__).parent.parent / "keras_cvt" / "assets" / "hub_files.json"


def record(repo: str) -> dict:
    """Return the main branch's commit and the SHA-256 of its checkpoint files."""
    info = HfApi().model_info(repo, files_metadata=True)
    hashes = {
        file.rfilename: file.lfs.sha256
        for file in info.siblings
        if file.rfilename in hub_files.CHECKPOINT_FILES and file.lfs is not None
    }
    if not hashes:
        raise ValueError(f"The Hub states no hash of a checkpoint file of {repo}.")
    return {"revision": info.sha, "sha256": hashes}


def main():
    """Write the asset anew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ASSET)
    parser.add_argument("--repos", nargs="+", default=[r.repo for r in zoo.WEIGHTS])
    options = parser.parse_args()
    recorded = {repo: record(repo) for repo in options.repos}
    options.output.write_text(json.dumps(recorded, indent=2) + "\n")
    print(f"Recorded {len(recorded)} repositories in {options.output}")


if __name__ == "__main__":
    main()
