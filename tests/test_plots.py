"""Plots do not change the matplotlib state of the program."""

import sys

import matplotlib
import pytest
from matplotlib import pyplot
from PIL import Image

from keras_cvt._utils import plots
from keras_cvt.deploy import Benchmark, Measurement, Verification
from keras_cvt.training.runs import Run


@pytest.fixture
def backend():
    """Choose another backend and open a figure, as the calling program may have."""
    before = matplotlib.get_backend()
    pyplot.switch_backend("svg")
    pyplot.figure("the program's own")
    yield "svg"
    pyplot.close("all")
    pyplot.switch_backend(before)


def plot_benchmark(path):
    seen = Verification(
        path="model.onnx",
        format="onnx",
        quantization=None,
        images=4,
        max_difference=1e-6,
        mean_difference=1e-7,
        cosine=1.0,
        overall_cosine=1.0,
        top1_agreement=1.0,
        top5_agreement=None,
        size_bytes=1000,
        images_per_second=2.0,
        model_images_per_second=1.0,
        batch_size=1,
        tolerance="",
        passed=True,
    )
    row = Measurement("onnx", seen)
    Benchmark((row,), 4, (64, 64), 1, None, None).plot(path)
    return path


def plot_run(path):
    run = Run(path.parent / "run", {})
    log = "epoch,loss,accuracy\n0,1.5,0.5\n"
    (run.folder / "log.csv").write_text(log, encoding="utf-8")
    return run.plot()


@pytest.mark.parametrize("plot", [plot_benchmark, plot_run])
def test_a_plot_keeps_the_backend_and_the_open_figures(backend, plot, tmp_path):
    assert Image.open(plot(tmp_path / "plot.png")).format == "PNG"
    assert matplotlib.get_backend() == backend
    assert pyplot.get_figlabels() == ["the program's own"]


@pytest.mark.parametrize("plot", [plot_benchmark, plot_run])
def test_without_matplotlib_the_error_names_the_extra(plot, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"keras_cvt\[train\]"):
        plot(tmp_path / "plot.png")


def test_a_plot_that_fails_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "plot.png"
    path.write_bytes(b"earlier")
    figure = plots.new_figure()
    figure.text(0.5, 0.5, "$\\nosuchsymbol$")
    with pytest.raises(ValueError, match="nosuchsymbol"):
        plots.save_png(figure, path)
    assert path.read_bytes() == b"earlier"
    assert [file.name for file in tmp_path.iterdir()] == ["plot.png"]
