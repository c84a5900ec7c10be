import builtins
import errno
import io
import math
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from mnv2vision.data.decoding import MAX_PIXELS, decode_bytes, decode_image, decode_picture
from mnv2vision.errors import ConfigError, DataError

ORIENTATION = 0x0112


def picture(height: int = 61, width: int = 83, channels: int = 3) -> np.ndarray:
    """Smooth and without symmetry: every wrong turn shows, and JPEG hardly changes it."""
    y, x = np.mgrid[:height, :width]
    planes = [2 * x + y, x + 2 * y, 255 - 3 * y, x * y / 20][:channels]
    return np.clip(np.stack(planes, axis=2), 0, 255).astype(np.uint8)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(**options: object) -> bytes:
    return encode(Image.fromarray(picture()), "JPEG", quality=90, **options)


def by_pillow(data: bytes) -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    image.info.pop("transparency", None)  # it warns where it drops it
    return np.asarray(image.convert("RGB"))


def assert_matches(data: bytes, tolerance: int) -> None:
    ours, theirs = decode_bytes(data, "x"), by_pillow(data)
    assert ours.dtype == np.uint8
    assert ours.flags.c_contiguous
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max() <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "tolerance"), [("JPEG", 4), ("PNG", 0), ("WEBP", 0)])
def test_upright_by_each_orientation(kind: str, tolerance: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encode(Image.fromarray(picture()), kind, exif=exif)
    assert_matches(data, tolerance)
    assert decode_bytes(data, "x").shape[:2] == ((61, 83) if orientation < 5 else (83, 61))


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_unknown_orientation_means_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert decode_bytes(jpeg(exif=exif), "x").shape == (61, 83, 3)


def test_unparsable_exif_does_not_cost_the_image() -> None:
    assert decode_bytes(jpeg(exif=b"Exif\0\0garbage"), "x").shape == (61, 83, 3)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}])
def test_jpeg_kinds(options: dict[str, object]) -> None:
    assert_matches(jpeg(**options), 4)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpeg_modes(mode: str) -> None:
    assert_matches(encode(Image.fromarray(picture()).convert(mode), "JPEG", quality=95), 2)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "GIF"])
def test_modes(mode: str, kind: str) -> None:
    image = Image.fromarray(picture(channels=4)).convert(mode)
    try:
        data = encode(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    except OSError:
        pytest.skip(f"{kind} does not store {mode}")
    assert_matches(data, 0)


@pytest.mark.parametrize("transparency", [3, bytes(range(256))], ids=["one index", "an alpha per index"])
def test_palette_transparency_is_dropped_silently(transparency: int | bytes) -> None:
    image = Image.fromarray(picture()).convert("P")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = decode_bytes(encode(image, "PNG", transparency=transparency), "x")
    np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))


def test_alpha_is_dropped_and_not_blended() -> None:
    image = Image.fromarray(picture(channels=4))
    np.testing.assert_array_equal(decode_bytes(encode(image, "PNG"), "x"), picture())


def test_16_bits_are_scaled() -> None:
    grey = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    decoded = decode_bytes(encode(Image.fromarray(grey), "PNG"), "x")
    np.testing.assert_array_equal(decoded, np.repeat(np.arange(256).reshape(16, 16, 1), 3, axis=2))


def test_format_is_read_from_the_content(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.JPEG"  # ImageNet has one
    path.write_bytes(encode(Image.fromarray(picture()), "PNG"))
    np.testing.assert_array_equal(decode_image(path), picture())


def test_harmless_flaws_are_forgiven() -> None:
    data = jpeg()
    assert_matches(data[:-2] + b"\0\0\0" + data[-2:], 4)  # extraneous bytes before the end marker


@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
@pytest.mark.parametrize("flaw", ["byte", "scan", "adobe"])
def test_a_harmless_flaw_hides_no_cut(flaw: str, end: bytes) -> None:
    data = jpeg()
    start = data.index(b"\xff\xda")
    scan = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    if flaw == "byte":
        flawed = data[:start] + b"\0" + data[start:]
    elif flaw == "scan":
        flawed = data[: scan - 3] + b"\0\0\0" + data[scan:]
    else:
        jfif = 4 + int.from_bytes(data[4:6], "big")
        flawed = data[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x05" + data[jfif:]
    np.testing.assert_array_equal(decode_bytes(flawed, "x"), decode_bytes(data, "x"))
    with pytest.raises(DataError, match="truncated"):
        decode_bytes(flawed[: (scan + len(data)) // 2] + end, "x")


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.05, 0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["JPEG", "CMYK", "PNG", "WEBP", "BMP", "GIF"])
def test_truncated(kind: str, share: float, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8))
    data = encode(noise.convert("CMYK"), "JPEG") if kind == "CMYK" else encode(noise, kind)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: max(int(share * len(data)), 1)])
    assert_refused(path, "cut off|truncated")


def assert_refused(path: Path, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        decode_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "BytesIO" not in str(caught.value)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    assert_refused(tmp_path / "a.jpg", "empty")


def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("<html>404</html>")
    assert_refused(tmp_path / "a.jpg", "not an image")


def test_directory(tmp_path: Path) -> None:
    assert_refused(tmp_path, "folder")


def test_missing(tmp_path: Path) -> None:
    assert_refused(tmp_path / "a.jpg", "No such file")


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(builtins, "open", refuse)  # chmod does not stop root
    assert_refused(tmp_path / "a.jpg", "Permission denied")


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99)))


def jpeg_header(width: int, height: int) -> bytes:
    data = jpeg()
    frame = data.index(b"\xff\xc0") + 5
    return data[:frame] + struct.pack(">HH", height, width) + data[frame + 4 :]


@pytest.mark.parametrize("header", [png_header, jpeg_header])
def test_decompression_bomb(header: object, tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(header(20_000, 20_000))  # type: ignore[operator]
    assert MAX_PIXELS < 20_000**2
    assert_refused(path, "pixels")


def test_own_limit_holds_where_pillow_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "bomb").write_bytes(png_header(20_000, 20_000))
    assert_refused(tmp_path / "bomb", "20000 x 20000")


def test_the_limit_is_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(picture()), "PNG"))
    monkeypatch.setenv("MNV2VISION_MAX_PIXELS", str(61 * 83 - 1))
    assert_refused(tmp_path / "a.png", "83 x 61 pixels, more than 5,062, the limit; MNV2VISION_MAX_PIXELS=")
    monkeypatch.setenv("MNV2VISION_MAX_PIXELS", str(61 * 83))
    np.testing.assert_array_equal(decode_image(tmp_path / "a.png"), picture())
    monkeypatch.setenv("MNV2VISION_MAX_PIXELS", "many")
    with pytest.raises(ConfigError, match="MNV2VISION_MAX_PIXELS=many is not a number of pixels"):
        decode_image(tmp_path / "a.png")


def test_more_pixels_than_pillow_takes_can_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # which refuses twice as many
    monkeypatch.setenv("MNV2VISION_MAX_PIXELS", "10000")
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(picture()), "PNG"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decode_image(tmp_path / "a.png"), picture())


def test_kinds_that_take_twice_the_memory_count_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNV2VISION_MAX_PIXELS", str(61 * 83))
    cmyk = encode(Image.fromarray(picture()).convert("CMYK"), "JPEG")
    for name, data in (("a.webp", encode(Image.fromarray(picture()), "WEBP")), ("a.jpg", cmyk)):
        (tmp_path / name).write_bytes(data)
        assert_refused(tmp_path / name, "more than 2,531, the limit")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["1 bit", "RGBA, turned", "JPEG, turned"])
def test_no_image_within_the_limit_takes_a_gigabyte(kind: str, tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("peaks of memory are measured on Linux")
    exif = Image.Exif()
    exif[ORIENTATION] = 7
    side = math.isqrt(MAX_PIXELS)
    if kind == "1 bit":
        Image.new("1", (side, side)).save(tmp_path / "a", "PNG")
    elif kind.startswith("RGBA"):
        Image.new("RGBA", (side, side)).save(tmp_path / "a", "PNG", exif=exif)
    else:
        Image.new("RGB", (side, side)).save(tmp_path / "a", "JPEG", exif=exif, progressive=True, subsampling=0)
    program = """
import sys
from mnv2vision.data.decoding import decode_image
print(decode_image(sys.argv[1]).shape[0])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
    command = [sys.executable, "-c", program, str(tmp_path / "a")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(shown[0]) == side
    assert int(shown[1]) < 2**20  # kibibytes


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_a_jpeg_with_more_rows_in_its_header_than_in_its_data(mode: str, tmp_path: Path) -> None:
    data = encode(Image.fromarray(picture()).convert(mode), "JPEG")
    frame = data.index(b"\xff\xc0") + 5
    for height, width in ((122, 83), (6100, 83)):
        (tmp_path / "a.jpg").write_bytes(data[:frame] + struct.pack(">HH", height, width) + data[frame + 4 :])
        assert_refused(tmp_path / "a.jpg", "damaged or truncated")


# ---- PIL images ----


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_pil_image_is_what_its_file_is(mode: str, tmp_path: Path) -> None:
    grey = Image.fromarray(picture()[..., 0].astype(np.uint16) * 257)
    image = grey if mode == "I;16" else Image.fromarray(picture(channels=4)).convert(mode)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image.save(tmp_path / "a.png", exif=exif)
    by_path = decode_image(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        np.testing.assert_array_equal(decode_picture(opened), by_path)
        assert opened.mode == mode
    if mode == "I;16":
        np.testing.assert_array_equal(by_path[..., 1], np.rot90(picture()[..., 0], -1))


def test_pil_images_without_a_range_of_values() -> None:
    for mode in ("I", "F"):
        with pytest.raises(DataError, match=f"mode {mode} have no fixed range; scale them to 0..255"):
            decode_picture(Image.new(mode, (3, 4)))
    with pytest.raises(DataError, match=r"the image is empty \(0 x 4 pixels\)"):
        decode_picture(Image.new("RGB", (0, 4)))


def test_a_pil_image_that_is_read_only_now(tmp_path: Path) -> None:
    data = encode(Image.fromarray(picture()), "PNG")
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with (
        Image.open(tmp_path / "a.png") as opened,
        pytest.raises(DataError, match=r"a\.png: damaged or truncated image"),
    ):
        decode_picture(opened)
