"""The files of a web page."""

FILES = {
    *("index.html", "style.css", "app.js", "worker.js", "decode.js", "preprocess.js"),
    *("model.onnx", "page.json", "keras_cvt.json"),
}


def files_in(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
