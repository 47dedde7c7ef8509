"""Measure web pages in Chromium: the first load, and the time of an image.

Weights are random, because times do not depend on them. The pages lie on this machine,
so that loading does not count a network's speed.

    ONNXRUNTIME_WEB=dist python benchmarks/web_page.py

`dist` is that of the npm package onnxruntime-web; `make test` gets one. Chromium is
found as by the tests.
"""

import io
import statistics
import sys
import tempfile
import time
from pathlib import Path

import keras_cvt
from keras_cvt import CvTConfig, StageConfig
from keras_cvt._utils.tables import render
from keras_cvt.deploy import export

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "deploy"))
import web_browser  # noqa: E402

IMAGES = 20
SMALL = CvTConfig(
    (StageConfig(16, 1, 1, 7, 4, 2), StageConfig(24, 2, 3, 3, 2, 1, cls_token=True))
)
COLLECT = """
window.times = [];
document.addEventListener("keras-cvt-ready", ({ detail }) => {
  window.threads = detail.threads;
});
document.addEventListener("keras-cvt-answer", ({ detail }) => {
  window.times.push(detail.milliseconds);
});
"""
NETWORKS = {
    "CvT-13": lambda: keras_cvt.CvT13(weights=None),
    "two small stages": lambda: keras_cvt.CvT(SMALL, classes=10),
}


def photo():
    from PIL import Image
    from skimage import data

    content = io.BytesIO()
    Image.fromarray(data.astronaut()).save(content, "JPEG", quality=95)
    return content.getvalue()


def measure(browser, path, headers):
    """Return seconds to load, and median milliseconds of the parts of an image."""
    with web_browser.served(path, headers) as address:
        page = browser.new_page()
        page.add_init_script(COLLECT)
        start = time.perf_counter()
        page.goto(address)
        page.locator("#choose:enabled").wait_for()
        loaded = time.perf_counter() - start
        file = {"name": "photo.jpg", "mimeType": "", "buffer": photo()}
        for count in range(IMAGES):
            page.set_input_files("#file", [file])
            page.locator("article").nth(count).wait_for()
        times, threads = page.evaluate("[window.times, window.threads]")
        page.close()
    parts = ("preparation", "network")
    medians = [statistics.median(t[part] for t in times) for part in parts]
    return loaded, threads, *medians


def main():
    rows = []
    with tempfile.TemporaryDirectory() as folder, web_browser.chromium() as browser:
        for name, build in NETWORKS.items():
            model = build()
            for format in ("web", "web_dynamic_int8"):
                path = Path(folder, f"{name} {format}")
                export(model, path, format, runtime=web_browser.runtime_folder())
                size = (path / "model.onnx").stat().st_size / 1e6
                for headers in (None, web_browser.ISOLATED):
                    loaded, threads, *times = measure(browser, path, headers)
                    rows.append([name, format, size, threads, loaded, *times])
        print(f"Chromium {browser.version}")
    titles = ["network", "format", "MB", "threads", "load s", "resize ms", "network ms"]
    print(render(titles, rows))


if __name__ == "__main__":
    main()
