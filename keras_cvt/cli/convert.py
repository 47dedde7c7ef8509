"""The command `convert`."""

import argparse

from keras_cvt import conversion, hub
from keras_cvt._utils.tables import render
from keras_cvt.cli import image_files, loading
from keras_cvt.repository import client


def run_convert(options: argparse.Namespace) -> int:
    """Convert a checkpoint; return the exit status."""
    if options.checkpoint is None and not options.all:
        raise ValueError(
            "Expected a checkpoint and where to save it, or --all hf://org. "
            f"Received: {options.out}"
        )
    if options.all or options.out.startswith(client.SCHEME):
        return _release(options, options.out.removeprefix(client.SCHEME))
    repository = (options.public, options.exports, options.representative)
    repository += (options.page,)
    if options.dry_run or any(repository):
        raise ValueError(
            "Expected hf://org/repo with --dry-run, --public, --exports, --page and "
            f"--representative. Received: {options.out}"
        )
    return _save(options)


def _network(options):
    """Return the given arguments that `conversion.convert` and `hub.release` share."""
    names = ("activation", "reference", "tolerance")
    given = {name: getattr(options, name) for name in names}
    given["config"] = loading.config(options.model) if options.model else None
    return {name: value for name, value in given.items() if value is not None}


def _save(options):
    report = conversion.convert(options.checkpoint, options.out, **_network(options))
    stages = ", ".join(str(stage.embed_dim) for stage in report.config.stages)
    print(
        f"read       {options.checkpoint} ({report.layout} layout)\n"
        f"loaded     {report.entries} arrays strictly into stages of {stages}, "
        f"{report.classes} classes, {report.config.activation}"
    )
    if report.reference_difference is None:
        print("reference  none given: only the saved file was compared with the model")
    else:
        print(f"reference  largest difference {report.reference_difference:.3g}")
    print(f"saved      {options.out}, largest difference {report.saved_difference:.3g}")
    return 0


def _release(options, target):
    shared = {
        "exports": options.exports,
        "representative": image_files.list_paths(options.representative),
        "dry_run": options.dry_run,
        "private": not options.public,
    }
    network = _network(options)
    if options.all:
        if options.checkpoint is not None or "/" in target:
            raise ValueError(
                "Expected --all hf://org, and no checkpoint. "
                f"Received: {options.checkpoint or ''} {options.out}"
            )
        if options.page:
            raise ValueError("Expected --page without --all, for one model.")
        if network:
            raise ValueError(
                "Expected --all without --model, --activation, --reference and "
                "--tolerance: it converts the published weights as they are."
            )
        releases = hub.release_all(target, options.folder, **shared)
    else:
        folder = options.folder / target.replace("/", "--")
        shared |= {**network, "page": options.page}
        releases = [hub.release(options.checkpoint, target, folder, **shared)]
    rows = [
        [
            release.checkpoint,
            release.repo_id,
            release.reference,
            _scientific(release.reference_difference),
            _scientific(release.written_difference),
            release.error or release.commit or f"not pushed: {release.folder}",
        ]
        for release in releases
    ]
    titles = ["checkpoint", "repository", "compared with", "difference", "written"]
    print(render([*titles, "commit"], rows))
    for release in releases:
        if release.space is not None:
            print(f"page: {release.space}")
    return 1 if any(release.error for release in releases) else 0


def _scientific(number):
    return "" if number is None else f"{number:.1e}"
