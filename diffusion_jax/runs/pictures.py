"""Pictures of samples, and the parts of every figure: arrays in, files out.

Grids of samples are PNG files; figures are PNG, PDF or SVG files, see `written_as`.
"""

import contextlib
import contextvars
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from etils import epath

from diffusion_jax import files

TILE = 64
"""Pixels to which smaller images are enlarged, by a whole factor."""
BORDER = 2
"""Pixels between tiles."""
CAPTION = (48, 14, 10)
"""Least width and height of a caption, and its font size, in pixels."""
MOST = 400
"""Most tiles of a picture."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Palette of Okabe and Ito, whose colours are distinct for colour-blind readers."""
DPI = 110
FORMATS = ("png", "pdf", "svg")
_format: contextvars.ContextVar[str] = contextvars.ContextVar("format", default="png")


@contextlib.contextmanager
def written_as(name: str) -> Iterator[None]:
    """Write figures in one of FORMATS, whatever the suffix of their paths. A context manager."""
    token = _format.set(name)
    try:
        yield
    finally:
        _format.reset(token)


# Samples.


def picture(samples: np.ndarray, levels: int, captions: Sequence[str] = ()) -> np.ndarray:
    """Return samples as one picture, uint8 [height, width] or [height, width, 3].

    samples: integers 0..levels-1 [N, H, W, C] give a grid of the first MOST images, [N, D] one image with a row per
    sample; floats (levels 0) [N, D] give a scatter plot, [N, H, W, C] a grid from -1 (black) to 1 (white). captions:
    a text under each image of a grid, such as the name of its class. Raises FloatingPointError for images that are not
    finite.
    """
    samples = np.asarray(samples)
    if levels == 0 and samples.ndim == 2:
        return scatter(samples)
    if levels > 1 and samples.ndim == 2:
        return grid(samples[None, :MOST, :, None], levels, tile=MOST)
    return grid(samples[:MOST], levels, captions=captions[:MOST])


def _grey(samples: np.ndarray, leading: int = 1) -> np.ndarray:
    """Return floats in [-1, 1] as 256 grey levels. leading: number of axes before the axes of an image."""
    check_finite(samples.reshape(-1, *samples.shape[leading:]))
    return np.round((samples.clip(-1, 1) + 1) * 127.5).astype(np.uint8)


def grid(
    samples: np.ndarray, levels: int, tile: int = TILE, columns: int = 0, captions: Sequence[str] = ()
) -> np.ndarray:
    """Return images [N, H, W, C] of 0..levels-1 row by row as one picture.

    levels=0: floats in -1 … 1. The picture is enlarged if images are smaller than `tile`. columns: images in a row; 0:
    a nearly square picture. captions: a text under each image. One channel gives [height, width], three give [height,
    width, 3]; other numbers of channels are placed side by side in grey. Raises ValueError for another shape, or one
    level, and FloatingPointError for images that are not finite.
    """
    if levels == 0:
        samples, levels = _grey(samples), 256
    if samples.ndim != 4 or not len(samples) or levels < 2:
        raise ValueError(
            f"a grid needs images [N, H, W, C], N > 0, of 2 or more levels (got {samples.shape}, {levels})"
        )
    check_finite(samples)
    shades = np.round(samples.astype(np.float32) * (255 / (levels - 1))).clip(0, 255).astype(np.uint8)
    if shades.shape[-1] not in (1, 3):
        shades = np.concatenate(np.split(shades, shades.shape[-1], axis=-1), axis=2)
    factor = math.ceil(tile / max(shades.shape[1:3]))
    shades = shades.repeat(factor, axis=1).repeat(factor, axis=2)
    count, height, width, channels = shades.shape
    columns = columns or min(count, math.ceil(math.sqrt(count * height / width)))
    if captions:
        shades = captioned(shades, captions)
        height, width = shades.shape[1:3]
    rows = math.ceil(count / columns)
    down, right = height + BORDER, width + BORDER
    pixels = np.full((rows * down + BORDER, columns * right + BORDER, channels), 128, np.uint8)
    for n, image in enumerate(shades):
        top, left = n // columns * down + BORDER, n % columns * right + BORDER
        pixels[top : top + height, left : left + width] = image
    return pixels[..., 0] if channels == 1 else pixels


def captioned(shades: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """Add a text under each image, uint8 [N, H, W, 1 or 3]; long ones are cut off."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    least, height, size = CAPTION
    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)  # that of the figures
    missing = max(0, least - shades.shape[2])
    shades = np.pad(shades, ((0, 0), (0, 0), (missing // 2, missing - missing // 2), (0, 0)), constant_values=128)
    width, strips = shades.shape[2], []
    for caption in captions:
        text = " ".join(caption.split())
        while font.getlength(text) > width:
            text = text.removesuffix("…")[:-1] + "…"
        strip = Image.new("L", (width, height), 255)
        ImageDraw.Draw(strip).text((width / 2, height / 2), text, fill=0, font=font, anchor="mm")
        strips.append(np.asarray(strip))
    return np.concatenate([shades, np.stack(strips)[..., None].repeat(shades.shape[-1], -1)], axis=1)


def scatter(samples: np.ndarray) -> np.ndarray:
    """Return a scatter plot of the first two coordinates of vectors [N, D]. A histogram if D = 1. uint8 [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), dpi=100, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    finite = samples[np.isfinite(samples[:, :2]).all(axis=1)].astype(np.float64)
    if samples.shape[1] > 1:
        size = float(np.clip(2000 / max(1, len(finite)), 2, 80))
        axes.scatter(finite[:, 0], finite[:, 1], s=size, alpha=0.5, linewidths=0, color=COLOURS[0])
        axes.set(xlabel="first coordinate", ylabel="second coordinate")
        axes.set_aspect("equal", adjustable="datalim")
    elif len(finite):
        axes.hist(finite[:, 0], bins=100, density=True, color=COLOURS[0])
        axes.set(xlabel="value", ylabel="density")
    lost = len(samples) - len(finite)
    axes.set_title(f"{len(samples):,} samples" + (f", {lost:,} of them not finite" if lost else ""))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def check_finite(samples: np.ndarray) -> None:
    """Raise FloatingPointError, with their number, if samples [N, …] are not finite."""
    if samples.dtype.kind == "f" and (lost := np.count_nonzero(~np.isfinite(samples.reshape(len(samples), -1)).all(1))):
        raise FloatingPointError(f"{lost} of {len(samples)} samples are not finite")


def save_png(path: epath.PathLike, samples: np.ndarray, levels: int, captions: Sequence[str] = ()) -> None:
    """Write `picture(samples, levels, captions)` as a PNG file; make its directory if necessary."""
    write_png(epath.Path(path), picture(samples, levels, captions))


def write_png(path: epath.Path, pixels: np.ndarray) -> None:
    """Write pixels, uint8 [height, width] or [height, width, 3], as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.save_bytes(path, buffer.getvalue())


def table(path: epath.PathLike, samples: np.ndarray, levels: int, rows: Sequence[str], title: str) -> epath.Path:
    """Draw a table of pictures with R labelled rows.

    images [R, C, H, W, channels] are drawn row by row, vectors [R, C, D] as R scatter plots. Returns the path, with the
    suffix of the format. Raises FloatingPointError for images that are not finite.
    """
    if samples.ndim == 3:
        return _scatter_row(path, samples, rows, title)
    from matplotlib.figure import Figure

    count, columns = samples.shape[:2]
    if levels == 0:
        samples, levels = _grey(samples, 2), 256
    whole = grid(samples.reshape(-1, *samples.shape[2:]), levels, columns=columns)
    height, width = whole.shape[:2]
    left, top, right, below = 12 + 7 * max(map(len, rows)), 34, 10, 8  # pixels, at a font size of 8 and 10
    total = (max(left + width + right, 20 + 8 * len(title)), top + height + below)
    figure = Figure(figsize=(total[0] / 100, total[1] / 100), dpi=100)
    axes = figure.add_axes((left / total[0], below / total[1], width / total[0], height / total[1]))
    axes.imshow(whole, cmap="gray", vmin=0, vmax=255, aspect="auto", interpolation="none")
    axes.set_yticks([(i + 0.5) * height / count for i in range(count)], labels=list(rows), fontsize=8)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.suptitle(title, fontsize=10, y=1 - 8 / total[1], va="top")
    return save_figure(figure, path)


def _scatter_row(path: epath.PathLike, samples: np.ndarray, labels: Sequence[str], title: str) -> epath.Path:
    figure, panels = make_figure(len(labels), 2.3, 2.7)
    for axes, points, label in zip(panels, samples, labels, strict=True):
        axes.scatter(points[:, 0], points[:, min(1, points.shape[1] - 1)], s=6, linewidths=0, color=COLOURS[0])
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title(label, fontsize=9)
        axes.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    return save_figure(figure, path)


# Parts of a figure.


def make_figure(
    columns: int, width: float, height: float, rows: int = 1, dpi: int = DPI, ratios: Sequence[float] = ()
) -> tuple[Any, list[Any]]:
    """Return a figure and its panels.

    width: inches of a panel, height: of the figure. ratios: relative heights of the rows, in place of their number.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height), dpi=dpi, layout="constrained")
    rows, heights = (len(ratios), ratios) if ratios else (rows, None)
    panels = list(figure.subplots(rows, columns, squeeze=False, height_ratios=heights).ravel())
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def log_axis(axes: Any, name: str, values: Sequence[float] | np.ndarray, ticks: bool = False) -> None:
    """Make an axis logarithmic, with plain numbers at 1, 2, 5 or at powers of ten.

    ticks: at the values instead, as far as there is room.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    axis = getattr(axes, f"{name}axis")
    axes.set(**{f"{name}scale": "log"})
    axis.set_minor_formatter(NullFormatter())
    if ticks:
        apart: list[float] = []
        for value in sorted(set(values)):
            apart += [value] if not apart or value >= 1.25 * apart[-1] else []
        axis.set_ticks(apart, labels=[f"{value:g}" for value in apart])
        axis.set_minor_locator(NullLocator())
        return
    finite = [value for value in values if value > 0]
    decades = math.log10(max(finite) / min(finite)) if finite else 0
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,), numticks=12))
    axis.set_major_formatter("{x:g}")


def whole_ticks(axes: Any, most: int | Literal["auto"] = "auto") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=most, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def sequence_colours(count: int) -> list[Any]:
    """Return colours from light to dark that are distinct for colour-blind readers."""
    from matplotlib import colormaps

    return [colormaps["cividis"](0.85 * (1 - i / max(1, count - 1))) for i in range(count)]


def save_figure(figure: Any, path: epath.PathLike) -> epath.Path:
    """Write a figure in the format of `written_as`; return its path.

    The path has the suffix of the format. Names of runs and classes may hold any character: "$" starts no formula, and
    letters that the font lacks are boxes.
    """
    from matplotlib import rc_context
    from matplotlib.text import Text

    name = _format.get()
    path, buffer = files.place_of(path).with_suffix(f".{name}"), io.BytesIO()
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with rc_context({"pdf.fonttype": 42}), warnings.catch_warnings():  # fonts that journals accept
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(buffer, format=name)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.save_bytes(path, buffer.getvalue())
    return path
