"""Decode an image file to uint8 [H,W,C].

Palettes, CMYK and YCbCr are converted to RGB; RGB to grey by Rec. 601 luma, grey to RGB by repetition. 16-bit samples
keep their upper byte (an 8-bit image stored in 16 bits is restored exactly). Transparent pixels are composited over
white. The EXIF orientation is applied, an embedded colour profile is not. Other images are errors.
"""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from diffusion_jax.data.source import Refused, readable

RESIZES = ("none", "center_crop", "stretch")
FILTERS = {
    "box": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", *SIXTEEN_BITS)
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

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.height, self.width, self.channels


def rule(section: str, size: int | Sequence[int], channels: int, resize: str, filter: str) -> Rule:
    """Make a checked Rule. size: one side or (height, width).

    Raises ValueError, naming `section` and the option.
    """
    sides = tuple(size) if isinstance(size, Sequence) else (size,)
    if len(sides) not in (1, 2) or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f"data.{section}.size={size}: must be a number of pixels, or (height, width)")
    if channels not in (1, 3):
        raise ValueError(f"data.{section}.channels={channels}: must be 1 (grey) or 3 (RGB)")
    if resize not in RESIZES:
        raise ValueError(f"data.{section}.resize={resize!r}: unknown. Use one of {', '.join(RESIZES)}")
    if filter not in FILTERS:
        raise ValueError(f"data.{section}.filter={filter!r}: unknown. Use one of {', '.join(FILTERS)}")
    return Rule(sides[0], sides[-1], channels, resize, filter)


def check(file: pathlib.Path, rule: Rule) -> None:
    """Check the header of an image file against a rule, without decoding. Raises ValueError."""
    with _readable(str(file)), Image.open(file) as image:
        size, mode, frames = image.size, image.mode, getattr(image, "n_frames", 1)
        wrong_size = rule.resize == "none" and size != (rule.width, rule.height)
        if wrong_size and size == (rule.height, rule.width):
            wrong_size = image.getexif().get(ORIENTATION) not in SIDEWAYS
    _check_mode(str(file), mode, frames)
    if wrong_size:
        _refuse_size(str(file), size, rule)


def decode(file: pathlib.Path | bytes, name: str, rule: Rule) -> np.ndarray:
    """Decode an image file, or its bytes, to uint8 [H,W,C].

    name: the name of the file in errors. Raises ValueError if it is damaged or does not fit the rule.
    """
    with _readable(name), Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
        opened.load()
        image: Image.Image = opened
        _check_mode(name, image.mode, getattr(image, "n_frames", 1))
        ImageOps.exif_transpose(image, in_place=True)
        image = _resized(_colours(image, rule.channels), name, rule)
    return np.asarray(image).reshape(rule.shape)


def _colours(image: Image.Image, channels: int) -> Image.Image:
    if image.mode in SIXTEEN_BITS:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


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
    width, height = max(rule.width, round(width * scale)), max(rule.height, round(height * scale))
    left, top = (width - rule.width) // 2, (height - rule.height) // 2
    return image.resize((width, height), kernel).crop((left, top, left + rule.width, top + rule.height))


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        with readable(name, "replace it or delete it", " as an image"):
            yield
    except FileNotFoundError as error:
        what = "is a link to a file that does not exist" if os.path.islink(name) else "does not exist any more"
        raise FileNotFoundError(f"{name}: {what}. Restore the file, or remove its name") from error


def _check_mode(name: str, mode: str, frames: int) -> None:
    if frames != 1:
        raise Refused(f"{name}: has {frames} frames. Save one image per file")
    if mode not in MODES:
        raise Refused(f"{name}: unsupported pixel mode {mode!r}. Convert the image to 8-bit RGB or grey")


def _refuse_size(name: str, size: tuple[int, int], rule: Rule) -> None:
    raise Refused(
        f"{name}: is {size[1]} x {size[0]} pixels (height x width), not {rule.height} x {rule.width}. "
        "Set size to that, or resize to center_crop or stretch"
    )
