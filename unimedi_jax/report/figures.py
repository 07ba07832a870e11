"""Pictures of the report page, as PNG bytes: curves, t-SNE maps, attention, slice scores."""

import io
import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float, Int16, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import ndimage
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from data import plain
from unimedi_jax.report.content import SliceExample

# Okabe and Ito's palette, which colour-blind readers can distinguish too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555", "#b8a900")
MARKERS = ("o", "^", "s", "D", "v", "P")
LESION_RGB = (0, 200, 255)
LUNG_WINDOW_HU = (-1350, 150)  # level -600, width 1500
TSNE_POINTS = 1000
FEWEST_POINTS = 8  # of a map: fewer show nothing
LONGEST_NAME, LEGEND_LETTERS = 60, 76  # letters of a name in a legend, and of a line of one under a map
STYLE = {
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "text.parse_math": False,  # a label may hold a dollar sign
}


def curves(
    metrics: Sequence[Mapping[str, Any]],
    keys: Mapping[str, str],
    *,
    title: str,
    unit: str = "",
    chance: float | None = None,
) -> bytes:
    """One panel of scalars against the step, by key and name; values that are not finite leave a gap.

    `unit` names the vertical axis, and a dotted line stands at `chance`.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 2.7), layout="constrained")
        axes = figure.subplots()
        for (key, name), colour in zip(keys.items(), itertools.cycle(COLOURS), strict=False):
            points = [(line["step"], line[key]) for line in metrics if key in line]
            steps, values = np.array(points, np.float64).reshape(-1, 2).T
            values = np.where(np.isfinite(values), values, np.nan)
            few = "o" if len(steps) < 20 else None
            axes.plot(steps, values, color=colour, linewidth=1.3, marker=few, ms=3, label=_name(name))
        if chance is not None:
            axes.axhline(chance, color="#888888", linewidth=1, linestyle=":", label="chance")
        axes.grid(axis="y", color="#eeeeee")
        axes.set(title=title, xlabel="step", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if len(keys) > 4:  # many names go under the curves, where they hide none
            figure.set_figheight(2.7 + 0.1 * len(keys))
            figure.legend(fontsize=8, ncols=2, loc="outside lower center")
        elif len(keys) > 1 or chance is not None:
            axes.legend(fontsize=8)
        return _png(figure)


def tsne(z: Float[np.ndarray, "n e"], *, seed: int = 0) -> Float[np.ndarray, "n 2"]:
    """t-SNE (cosine distance) of up to a thousand embeddings; n >= 5, see `tsne_rows` for more.

    Rows are only scaled to length 1, nothing is centred by modality: a gap stays visible.
    """
    if len(z) < 5:
        raise ValueError(f"t-SNE needs at least 5 points, got {len(z)}")
    perplexity = min(30.0, (len(z) - 1) / 3)
    z = np.asarray(z, np.float32)
    z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    # Squared Euclidean distance on the unit sphere is twice the cosine distance.
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    # One thread: on a busy machine OpenMP's waiting threads slow the many short steps tenfold.
    with threadpool_limits(1):
        return tsne.fit_transform(z)


def tsne_rows(n: int, *, limit: int = TSNE_POINTS, seed: int = 0) -> np.ndarray:
    """Sorted indices of at most `limit` of n rows, a seeded draw: t-SNE of more takes minutes."""
    if n <= limit:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, limit, replace=False))


def embedding_map(
    points: Float[np.ndarray, "n 2"], colour_by: Sequence[str], marker_by: Sequence[str], title: str
) -> bytes:
    """Scatter plot, one colour per name in `colour_by`, one marker per name in `marker_by`."""
    names, kinds = list(dict.fromkeys(colour_by)), list(dict.fromkeys(marker_by))
    colour_of = dict(zip(names, itertools.cycle(COLOURS), strict=False))
    marker_of = dict(zip(kinds, itertools.cycle(MARKERS), strict=False))
    group = list(zip(colour_by, marker_by, strict=True))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.0, 4.6), layout="constrained")
        axes = figure.subplots()
        for name, kind in dict.fromkeys(group):
            rows = [index for index, pair in enumerate(group) if pair == (name, kind)]
            axes.scatter(*points[rows].T, s=13, color=colour_of[name], marker=marker_of[kind], lw=0, alpha=0.7)
        handles = [axes.scatter([], [], color=colour_of[name], s=18, label=_name(name)) for name in names]
        if names != kinds:
            handles += [
                axes.scatter([], [], color="#555555", marker=marker_of[kind], s=18, label=_name(kind)) for kind in kinds
            ]
        axes.set(title=title, xticks=[], yticks=[])
        axes.spines[["left", "bottom"]].set_visible(False)
        longest = max(len(handle.get_label()) for handle in handles)
        columns = min(max(LEGEND_LETTERS // (longest + 5), 1), 4)
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8)
        return _png(figure)


def attention(
    image: UInt8[np.ndarray, "y x"], scores: Float[np.ndarray, "gy gx"], lesion: Bool[np.ndarray, "y x"] | None = None
) -> bytes:
    """The X-ray overlaid with its attention, each picture scaled to its own range."""
    scores = np.asarray(scores, np.float32)
    # Pixel areas, not corners, are mapped: each score sits in the middle of its patch.
    heat = cv2.resize(scores, image.shape[::-1], interpolation=cv2.INTER_LINEAR)
    span = float(scores.max() - scores.min())
    heat = np.clip((heat - scores.min()) / span, 0, 1) if span > 0 else np.zeros_like(heat)
    colour = mpl.colormaps["inferno"](heat)[..., :3] * 255
    # Where attention is low the X-ray stays readable.
    share = 0.65 * heat[..., None]
    picture = (1 - share) * image[..., None] + share * colour
    return _pixels(_outlined(picture.astype(np.uint8), lesion))


def greyscale(image: UInt8[np.ndarray, "y x"], lesion: Bool[np.ndarray, "y x"] | None = None) -> bytes:
    """A grey picture with the lesion, if any, outlined."""
    return _pixels(_outlined(np.repeat(image[..., None], 3, axis=-1), lesion))


def lung_window(slice_hu: Int16[np.ndarray, "*space"]) -> UInt8[np.ndarray, "*space"]:
    """HU in the lung window (level -600, width 1500) as 0 to 255."""
    low, high = LUNG_WINDOW_HU
    clipped = np.clip(slice_hu.astype(np.float32), low, high)
    return np.round((clipped - low) * (255 / (high - low))).astype(np.uint8)


def axial_slice(slice_hu: Int16[np.ndarray, "y x"], lesion: Bool[np.ndarray, "y x"] | None = None) -> bytes:
    """An axial slice in the lung window at twice its size, the patient's right at left."""
    picture = cv2.resize(lung_window(slice_hu), None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    return greyscale(picture, None if lesion is None else lesion.repeat(2, axis=0).repeat(2, axis=1))


def slice_scores(example: SliceExample) -> bytes:
    """Bars of the layers' scores, chosen ones blue, over a strip of the lesion's slices."""
    slices, layers = len(example.volume), len(example.scores)
    depth = slices // layers
    chosen = np.isin(np.arange(layers), example.chosen_layers)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 1.9), layout="constrained")
        bars, strip = figure.subplots(2, sharex=True, height_ratios=(8, 1), gridspec_kw={"hspace": 0.02})
        centre = (np.arange(layers) + 0.5) * depth - 0.5
        colours = np.where(chosen, COLOURS[0], "#cfd6dc")
        bars.bar(centre, example.scores, width=0.9 * depth, color=colours)
        bars.set(ylabel="score")
        bars.ticklabel_format(axis="y", scilimits=(-2, 3))
        _strip(strip, example, slices)
        bars.tick_params(axis="x", length=0)
        return _png(figure)


def _strip(axes: Axes, example: SliceExample, slices: int) -> None:
    """The thin row under the bars: one mark per slice that holds the lesion."""
    lesion = example.lesion
    marked = np.zeros(slices, bool) if lesion is None else lesion.any(axis=(1, 2))
    axes.bar(np.arange(slices), 1.0, width=1.0, color="#f3f3f3")
    axes.bar(np.flatnonzero(marked), 1.0, width=1.0, color=COLOURS[1])
    axes.set(xlim=(-0.5, slices - 0.5), ylim=(0, 1), yticks=[], xlabel="slice, from feet to head")
    name, colour = ("not marked", COLOURS[6]) if lesion is None else ("lesion", COLOURS[1])
    axes.set_ylabel(name, rotation=0, ha="right", va="center", color=colour)
    axes.spines[["left", "bottom"]].set_visible(False)


def _outlined(
    picture: UInt8[np.ndarray, "y x 3"], lesion: Bool[np.ndarray, "y x"] | None
) -> UInt8[np.ndarray, "y x 3"]:
    if lesion is None:
        return picture
    # The line runs just outside the lesion, so that it hides nothing of it.
    edge = ndimage.binary_dilation(lesion, iterations=2) & ~ndimage.binary_dilation(lesion)
    return np.where(edge[..., None], np.array(LESION_RGB, np.uint8), picture)


def _pixels(picture: UInt8[np.ndarray, "y x 3"]) -> bytes:
    _, buffer = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))  # OpenCV wants BGR
    return buffer.tobytes()


def _name(name: str) -> str:
    """A name as a legend shows it, which leaves out those that begin with an underscore."""
    shown = plain.text(name).replace("\n", " ")[:LONGEST_NAME]
    return f" {shown}" if shown.startswith("_") else shown


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a script that the font does not have shows boxes
        figure.savefig(buffer, format="png", dpi=170)
    return buffer.getvalue()
