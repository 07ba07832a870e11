"""Draws docs/method.svg, the figure of the method: python docs/figures/method.py."""

import pathlib
from html import escape

OUT = pathlib.Path(__file__).parents[1] / "method.svg"
WIDTH, HEIGHT = 1000, 420
BLUE, GREEN, ORANGE, GREY = "#2b6cb0", "#2f855a", "#c05621", "#4a5568"
STYLE = """
text { font: 15px system-ui, sans-serif; fill: #1a202c; text-anchor: middle }
.small { font-size: 12.5px; fill: #4a5568 }
.loss { font-weight: 600 }
.box { stroke-width: 1.6; rx: 8 }
.arrow { fill: none; stroke: #4a5568; stroke-width: 1.6; marker-end: url(#head) }
.chosen { stroke: #c05621; stroke-dasharray: 5 4 }
"""


def box(x: int, y: int, width: int, lines: list[str], colour: str) -> str:
    """A box of two lines at most, the second one small."""
    middle = x + width / 2
    rect = f'<rect class="box" x="{x}" y="{y}" width="{width}" height="54" fill="{colour}1a" stroke="{colour}"/>'
    rows = [(25 if len(lines) > 1 else 32, ""), (43, ' class="small"')]
    texts = (
        f'<text x="{middle:g}" y="{y + down}"{style}>{escape(line)}</text>'
        for line, (down, style) in zip(lines, rows, strict=False)
    )
    return rect + "".join(texts)


def arrow(points: list[tuple[int, int]], style: str = "") -> str:
    """A line through the points, with a head at its end."""
    path = " L".join(f"{x} {y}" for x, y in points)
    return f'<path class="arrow {style}" d="M{path}"/>'


def note(x: int, y: int, text: str, style: str = "small") -> str:
    """A line of text around x."""
    return f'<text class="{style}" x="{x}" y="{y}">{escape(text)}</text>'


def figure() -> str:
    """The whole drawing."""
    parts = [
        # what goes in
        box(20, 30, 120, ["X-ray", "2D"], GREY),
        box(20, 150, 120, ["CT", "3D"], GREY),
        box(20, 340, 120, ["Report"], GREY),
        # tokenizers
        box(200, 30, 130, ["2D tokenizer", "patches, slices"], BLUE),
        box(200, 150, 130, ["3D tokenizer", "volume patches"], BLUE),
        arrow([(140, 57), (198, 57)]),
        arrow([(140, 177), (198, 177)]),
        arrow([(265, 150), (265, 86)], "chosen"),
        note(212, 122, "chosen slices"),
        # encoders
        box(410, 30, 170, ["EMA teacher", "sees all tokens"], ORANGE),
        box(410, 150, 170, ["Shared ViT (student)", "sees chosen tokens"], BLUE),
        box(410, 340, 170, ["Report tower", "BERT"], GREEN),
        arrow([(330, 57), (408, 57)]),
        arrow([(330, 67), (370, 67), (370, 167), (408, 167)]),
        arrow([(330, 187), (408, 187)]),
        arrow([(350, 187), (350, 47), (408, 47)]),
        arrow([(140, 367), (408, 367)]),
        arrow([(495, 84), (495, 148)], "chosen"),
        note(565, 113, "CLS attention picks"),
        note(565, 130, "slices and patches"),
        # losses
        box(690, 30, 290, ["Self-distillation on CLS, L_icl", "teacher's prototypes as targets"], ORANGE),
        box(690, 150, 290, ["Self-distillation on patches, L_pcl", "teacher's prototypes as targets"], ORANGE),
        box(690, 270, 290, ["Image-report contrast, L_vl", "over the global batch"], GREEN),
        arrow([(580, 57), (688, 57)]),
        arrow([(580, 167), (688, 167)]),
        arrow([(640, 167), (640, 70), (688, 70)]),
        arrow([(660, 57), (660, 190), (688, 190)]),
        arrow([(580, 187), (620, 187), (620, 287), (688, 287)]),
        arrow([(580, 367), (640, 367), (640, 307), (688, 307)]),
        note(835, 352, "one space for X-rays, CTs and reports"),
    ]
    marker = (
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L10 5 L0 10 z" fill="{GREY}"/></marker></defs>'
    )
    paper = f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="#ffffff"/>'
    title = "UniMedI: tokenizers, shared ViT, EMA teacher, report tower and three losses"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    lines = [head, f"<title>{title}</title>", f"<style>{STYLE}</style>", marker, paper, *parts, "</svg>"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    OUT.write_text(figure(), encoding="utf-8")
