"""Draw the figures of the documentation from the numbers of CvT-13's configuration.

    python docs/figures.py

writes docs/images/network.svg and docs/images/block.svg. A test compares them with what
the code draws today.
"""

from html import escape
from pathlib import Path

from keras_cvt import profile, zoo
from keras_cvt._utils import validation

IMAGES = Path(__file__).parent / "images"
MODEL, NAME, SIZE, CLASSES = "cvt13", "CvT-13", 224, 1000
WIDTH = 520
INK, GREY, PAPER, CARD = "#1c2b33", "#5b6b75", "#ffffff", "#f2f6f7"
CONVOLUTION, ATTENTION, TOKEN, LINE = "#00897b", "#5e6ad2", "#e07a1f", "#9fb0b8"
ACTIVATIONS = {"quick_gelu": "QuickGELU", "gelu": "GELU"}


class Drawing:
    """An SVG picture that is put together from top to bottom."""

    def __init__(self, title: str, description: str):
        self.title, self.description = title, description
        self.parts: list[str] = []

    def box(self, x, y, width, height, fill=PAPER, stroke=LINE, radius=8, dash=""):
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
            f'rx="{radius}" fill="{fill}" stroke="{stroke}"{dashes}/>'
        )

    def text(self, x, y, words, size=15, fill=INK, anchor="start", bold=False):
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" '
            f'text-anchor="{anchor}"{weight}>{escape(words)}</text>'
        )

    def line(self, points, stroke=GREY, arrow=True, dash=""):
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        end = ' marker-end="url(#arrow)"' if arrow else ""
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{stroke}" '
            f'stroke-width="1.6"{end}{dashes}/>'
        )

    def label(self, x, y, width, words, fill, height=34, size=14):
        """Draw a coloured box with white words in its middle."""
        self.box(x, y, width, height, fill, fill, 6)
        self.text(x + width / 2, y + height / 2 + 5, words, size, PAPER, "middle")

    def plus(self, x, y):
        self.parts.append(
            f'<circle cx="{x:g}" cy="{y:g}" r="11" fill="{PAPER}" stroke="{GREY}"/>'
        )
        self.text(x, y + 6, "+", 18, INK, "middle")

    def svg(self, height):
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} '
                f'{height:g}" width="{WIDTH}" height="{height:g}" role="img" '
                'font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica, '
                'Arial, sans-serif">',
                f"<title>{escape(self.title)}</title>",
                f"<desc>{escape(self.description)}</desc>",
                '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" '
                'markerWidth="7" markerHeight="7" orient="auto">'
                f'<path d="M0 0L8 4L0 8z" fill="{GREY}"/></marker></defs>',
                f'<rect width="{WIDTH}" height="{height:g}" rx="12" fill="{PAPER}"/>',
                *self.parts,
                "</svg>",
                "",
            ]
        )


def network() -> str:
    """Return the picture of the whole network."""
    config = zoo.MODELS[MODEL]
    parts = {p.name: p for p in profile.profile(config, SIZE, SIZE, CLASSES)}
    million = profile.parameters(config, CLASSES) / 1e6
    billion = profile.macs(config, SIZE, SIZE, CLASSES) / 1e9
    drawing = Drawing(
        f"{NAME} at {SIZE} x {SIZE} pixels",
        "The image passes three stages, each a convolutional embedding and Transformer "
        "blocks on a smaller map, then a norm and the head.",
    )
    middle, y = WIDTH / 2, 16
    drawing.box(middle - 120, y, 240, 36)
    drawing.text(middle, y + 23, f"image  {SIZE} × {SIZE} × 3", anchor="middle")
    y += 36
    for i, stage in enumerate(config.stages):
        drawing.line([(middle, y), (middle, y + 22)])
        y += 24
        _stage(drawing, y, i, stage, parts[f"stage{i}"])
        y += 152
    drawing.line([(middle, y), (middle, y + 22)])
    y += 24
    norm = "LayerNorm, then the class token alone"
    drawing.box(middle - 160, y, 320, 36, CARD)
    drawing.text(middle, y + 23, norm, anchor="middle")
    y += 36
    drawing.line([(middle, y), (middle, y + 22)])
    y += 24
    drawing.box(middle - 160, y, 320, 36, CARD)
    head = f"head: linear layer, {CLASSES:,} classes"
    drawing.text(middle, y + 23, head, anchor="middle")
    y += 62
    total = f"{NAME}: {million:.1f} M parameters, {billion:.1f} GMACs for one image"
    drawing.text(middle, y, total, 14, GREY, "middle")
    return drawing.svg(y + 18)


def _stage(drawing, y, i, stage, part):
    """Draw a stage: its map to the left, what it computes to the right."""
    rows, columns, channels = part.output
    drawing.box(16, y, WIDTH - 32, 150, CARD)
    # The map's side on the paper shrinks as the real one does.
    side = 104 * rows / (SIZE / 4)
    x, top = 96 - side / 2, y + 20 + (92 - side) / 2
    drawing.box(x, top, side, side, "#cfe8e4", CONVOLUTION, 2)
    cells = min(7, rows)
    for k in range(1, cells):
        step = side * k / cells
        for ends in (
            [(x + step, top), (x + step, top + side)],
            [(x, top + step), (x + side, top + step)],
        ):
            drawing.line(ends, "#8fc7bf", arrow=False)
    if stage.cls_token:
        drawing.box(x - 22, top + side / 2 - 7, 14, 14, TOKEN, TOKEN, 2)
        drawing.text(96, y + 36, "with a class token", 13, TOKEN, "middle")
    drawing.text(96, y + 138, f"{rows} × {columns} × {channels}", 14, INK, "middle")

    left = 196
    drawing.text(left, y + 26, f"Stage {i + 1}", 16, bold=True)
    # The code counts from 0.
    drawing.text(WIDTH - 32, y + 26, f"stage{i}", 13, GREY, "end")
    words = (
        f"convolution {stage.patch_size} × {stage.patch_size}, "
        f"stride {stage.patch_stride}"
    )
    drawing.label(left, y + 38, WIDTH - 32 - left, words, CONVOLUTION, 32)
    blocks = f"{stage.depth} {_plural('block', stage.depth)}, "
    blocks += f"{stage.num_heads} {_plural('head', stage.num_heads)}"
    drawing.label(left, y + 76, WIDTH - 32 - left, blocks, ATTENTION, 32)
    tokens = rows * columns + stage.cls_token
    drawing.text(left, y + 138, f"{tokens:,} tokens", 13, GREY)
    cost = f"{part.parameters / 1e6:.1f} M parameters, {part.macs / 1e9:.1f} GMACs"
    drawing.text(WIDTH - 32, y + 138, cost, 13, GREY, "end")


def block() -> str:
    """Return the picture of one block of the last stage."""
    config = zoo.MODELS[MODEL]
    stage = config.stages[-1]
    part = profile.profile(config, SIZE, SIZE, CLASSES)[len(config.stages) - 1]
    rows, columns, channels = part.output
    size = validation.projection_output_size(
        stage.projection, rows, stage.kernel_size, stage.stride_kv, stage.padding_kv
    )
    assert size is not None
    kernel = f"{stage.kernel_size} × {stage.kernel_size}"
    tokens, keys = rows * columns + 1, size * size + 1
    drawing = Drawing(
        f"A block of the last stage of {NAME}",
        "Norm, depthwise convolutions for queries, keys and values, attention, and the "
        "MLP, with two residual connections. The class token skips the convolutions.",
    )
    middle, trunk = 286, 40
    drawing.text(16, 30, f"tokens  {tokens} × {channels}", bold=True)
    drawing.text(WIDTH - 16, 30, "dashed: the class token", 13, TOKEN, "end")
    drawing.line([(trunk, 40), (trunk, 462)])  # the first residual connection
    drawing.line([(trunk, 58), (middle, 58), (middle, 74)])
    drawing.box(middle - 90, 76, 180, 32, CARD)
    drawing.text(middle, 97, "LayerNorm", anchor="middle")

    columns_x = {"q": 142, "k": 286, "v": 430}
    for letter, x in columns_x.items():
        drawing.line([(middle, 108), (middle, 122), (x, 122), (x, 138)])
        stride = stage.stride_q if letter == "q" else stage.stride_kv
        drawing.box(x - 64, 140, 128, 58, CONVOLUTION, CONVOLUTION, 6)
        drawing.text(x, 163, f"depthwise {kernel}", 12, PAPER, "middle")
        drawing.text(x, 184, f"stride {stride}, BatchNorm", 12, PAPER, "middle")
        # The class token goes around the convolution.
        around = x + 69
        drawing.line([(around, 122), (around, 208)], TOKEN, arrow=False, dash="4 3")
        drawing.line([(x, 122), (around, 122)], TOKEN, arrow=False, dash="4 3")
        drawing.line([(around, 208), (x + 4, 208)], TOKEN, arrow=False, dash="4 3")
        drawing.line([(x, 198), (x, 220)])
        drawing.label(x - 64, 222, 128, f"linear {letter}", ATTENTION, 32)
        count = tokens if letter == "q" else keys
        drawing.text(x, 272, f"{letter}: {count} × {channels}", 13, GREY, "middle")
        drawing.line([(x, 280), (x, 298)])
    scale = {"embed_dim": channels, "head_dim": channels // stage.num_heads}
    heads = f"{stage.num_heads} {_plural('head', stage.num_heads)}"
    words = f"softmax(q · k / √{scale[stage.scale]}) · v, {heads}"
    drawing.label(78, 300, 416, words, ATTENTION, 56, 15)
    drawing.line([(middle, 356), (middle, 376)])
    drawing.label(middle - 90, 378, 180, "linear", ATTENTION, 32)
    drawing.text(middle + 10, 440, "drop path", 13, GREY)
    drawing.line([(middle, 410), (middle, 475), (trunk + 13, 475)])
    drawing.plus(trunk, 475)

    drawing.line([(trunk, 486), (trunk, 670)])  # the second residual connection
    drawing.line([(trunk, 506), (middle, 506), (middle, 520)])
    drawing.box(middle - 90, 522, 180, 32, CARD)
    drawing.text(middle, 543, "LayerNorm", anchor="middle")
    drawing.line([(middle, 554), (middle, 574)])
    hidden = validation.mlp_hidden_dim(channels, stage.mlp_ratio)
    words = f"linear {hidden:,}, {ACTIVATIONS[config.activation]}, linear {channels}"
    drawing.label(78, 576, 416, words, ATTENTION, 36, 15)
    drawing.line([(middle, 612), (middle, 683), (trunk + 13, 683)])
    drawing.text(middle + 10, 640, "drop path", 13, GREY)
    drawing.plus(trunk, 683)
    drawing.line([(trunk, 694), (trunk, 718)])
    drawing.text(16, 740, f"tokens  {tokens} × {channels}", bold=True)
    return drawing.svg(758)


def _plural(word, count):
    return word if count == 1 else f"{word}s"


FIGURES = {"network.svg": network, "block.svg": block}


def main() -> None:
    """Write the figures."""
    IMAGES.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
