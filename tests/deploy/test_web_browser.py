"""A web page in Chromium, with real photos. Skipped without Chromium or the runtime."""

import io
import shutil
from pathlib import Path

import keras
import networks
import numpy as np
import onnxruntime
import pytest
import web_browser
from PIL import Image, ImageCms
from web_browser import classify, open_page, served, take_answers

import keras_cvt
from keras_cvt.deploy import export
from keras_cvt.deploy.formats import web
from keras_cvt.preprocessing import EvalTransform

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports need TensorFlow"
)
# Largest difference of a logit from the Keras model's, on the same pixels.
TOLERANCE = 1e-4
# Of a pixel, because decoders of JPEG may round in another way.
JPEG_LEVELS = 2


@pytest.fixture(scope="module")
def browser():
    web_browser.runtime_folder()
    with web_browser.chromium() as started:
        yield started


@pytest.fixture(scope="module")
def model():
    built = networks.build(networks.CONFIGS["as published"], input_shape=(224, 224, 3))
    built.eval_transform = EvalTransform((224, 224), 0.875)
    built.class_names = [f"flower {i}" for i in range(10)]
    return built


@pytest.fixture(scope="module")
def folder(browser, model, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "page"
    export(model, path, "web", runtime=web_browser.runtime_folder())
    return path


@pytest.fixture(scope="module")
def page(browser, folder):
    with served(folder) as address:
        opened = open_page(browser, address)
        yield opened
        assert opened.errors == []
        assert opened.evaluate("window.violations") is None


def photos():
    from skimage import data
    from sklearn.datasets import load_sample_images

    names = ("astronaut", "chelsea", "coffee", "rocket")
    found = {name: getattr(data, name)() for name in names}
    return found | dict(
        zip(("china", "flower"), load_sample_images().images, strict=True)
    )


def encoded(image, format, **options):
    content = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(content, format, **options)
    return content.getvalue()


def compare(answer, content, model):
    """Return the largest differences of a pixel and a logit from Keras's.

    The best classes must be the same.
    """
    image = Image.open(io.BytesIO(content))
    expected = keras_cvt.preprocess_input(image, model)
    pixels = np.asarray(answer["pixels"]).reshape(expected.shape)
    logits = model.predict(expected, verbose=0)[0]
    best = np.argsort(-logits, kind="stable")[:5]
    names = [model.class_names[index] for index in best]
    assert [entry["name"] for entry in answer["best"]] == names
    scores = np.exp(logits - logits.max())
    np.testing.assert_allclose(
        [entry["score"] for entry in answer["best"]],
        (scores / scores.sum())[best],
        atol=1e-2,
    )
    return (
        np.abs(pixels - expected).max(),
        np.abs(np.asarray(answer["outputs"]) - logits).max(),
    )


def test_png_photos_give_the_pixels_and_the_answers_of_keras(page, model):
    files = {f"{n}.png": encoded(image, "PNG") for n, image in photos().items()}
    for name, answer in classify(page, files).items():
        pixel, logit = compare(answer, files[name], model)
        assert pixel == 0 and logit <= TOLERANCE, name


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_jpeg_photos_give_the_answers_of_keras(page, model, subsampling):
    options = {"quality": 92, "subsampling": subsampling}
    files = {
        f"{n}.jpg": encoded(image, "JPEG", **options) for n, image in photos().items()
    }
    for name, answer in classify(page, files).items():
        pixel, logit = compare(answer, files[name], model)
        print(f"{name} {subsampling}: {pixel:g} levels, {logit:.2g}")
        assert pixel <= JPEG_LEVELS
        assert logit <= (TOLERANCE if pixel == 0 else 1e-2), name


UNUSUAL = (
    *("turned.png", "turned.jpg", "turned.webp", "transparent.png", "palette.png"),
    *("grey.png", "grey.jpg", "still.gif", "small.png", "tall.png"),
)


def unusual():
    """Files that browsers and Pillow easily read in different ways."""
    photo = photos()["chelsea"]
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    # A profile with red and blue exchanged: whoever applies it sees another image.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red, blue = profile.find(b"rXYZ"), profile.find(b"bXYZ")
    profile = bytearray(profile)
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    marked = {"exif": exif, "icc_profile": bytes(profile)}
    alpha = rng.integers(0, 256, (*photo.shape[:2], 1), "uint8")
    palette = Image.fromarray(photo).quantize(64)
    clear = io.BytesIO()
    palette.save(clear, "PNG", transparency=3)
    return {
        "turned.png": encoded(photo, "PNG", **marked),
        "turned.jpg": encoded(photo, "JPEG", quality=95, **marked),
        "turned.webp": encoded(photo, "WebP", lossless=True, **marked),
        "transparent.png": encoded(np.concatenate([photo, alpha], -1), "PNG"),
        "palette.png": clear.getvalue(),
        "grey.png": encoded(photo[..., 1], "PNG"),
        "grey.jpg": encoded(photo[..., 1], "JPEG", quality=95),
        "still.gif": encoded(palette.convert("L"), "GIF"),
        "small.png": encoded(photo[:20, :30], "PNG"),
        "tall.png": encoded(photo[:, :40], "PNG"),
    }


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_files_give_the_pixels_of_pillow(page, model, name):
    content = unusual()[name]
    pixel, logit = compare(classify(page, {name: content})[name], content, model)
    print(f"{name}: {pixel:g} levels, {logit:.2g}")
    assert pixel == 0 and logit <= TOLERANCE


def test_a_photo_is_turned_if_the_visitor_wants_it(page, model):
    content = unusual()["turned.png"]
    image = Image.open(io.BytesIO(content))
    turned = encoded(image.transpose(Image.Transpose.ROTATE_270), "PNG")
    page.check("#upright")
    try:
        answer = classify(page, {"turned.png": content})["turned.png"]
    finally:
        page.uncheck("#upright")
    assert compare(answer, turned, model)[0] == 0


def test_a_file_that_is_no_image_is_named_and_the_page_goes_on(page, model):
    count = page.locator("article").count()
    no_image = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"words"}
    page.set_input_files("#file", [no_image])
    page.get_by_text("notes.txt: This browser cannot read").wait_for()
    assert page.locator("article").count() == count
    content = encoded(photos()["rocket"], "PNG")
    answer = classify(page, {"rocket.png": content})["rocket.png"]
    assert compare(answer, content, model)[0] == 0


def test_what_is_shown_is_what_was_computed(page):
    content = encoded(photos()["coffee"], "PNG")
    answer = classify(page, {"coffee.png": content})["coffee.png"]
    card = page.locator("article").first
    rows = card.locator("li").all_inner_texts()
    assert len(rows) == 5
    for row, entry in zip(rows, answer["best"], strict=True):
        assert row.split("\n")[0].strip() == entry["name"]
        assert f"{entry['score']:.1%}" in row
    widths = card.locator(".bar > span").evaluate_all(
        "bars => bars.map((bar) => bar.offsetWidth / bar.parentNode.offsetWidth)"
    )
    scores = [entry["score"] for entry in answer["best"]]
    np.testing.assert_allclose(widths, scores, atol=0.02)
    assert " in the network" in card.locator(".time").inner_text()
    status = page.get_by_role("status").inner_text()
    assert status.startswith(f"coffee.png: {answer['best'][0]['name']}, ")
    assert status.endswith((" ms.", " s."))


TRANSFER = """([kind, name, bytes]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], name));
  const options = { bubbles: true, cancelable: true };
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { ...options, clipboardData: transfer })
    : new DragEvent("drop", { ...options, dataTransfer: transfer });
  document.getElementById("drop").dispatchEvent(event);
}"""


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_photo_can_be_dropped_or_pasted(page, model, kind):
    content = encoded(photos()["chelsea"][::4, ::4], "PNG")
    page.evaluate(TRANSFER, [kind, f"{kind}.png", list(content)])
    (answer,) = take_answers(page, 1)
    assert answer["name"] == f"{kind}.png"
    assert compare(answer, content, model)[0] == 0


def test_the_page_works_with_the_keyboard(page):
    page.get_by_role("button", name="Choose photos").focus()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    assert chooser.value.is_multiple()
    page.keyboard.press("Tab")
    focused = "document.activeElement.id"
    assert page.evaluate(focused) == "camera"
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Classify this picture").wait_for()
    page.locator("#shoot:focus").wait_for()
    page.keyboard.press("Enter")
    (answer,) = take_answers(page, 1)
    assert answer["name"] == "Camera" and len(set(answer["pixels"])) > 10
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("#camera:focus").wait_for()
    assert page.evaluate("document.getElementById('video').srcObject") is None


def test_everything_has_a_name_for_screen_readers(page):
    classify(page, {"flower.png": encoded(photos()["flower"], "PNG")})
    tree = page.locator("body").aria_snapshot()
    for part in (
        'heading "Classify photos" [level=1]',
        'heading "Answers" [level=2]',
        'heading "flower.png" [level=3]',
        'button "Choose photos"',
        'checkbox "Turn photos upright (EXIF)"',
        'img "flower.png as the network sees it"',
        "- status: ",
    ):
        assert part in tree, tree
    assert page.get_by_role("status").get_attribute("aria-live") == "polite"


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_fit_and_stand_out_on_every_screen(page, width, scheme):
    classify(page, {"astronaut.png": encoded(photos()["astronaut"], "PNG")})
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    try:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for selector in ("h1", "header p", ".private", "#choose", "#status", ".time"):
            assert contrast(page, selector) >= 4.5, selector
        height = page.locator("#choose").bounding_box()["height"]
        assert height >= 44  # of a finger
    finally:
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 1280, "height": 800})


def contrast(page, selector):
    """Return the contrast of a text with what is behind it (WCAG 2)."""
    colours = page.locator(selector).first.evaluate(
        """element => {
          const colour = getComputedStyle(element).color;
          const clear = "rgba(0, 0, 0, 0)";
          let behind = element;
          while (getComputedStyle(behind).backgroundColor === clear) {
            behind = behind.parentElement;
          }
          return [colour, getComputedStyle(behind).backgroundColor];
        }"""
    )
    light, dark = sorted(map(luminance, colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    levels = np.array([float(n) for n in colour[4:-1].split(",")][:3]) / 255
    linear = np.where(
        levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4
    )
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_nothing_is_sent_after_the_page_has_loaded(browser, folder):
    arrived, requests = [], []
    with served(folder, arrived=arrived) as address:
        page = open_page(
            browser, address, lambda p: p.on("request", lambda r: requests.append(r))
        )
        assert {method for method, _ in arrived} == {"GET"}
        loaded = {Path(path).name for _, path in arrived}
        assert {"model.onnx", *web._INTEGRITY} <= loaded
        assert all(r.url.startswith((address, "blob:", "data:")) for r in requests)
        arrived.clear()
        requests.clear()
        classify(page, {"rocket.png": encoded(photos()["rocket"], "PNG")})
        page.wait_for_timeout(200)
        assert arrived == []
        assert [r.url for r in requests if not r.url.startswith("blob:")] == []


SEND = """async (address) => {
  const tries = {
    fetch: () => fetch(address, { method: "POST", mode: "no-cors", body: "photo" }),
    beacon: async () => { if (!navigator.sendBeacon(address, "photo")) throw 0; },
    image: () => new Promise((resolve, reject) => {
      const image = new Image();
      Object.assign(image, { onload: resolve, onerror: reject, src: address });
    }),
    socket: () => new Promise((resolve, reject) => {
      const socket = new WebSocket(address.replace("http", "ws"));
      Object.assign(socket, { onopen: resolve, onerror: reject });
    }),
    worker: () => new Promise((resolve, reject) => {
      const code = `fetch("${address}", { method: "POST", mode: "no-cors" })
        .then(() => postMessage(true), () => postMessage(false))`;
      const worker = new Worker(URL.createObjectURL(new Blob([code])));
      worker.onmessage = ({ data }) => (data ? resolve() : reject());
    }),
  };
  const sent = [];
  for (const [name, attempt] of Object.entries(tries)) {
    try { await attempt(); sent.push(name); } catch {}
  }
  return sent;
}"""


def test_the_policy_lets_no_script_send_anything_elsewhere(browser, folder, tmp_path):
    arrived = []
    (tmp_path / "free.html").write_text("<!doctype html><title>No policy</title>")
    with (
        served(folder) as address,
        served(tmp_path) as free,
        served(tmp_path, arrived=arrived) as elsewhere,
    ):
        # Without a policy, all of it arrives.
        page = browser.new_page()
        page.goto(f"{free}free.html")
        page.evaluate(SEND, elsewhere)
        page.wait_for_timeout(200)
        assert [method for method, _ in arrived].count("POST") == 3
        assert [method for method, _ in arrived].count("GET") >= 2
        arrived.clear()
        page = open_page(browser, address)
        assert set(page.evaluate(SEND, elsewhere)) <= {"beacon"}  # only queued
        page.wait_for_timeout(500)
        assert arrived == []


def from_cdn(files):
    """Return a function that lets a page find the runtime's files on their CDN."""

    def answer(route):
        name = route.request.url.rsplit("/", 1)[1]
        headers = {"Access-Control-Allow-Origin": "*"}
        route.fulfill(body=files[name], headers=headers)

    return lambda page: page.context.route(f"{web._CDN}*", answer)


@pytest.fixture(scope="module")
def with_cdn(browser, model, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "page"
    export(model, path, "web")
    return path


@pytest.mark.parametrize("headers", [None, web_browser.ISOLATED], ids=["", "isolated"])
def test_the_runtime_is_loaded_from_its_cdn(browser, with_cdn, model, headers):
    source = web_browser.runtime_folder()
    files = {name: (source / name).read_bytes() for name in web._INTEGRITY}
    content = encoded(photos()["astronaut"], "PNG")
    with served(with_cdn, headers) as address:
        page = open_page(browser, address, from_cdn(files))
        answer = classify(page, {"astronaut.png": content})["astronaut.png"]
    assert compare(answer, content, model)[0] == 0 and page.errors == []


@pytest.mark.parametrize("name", web._INTEGRITY)
def test_a_runtime_that_somebody_changed_does_not_run(browser, with_cdn, name):
    source = web_browser.runtime_folder()
    files = {name: (source / name).read_bytes() for name in web._INTEGRITY}
    files[name] += b"\n"
    with served(with_cdn) as address:
        page = browser.new_page()
        from_cdn(files)(page)
        page.goto(address)
        page.get_by_text(
            f"{name} cannot be loaded, or is not what this page"
        ).wait_for()
        assert page.locator("#choose").is_disabled()


def test_a_network_that_is_missing_is_named(browser, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "page")
    (tmp_path / "page" / "model.onnx").unlink()
    with served(tmp_path / "page") as address:
        page = browser.new_page()
        page.goto(address)
        missing = page.get_by_text("model.onnx is missing: the server answered 404")
        missing.wait_for()
        assert page.get_by_role("status").inner_text() == missing.inner_text()
        page.close()


def test_an_isolated_page_computes_in_threads(browser, folder, model):
    content = encoded(photos()["astronaut"], "PNG")
    with served(folder, web_browser.ISOLATED) as address:
        page = open_page(browser, address)
        threads = page.evaluate("window.ready.threads")
        processors = page.evaluate("navigator.hardwareConcurrency")
        assert threads == min(processors, 4)
        answer = classify(page, {"astronaut.png": content})["astronaut.png"]
    pixel, logit = compare(answer, content, model)
    assert pixel == 0 and logit <= TOLERANCE and page.errors == []


def test_dynamic_int8_computes_what_onnxruntime_computes(browser, model, tmp_path):
    path = tmp_path / "page"
    export(model, path, "web_dynamic_int8", runtime=web_browser.runtime_folder())
    session = onnxruntime.InferenceSession(path / "model.onnx")
    files = {f"{n}.png": encoded(image, "PNG") for n, image in photos().items()}
    with served(path) as address:
        answers = classify(open_page(browser, address), files)
    for name, content in files.items():
        image = Image.open(io.BytesIO(content))
        pixels = keras_cvt.preprocess_input(image, model)
        (logits,) = session.run(None, {"images": pixels})
        # Values halfway between two of 8 bits are rounded either way.
        np.testing.assert_allclose(answers[name]["outputs"], logits[0], atol=0.1)
        best = np.argmax(model.predict(pixels, verbose=0)[0])
        assert answers[name]["best"][0]["name"] == model.class_names[best], name
