"""What converters print is kept back, shown if they fail, and nothing else is lost."""

import logging
import os
import subprocess
import sys
import threading
import warnings

import keras
import networks
import pytest

from keras_cvt import deploy
from keras_cvt._utils.foreign_output import kept_back
from keras_cvt.deploy import formats

tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports need TensorFlow"
)
PARTS = ("from C", "to stdout", "to stderr", "a warning", "a record")


def be_loud():
    os.write(1, b"from C\n")
    os.write(2, b"from C\n")
    print("to stdout")
    print("to stderr", file=sys.stderr)
    warnings.warn("a warning", stacklevel=1)
    logging.getLogger("foreign").warning("a record")


@pytest.fixture
def handler():
    """A handler that another package made for the outputs as they were."""
    made = logging.StreamHandler(sys.stderr)
    logging.getLogger("foreign").addHandler(made)
    yield made
    logging.getLogger("foreign").removeHandler(made)


@pytest.mark.filterwarnings("always")
def test_what_a_converter_prints_is_kept_back(capfd, handler):
    before = sys.stdout, sys.stderr, handler.stream
    # pytest itself collects warnings.
    with warnings.catch_warnings(), kept_back():
        warnings.showwarning = lambda *found: print(found[0], file=sys.stderr)
        be_loud()
    assert capfd.readouterr() == ("", "")
    assert before == (sys.stdout, sys.stderr, handler.stream)
    be_loud()
    out, err = capfd.readouterr()
    assert out.split("\n")[:2] == ["from C", "to stdout"] and "a record" in err


def test_what_a_failing_converter_printed_is_shown(capfd, handler):
    with pytest.raises(RuntimeError, match="it failed"):
        with warnings.catch_warnings(), kept_back():
            warnings.showwarning = lambda *found: print(found[0], file=sys.stderr)
            be_loud()
            raise RuntimeError("it failed")
    out, err = capfd.readouterr()
    assert out == ""
    assert all(part in err for part in PARTS)


@pytest.mark.parametrize("error", [OSError, ImportError])
def test_an_error_that_says_all_is_shown_alone(capfd, error):
    with pytest.raises(error), kept_back():
        be_loud()
        raise error
    assert capfd.readouterr() == ("", "")


def test_other_threads_print_as_before(capfd):
    with kept_back():
        thread = threading.Thread(target=print, args=("from a thread",))
        thread.start()
        thread.join()
        print("kept")
    assert capfd.readouterr().out == "from a thread\n"


def test_a_stream_that_was_taken_meanwhile_writes_afterwards(capfd):
    with kept_back():
        made = logging.StreamHandler(sys.stderr)
    made.stream.write("later\n")
    made.flush()
    assert capfd.readouterr().err == "later\n"


def test_two_threads_take_turns_and_both_outputs_come_back(capfd):
    def export():
        for _ in range(20):
            with kept_back():
                os.write(2, b"kept\n")

    threads = [threading.Thread(target=export) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"


# The program `keras-cvt`, in a process of its own: packages print and warn when they
# are first imported.
EXPORT = "import sys, _keras_cvt_command; sys.exit(_keras_cvt_command.main())"
# Between them they use every converter and runtime.
LOUD = ("tf_saved_model", "litert_int8", "onnx", "openvino", "web_dynamic_int8")


@tensorflow_only
@pytest.mark.parametrize("name", LOUD)
def test_an_export_prints_its_result_and_nothing_foreign(tmp_path, name):
    networks.save_classifier(tmp_path / "small.keras")
    networks.save_photos(tmp_path / "photos", [(80, 80)] * 4)
    variant = formats.find_variant(name)
    command = ["export", tmp_path / "small.keras", tmp_path / variant.file_name]
    command += ["--format", name]
    if variant.needs_images:
        command += ["--representative", tmp_path / "photos"]
    # As in a plain shell.
    quiet = ("TF_CPP_MIN_LOG_LEVEL", "PYTHONWARNINGS", "TF_ENABLE_ONEDNN_OPTS")
    environment = {k: v for k, v in os.environ.items() if k not in quiet}
    result = subprocess.run(
        [sys.executable, "-c", EXPORT, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    assert "passed" in result.stdout.splitlines()[-1]


@tensorflow_only
def test_what_the_converter_printed_comes_with_the_error_of_an_export(
    tmp_path, monkeypatch, capfd
):
    def write(network, path, options):
        os.write(2, b"error: 'tfl.reshape' of C++\n")
        raise RuntimeError("it failed")

    record = formats.FORMATS["litert"]
    monkeypatch.setattr(type(record), "__setattr__", object.__setattr__)
    monkeypatch.setattr(record, "write", write)
    model = networks.build(networks.CONFIGS["linear"], input_shape=(32, 32, 3))
    with pytest.raises(deploy.ExportError, match="it failed"):
        deploy.export(model, tmp_path / "m.tflite")
    assert "'tfl.reshape' of C++" in capfd.readouterr().err
