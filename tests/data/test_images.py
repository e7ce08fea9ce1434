import io

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data import images

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
RGB = images.rule("folder", (6, 4), 3, "none", "box")
GREY = images.rule("folder", (6, 4), 1, "none", "box")


def encoded(image, format="png", **options):
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def decoded(image, rule=RGB, format="png", **options):
    return images.decode(encoded(image, format, **options), "x", rule)


@pytest.mark.parametrize("format", ["png", "bmp", "tiff", "webp"])
def test_lossless_formats_are_exact(format):
    options = {"lossless": True} if format == "webp" else {}
    np.testing.assert_array_equal(decoded(PIXELS, format=format, **options), PIXELS)


def test_grey_and_colour_conversion():
    grey = PIXELS[..., 0]
    np.testing.assert_array_equal(decoded(grey), np.repeat(grey[..., None], 3, -1))
    np.testing.assert_array_equal(decoded(grey, GREY), grey[..., None])
    luma = PIXELS @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(decoded(PIXELS, GREY)[..., 0], luma, atol=1)


def test_two_levels_are_black_and_white():
    dark = Image.fromarray(PIXELS[..., 0] > 127)
    assert dark.mode == "1"
    np.testing.assert_array_equal(decoded(dark, GREY)[..., 0], np.where(PIXELS[..., 0] > 127, 255, 0))


def test_palette_becomes_rgb():
    palette = Image.fromarray(PIXELS).quantize(24)
    assert palette.mode == "P"
    np.testing.assert_array_equal(decoded(palette), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("format", ["png", "tiff"])
def test_sixteen_bits_keep_their_upper_byte_and_are_not_clipped(format):
    grey = PIXELS[..., 0]
    exact = Image.fromarray(grey.astype(np.uint16) * 257)
    assert exact.mode == "I;16"
    np.testing.assert_array_equal(decoded(exact, GREY, format)[..., 0], grey)
    np.testing.assert_array_equal(decoded(exact, RGB, format), np.repeat(grey[..., None], 3, -1))
    fine = Image.fromarray(np.full((6, 4), 1000, np.uint16))
    np.testing.assert_array_equal(decoded(fine, GREY, format), 3)


def test_the_white_point_scales_sixteen_bits():
    grey = np.linspace(0, 4095, 24).astype(np.uint16).reshape(6, 4)
    twelve = images.rule("folder", (6, 4), 1, "none", "box", white_point=4095)
    want = np.round(grey / 4095 * 255)
    np.testing.assert_array_equal(decoded(Image.fromarray(grey), twelve)[..., 0], want)
    np.testing.assert_array_equal(decoded(Image.fromarray(grey * 8), twelve).max(), 255)
    np.testing.assert_array_equal(decoded(PIXELS[..., 0], twelve)[..., 0], PIXELS[..., 0])


def test_the_first_picture_of_a_camera_file_is_taken():
    noise = [Image.effect_noise((4, 6), 99) for _ in range(2)]
    file = encoded(noise[0], "mpo", save_all=True, append_images=noise[1:], quality=95)
    with Image.open(io.BytesIO(file)) as opened:
        assert opened.n_frames == 2 and opened.format == "MPO"
    np.testing.assert_array_equal(images.decode(file, "x", GREY)[..., 0], np.asarray(Image.open(io.BytesIO(file))))


def test_a_large_file_is_refused_unless_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    file = tmp_path / "large.png"
    file.write_bytes(encoded(PIXELS))
    with pytest.raises(ValueError, match=r"large\.png.*\. To allow it, set data\.folder\.max_pixels"):
        images.check(file, RGB)
    allowed = images.rule("folder", (6, 4), 3, "none", "box", max_pixels=24)
    assert not images.check(file, allowed)
    np.testing.assert_array_equal(images.decode(file, "x", allowed), PIXELS)


def test_opacity_is_kept_as_a_fourth_channel():
    rule = images.rule("folder", (6, 4), 4, "none", "box")
    pixels = np.random.default_rng(1).integers(0, 256, (6, 4, 4), np.uint8)
    np.testing.assert_array_equal(decoded(pixels, rule), pixels)
    np.testing.assert_array_equal(decoded(PIXELS, rule), np.dstack([PIXELS, np.full((6, 4), 255)]))


@pytest.mark.parametrize(("shape", "size"), [((2, 401), (4, 6)), ((300, 3), (5, 4)), ((1, 5000), (64, 64))])
def test_of_a_strip_the_centre_is_scaled_alone(shape, size, monkeypatch):
    ramp = np.linspace(0, 255, max(shape)).round().astype(np.uint8)
    strip = np.ascontiguousarray(np.broadcast_to(ramp if shape[1] > shape[0] else ramp[:, None], shape))
    rule = images.rule("folder", size, 1, "center_crop", "lanczos")
    near = decoded(strip, rule).astype(int)
    monkeypatch.setattr(images, "STRIP", 10**6)  # the whole strip is scaled, then cropped
    assert np.abs(near - decoded(strip, rule)).max() <= 1  # rounding


def test_cmyk_becomes_rgb():
    inks = Image.fromarray(PIXELS).convert("CMYK")
    np.testing.assert_array_equal(decoded(inks, format="tiff"), PIXELS)
    assert decoded(inks, GREY, "tiff").shape == (6, 4, 1)


def test_transparency_is_composited_over_white():
    opaque = np.dstack([PIXELS, np.full((6, 4), 255, np.uint8)])
    np.testing.assert_array_equal(decoded(opaque), PIXELS)
    clear = np.dstack([PIXELS, np.zeros((6, 4), np.uint8)])
    np.testing.assert_array_equal(decoded(clear), 255)
    half = np.dstack([PIXELS, np.full((6, 4), 51, np.uint8)])
    np.testing.assert_allclose(decoded(half), 0.2 * PIXELS + 0.8 * 255.0, atol=2)
    for colour, value in (("black", (0, 0, 0)), ("#ff8000", (255, 128, 0)), ("rgb(1,2,3)", (1, 2, 3))):
        rule = images.rule("folder", (6, 4), 3, "none", "box", alpha=colour)
        np.testing.assert_array_equal(decoded(clear, rule), np.broadcast_to(value, (6, 4, 3)))
        np.testing.assert_allclose(decoded(half, rule), 0.2 * PIXELS + 0.8 * np.array(value), atol=2)
    np.testing.assert_array_equal(decoded(clear[..., 2:], GREY), 255)
    palette = Image.new("P", (4, 6), 0)
    palette.putpalette([10, 20, 30])
    np.testing.assert_array_equal(decoded(palette, transparency=0), 255)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    lying = np.rot90(PIXELS)
    np.testing.assert_array_equal(decoded(np.ascontiguousarray(lying), exif=exif), PIXELS)
    file = tmp_path / "lying.png"
    file.write_bytes(encoded(np.ascontiguousarray(lying), exif=exif))
    images.check(file, RGB)
    file.write_bytes(encoded(np.ascontiguousarray(lying)))
    with pytest.raises(ValueError, match=r"lying\.png"):
        images.check(file, RGB)


@pytest.mark.parametrize("filter", images.FILTERS)
def test_resizing_averages(filter):
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 200
    crop = images.rule("folder", 4, 3, "center_crop", filter)
    stretch = images.rule("folder", 4, 3, "stretch", filter)
    np.testing.assert_allclose(decoded(wide, crop)[:, 1:3], 200, atol=10)
    assert decoded(wide, crop).shape == decoded(wide, stretch).shape == (4, 4, 3)
    np.testing.assert_allclose(decoded(wide, stretch)[:, [0, 3]], 0, atol=40)  # overshoot of the kernels
    fine = np.tile(np.array([0, 255], np.uint8), (16, 8))
    flat = decoded(fine, images.rule("folder", (4, 4), 1, "stretch", filter))
    np.testing.assert_allclose(flat[:, 1:3], 127.5, atol=8)


def test_box_halving_is_the_mean_of_four():
    whole = np.random.default_rng(1).integers(0, 256, (8, 12, 1), np.uint8)
    small = decoded(whole[..., 0], images.rule("folder", (4, 6), 1, "center_crop", "box"))
    np.testing.assert_allclose(small, whole.reshape(4, 2, 6, 2, 1).mean((1, 3)), atol=2)


@pytest.mark.parametrize("size", [(6, 4), (4, 6), (9, 9), (1, 1), (7, 500)])
@pytest.mark.parametrize("target", [(6, 4), (3, 8), (5, 5)])
def test_any_size_to_any_other(size, target):
    image = np.full((*size, 3), 77, np.uint8)
    for resize in ("center_crop", "stretch"):
        out = decoded(image, images.rule("folder", target, 3, resize, "lanczos"))
        np.testing.assert_array_equal(out, np.full((*target, 3), 77))


def test_crop_is_central():
    tall = np.zeros((20, 4), np.uint8)
    tall[8:12] = 255
    out = decoded(tall, images.rule("folder", 4, 1, "center_crop", "box"))
    np.testing.assert_array_equal(out, 255)


@pytest.mark.parametrize(
    ("image", "format", "options", "mode"),
    [
        (Image.fromarray(np.zeros((6, 4), np.float32)), "tiff", {}, "F"),
        (Image.fromarray(np.zeros((6, 4), np.int32)), "tiff", {}, "I"),
        (Image.fromarray(PIXELS).convert("LAB"), "tiff", {}, "LAB"),
        (PIXELS[:5], "png", {}, ""),
        (PIXELS, "tiff", {"save_all": True, "append_images": [Image.fromarray(PIXELS)]}, ""),
        (PIXELS, "webp", {"save_all": True, "append_images": [Image.fromarray(255 - PIXELS)]}, ""),
    ],
)
def test_unsupported_images_raise(tmp_path, image, format, options, mode):
    file = tmp_path / "odd"
    file.write_bytes(encoded(image, format, **options))
    with pytest.raises(ValueError, match=f"odd.*{mode}"):
        images.check(file, RGB)
    with pytest.raises(ValueError, match=f"odd.*{mode}"):
        images.decode(file, str(file), RGB)


def test_damaged_files_raise_with_their_name(tmp_path):
    whole = encoded(PIXELS)
    for name, content in (("empty", b""), ("text", b"hello"), ("head", whole[:20])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            images.check(tmp_path / name, RGB)
    for cut in (60, 80, 100):
        with pytest.raises(ValueError, match="cut") as caught:
            images.decode(whole[:cut], "cut", RGB)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        images.decode(tmp_path / "gone", "gone", RGB)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ((0, 3, "none", "box"), r"folder\.size"),
        (((1, 2, 3), 3, "none", "box"), r"folder\.size"),
        ((8.5, 3, "none", "box"), r"folder\.size"),
        ((8, 5, "none", "box"), r"folder\.channels"),
        ((8, 3, "crop", "box"), r"folder\.resize"),
        ((8, 3, "none", "area"), r"folder\.filter"),
        ((8, 3, "none", "box", "transparent"), r"folder\.alpha"),
        ((8, 3, "none", "box", "rgba(0,0,0,0)"), r"folder\.alpha"),
        ((8, 3, "none", "box", "#ffffff80"), r"folder\.alpha"),
    ],
)
def test_invalid_rules_raise(options, option):
    with pytest.raises(ValueError, match=option):
        images.rule("folder", *options)
    assert images.rule("folder", [8], 3, "none", "box").shape == (8, 8, 3)


@pytest.mark.parametrize("colour", ["white", "#ff8000", "#ff8000ff", "rgb(1,2,3)", "rgba(1,2,3,255)"])
def test_opaque_colours_are_allowed_under_transparency(colour):
    assert images.rule("folder", 8, 3, "none", "box", colour).alpha == colour
