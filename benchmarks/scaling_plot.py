"""The plot of `scaling.py`: time, memory and MACs by image size, batch and stride."""

import math


def draw(sweeps, path, baseline, stride):
    """Draw the sweeps. Dashed lines show the time if it were proportional to the MACs.

    Args:
        sweeps: The measured points under "resolution", "batch" and "stride_kv".
        path: PNG file to write.
        baseline: The contender whose first point the dashed lines start from.
        stride: The `stride_kv` that the dashed lines by stride start from.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(14, 7.5), layout="constrained")
    (time, memory, macs), (batch_time, batch_memory, stride_time) = axes
    for points, by, (times, memories) in (
        (sweeps["resolution"], "size", (time, memory)),
        (sweeps["batch"], "batch", (batch_time, batch_memory)),
    ):
        for name, line in _lines(points, lambda p: p.name).items():
            x = [getattr(p, by) for p in line]
            times.plot(x, [p.milliseconds for p in line], "o-", label=name)
            memories.plot(x, [_mebibytes(p) for p in line], "o-", label=name)
            if name == baseline:
                times.plot(x, _by_macs(line, line[0]), "k--", label="by MACs")
    batch_time.set_ylim(bottom=0)
    batch_memory.set_ylim(bottom=0)

    line = [p for p in sweeps["resolution"] if p.name == baseline]
    shares = {
        "stage 1's attention": [p.macs.first_attention / 1e9 for p in line],
        "other attention": [p.macs.other_attention / 1e9 for p in line],
        "the rest": [p.macs.rest / 1e9 for p in line],
    }
    macs.stackplot([p.size for p in line], shares.values(), labels=shares)

    lines = _lines(sweeps["stride_kv"], lambda p: p.stride)
    # All start from one point, so that their distance shows the difference in MACs.
    start = min(lines[stride], key=lambda p: p.size)
    for i, (each, line) in enumerate(lines.items()):
        x = [p.size for p in line]
        label, color = f"stride_kv {each}", f"C{i}"
        stride_time.plot(
            x, [p.milliseconds for p in line], "o-", color=color, label=label
        )
        stride_time.plot(x, _by_macs(line, start), "--", color=color)

    for axis, title, x in (
        (time, "ms per image, batch 1", "pixels"),
        (memory, "peak memory, MiB, batch 1", "pixels"),
        (macs, "GMACs per image", "pixels"),
        (batch_time, "ms per image", "batch"),
        (batch_memory, "peak memory, MiB", "batch"),
        (stride_time, "ms per image (dashed: by MACs)", "pixels"),
    ):
        axis.set(title=title, xlabel=x)
        axis.grid(alpha=0.3)
        axis.legend()
    for axis in (time, memory, stride_time):
        axis.set(xscale="log", yscale="log")
        ticks = sorted({p.size for p in sweeps["resolution"]})
        axis.set_xticks(ticks, ticks, minor=False)
        axis.xaxis.minorticks_off()
    for axis in (batch_time, batch_memory):
        axis.set_xticks(sorted({p.batch for p in sweeps["batch"]}))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _lines(points, key):
    lines = {}
    for point in points:
        lines.setdefault(key(point), []).append(point)
    return lines


def _by_macs(line, start):
    return [start.milliseconds * p.macs.total / start.macs.total for p in line]


def _mebibytes(point):
    return math.nan if point.memory is None else point.memory / 2**20
