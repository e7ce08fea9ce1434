"""Decode an image file to uint8 [H,W,C].

Palettes, CMYK and YCbCr are converted to RGB; RGB to grey by Rec. 601 luma, grey to RGB by repetition. 16-bit samples
keep their upper byte (an 8-bit image stored in 16 bits is restored exactly), or are scaled by a white point (grey
ones). Transparent pixels are composited over a colour, or their opacity is a fourth channel. The EXIF orientation is
applied, an embedded colour profile is not. Of a camera's MPO file the first picture is taken. Other images are errors.
"""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageOps

from diffusion_jax.data.source import Refused, readable

RESIZES = ("none", "center_crop", "stretch")
FILTERS = {
    "box": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", *SIXTEEN_BITS)
STRIP = 16
"""Areas of the crop beyond which a scaled image is not made whole: of a strip it would take gigabytes."""
ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)


class Rule(NamedTuple):
    """Conversion of an image of any size to uint8 [height,width,channels]."""

    height: int
    width: int
    channels: int
    resize: str
    """"none": files must have that size. "center_crop": scaled to cover it, cropped. "stretch": both sides scaled."""
    filter: str
    """Resampling kernel, one of FILTERS, antialiased."""
    alpha: str = "white"
    """Colour under transparent pixels: white, black, #rrggbb or another CSS name."""
    white_point: int = 65535
    """Value of 16-bit grey files that becomes 255, such as 4095 for 12 bits; 65535: the upper byte is kept."""
    max_pixels: int = 0
    """Pixels of a file that are allowed beyond Pillow's limit, for the whole process; 0: that limit."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.height, self.width, self.channels


def rule(
    section: str,
    size: int | Sequence[int],
    channels: int,
    resize: str,
    filter: str,
    alpha: str = "white",
    white_point: int = 65535,
    max_pixels: int = 0,
) -> Rule:
    """Make a checked Rule. size: one side or (height, width).

    Raises ValueError, naming `section` and the option.
    """
    sides = tuple(size) if isinstance(size, Sequence) else (size,)
    if len(sides) not in (1, 2) or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f"data.{section}.size={size}: must be a number of pixels, or (height, width)")
    if channels not in (1, 3, 4):
        raise ValueError(f"data.{section}.channels={channels}: must be 1 (grey), 3 (RGB) or 4 (RGB and opacity)")
    if resize not in RESIZES:
        raise ValueError(f"data.{section}.resize={resize!r}: unknown. Use one of {', '.join(RESIZES)}")
    if filter not in FILTERS:
        raise ValueError(f"data.{section}.filter={filter!r}: unknown. Use one of {', '.join(FILTERS)}")
    try:
        opaque = ImageColor.getrgb(alpha)[3:] in ((), (255,))
    except (ValueError, TypeError, AttributeError):
        opaque = False
    if not opaque:
        raise ValueError(f"data.{section}.alpha={alpha!r}: must be an opaque colour: white, black, #rrggbb or a name")
    if not (isinstance(white_point, int) and 1 <= white_point <= 65535):
        raise ValueError(f"data.{section}.white_point={white_point}: must be 1 … 65535, such as 4095 for 12 bits")
    if not (isinstance(max_pixels, int) and max_pixels >= 0):
        raise ValueError(f"data.{section}.max_pixels={max_pixels}: must be a number of pixels, or 0 for Pillow's limit")
    return Rule(sides[0], sides[-1], channels, resize, filter, alpha, white_point, max_pixels)


def check(file: pathlib.Path, rule: Rule) -> bool:
    """Check the header of an image file; return True for an alpha channel.

    A transparent colour of a palette counts as one.

    Raises ValueError.
    """
    if os.path.exists(file) and not os.path.isfile(file):
        raise Refused(f"{file}: is not a regular file. Remove it from the folder")
    with _opened(file, str(file), rule) as image:
        size, transparent = image.size, image.has_transparency_data
        wanted = (rule.width, rule.height)
        if rule.resize == "none" and rule.width != rule.height and size in (wanted, wanted[::-1]):
            size = size[::-1] if image.getexif().get(ORIENTATION) in SIDEWAYS else size
    if rule.resize == "none" and size != wanted:
        _refuse_size(str(file), size, rule)
    return transparent


def decode(file: pathlib.Path | bytes, name: str, rule: Rule) -> np.ndarray:
    """Decode an image file, or its bytes, to uint8 [H,W,C].

    name: the name of the file in errors. Raises ValueError if it is damaged or does not fit the rule.
    """
    with _opened(io.BytesIO(file) if isinstance(file, bytes) else file, name, rule) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        image = _resized(_colours(image, rule), name, rule)
    return np.asarray(image).reshape(rule.shape)


def _colours(image: Image.Image, rule: Rule) -> Image.Image:
    if image.mode in SIXTEEN_BITS:
        image = Image.fromarray(_eight_bits(np.asarray(image), rule.white_point))
    if rule.channels == 4:
        return image.convert("RGBA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, rule.alpha), image)
    return image.convert("L" if rule.channels == 1 else "RGB")


def _eight_bits(x: np.ndarray, white_point: int) -> np.ndarray:
    if white_point == 65535:
        return (x >> 8).astype(np.uint8)
    return np.round(np.minimum(x, white_point) * (255 / white_point)).astype(np.uint8)


def _resized(image: Image.Image, name: str, rule: Rule) -> Image.Image:
    width, height = image.size
    if (width, height) == (rule.width, rule.height):
        return image
    if rule.resize == "none":
        _refuse_size(name, image.size, rule)
    kernel = FILTERS[rule.filter]
    if rule.resize == "stretch":
        return image.resize((rule.width, rule.height), kernel)
    scale = max(rule.width / width, rule.height / height)
    wide, high = max(rule.width, round(width * scale)), max(rule.height, round(height * scale))
    left, top = (wide - rule.width) // 2, (high - rule.height) // 2
    right, bottom = left + rule.width, top + rule.height
    if wide * high <= STRIP * rule.width * rule.height:
        return image.resize((wide, high), kernel).crop((left, top, right, bottom))
    x, y = width / wide, height / high
    return image.resize((rule.width, rule.height), kernel, (left * x, top * y, right * x, bottom * y))


@contextlib.contextmanager
def _opened(file: Any, name: str, rule: Rule) -> Iterator[Image.Image]:
    """Open an image of one frame in a known pixel mode. Raises ValueError or FileNotFoundError."""
    if Image.MAX_IMAGE_PIXELS is not None and rule.max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = rule.max_pixels
    try:
        with readable(name, "replace it or delete it", " as an image"), Image.open(file) as image:
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if frames != 1:
                raise Refused(f"{name}: has {frames} frames. Save one image per file")
            if image.mode not in MODES:
                raise Refused(f"{name}: unsupported pixel mode {image.mode!r}. Convert it to 8-bit RGB or grey")
            yield image
    except FileNotFoundError as error:
        what = "is a link to a file that does not exist" if os.path.islink(name) else "does not exist any more"
        raise FileNotFoundError(f"{name}: {what}. Restore the file, or remove its name") from error
    except ValueError as error:
        if isinstance(error.__cause__, Image.DecompressionBombError):
            raise ValueError(f"{error}. To allow it, set data.folder.max_pixels to its number of pixels") from error
        raise


def _refuse_size(name: str, size: tuple[int, int], rule: Rule) -> None:
    raise Refused(
        f"{name}: is {size[1]} x {size[0]} pixels (height x width), not {rule.height} x {rule.width}. "
        "Set size to that, or resize to center_crop or stretch"
    )
