"""Images to arrays: fast for JPEG, strict about damaged files, upright by the EXIF tag."""

import io
import os
import warnings

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mnv2vision.errors import ConfigError, DataError, Mnv2visionError

MAX_PIXELS = 89_478_485
"""Larger images are refused from their header: a quarter of a gigabyte of RGB, where Pillow starts to warn.

Decoding never takes more than a gigabyte: the limit is halved for WebP and CMYK JPEG, which need twice the memory.
MNV2VISION_MAX_PIXELS sets another limit.
"""

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp")
"""Extensions of image files, in either case."""
UNREAD_EXTENSIONS = (
    *(".avif", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".tif", ".tiff"),
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"),
)
"""Extensions of other images, which are not looked for."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_ORIENTATION = 0x0112
_EXIF_MARKS = (b"Exif", b"eXIf", b"Raw profile type exif")  # in JPEG, and in PNG in two ways
_EXIF_REACH = 65536  # EXIF is JPEG's first or second segment, and a segment ends within 64 KiB
_STRIP = 2**20  # pixels converted at a time

# Warnings of libjpeg that leave every pixel in place; real data sets are full of them.
_HARMLESS = ("extraneous bytes", "Invalid SOS parameters", "Adobe color transform")


def decode_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read and decode an image file.

    Returns:
        (H, W, 3) RGB, C-contiguous, upright by EXIF. Grey becomes RGB, 16 bits are scaled to 8, and transparency is
        dropped: the stored colours under it stay.

    Raises:
        DataError: If the file is missing, unreadable, damaged, not an image, or larger than `MAX_PIXELS`.
    """
    return decode_oriented(path)[0]


def decode_oriented(path: str | os.PathLike[str]) -> tuple[NDArray[np.uint8], int]:
    """Like `decode_image`; also returns the EXIF orientation that was undone."""
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            data = file.read()
    except IsADirectoryError as error:
        raise DataError(f"{name}: is a folder, not an image") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    return _decode(data, name)


def decode_bytes(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode an image file held in memory; like `decode_image`, with `name` for the messages."""
    return _decode(data, name)[0]


def _decode(data: bytes, name: str) -> tuple[NDArray[np.uint8], int]:
    if not data:
        raise DataError(f"{name}: the file is empty")
    image = _decode_jpeg(data, name) if data.startswith(b"\xff\xd8") else None
    if image is None:
        return _decode_with_pillow(data, name)
    if data.find(b"Exif", 0, _EXIF_REACH) < 0:
        return image, 1
    try:
        with _open(data) as picture:  # reads the header only
            orientation = _orientation(picture)
    except Exception:  # the pixels are fine
        return image, 1
    return upright(image, orientation), orientation


def peek_orientation(path: str | os.PathLike[str]) -> int:
    """The EXIF orientation of an image file, 1..8, from its header; 1 if it has none or cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(_EXIF_REACH)
            if not any(mark in head for mark in _EXIF_MARKS) and not _is_webp_with_exif(head):
                return 1
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _orientation(Image.open(file, formats=_FORMATS))
    except Exception:  # reported when the image is read
        return 1


def _is_webp_with_exif(head: bytes) -> bool:
    return head.startswith(b"RIFF") and head[12:16] == b"VP8X" and bool(head[20] & 0x08)


def decode_picture(picture: Image.Image) -> NDArray[np.uint8]:
    """The pixels of a PIL image, as `decode_image` returns them for its file; the image stays unchanged.

    Raises:
        DataError: If it is empty, cannot be loaded, or its values have no fixed range (modes I and F).
    """
    name = getattr(picture, "filename", "") or f"PIL image of mode {picture.mode}"
    if not picture.width or not picture.height:
        raise DataError(f"{name}: the image is empty ({picture.width} x {picture.height} pixels)")
    if picture.mode in ("I", "F"):
        raise DataError(f"{name}: values of mode {picture.mode} have no fixed range; scale them to 0..255, in mode L")
    try:
        return upright(_to_rgb(picture), _orientation(picture))
    except Exception as error:  # the file may be read only now
        raise DataError(f"{name}: damaged or truncated image ({_reason(error)})") from error


def _decode_jpeg(data: bytes, name: str) -> NDArray[np.uint8] | None:
    """Decode with libjpeg-turbo; None for what Pillow must read (CMYK, rare subsamplings)."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        mended = _mended(data) if _is_harmless(error) else data
        return _decode_jpeg(mended, name) if mended != data else None
    is_cmyk = colorspace in ("CMYK", "YCCK")
    _check_size(int(height), int(width), name, twice=is_cmyk)
    try:
        image: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "CMYK" if is_cmyk else "RGB")
    except ValueError as error:
        if not _is_harmless(error):
            raise DataError(f"{name}: damaged or truncated JPEG ({error})") from error
        mended = _mended(data)
        if mended != data:
            return _decode_jpeg(mended, name)
        image = simplejpeg.decode_jpeg(data, "CMYK" if is_cmyk else "RGB", strict=False)
    # Pillow handles the inverted CMYK of Adobe, but misses truncation, which has been checked by now.
    return None if is_cmyk else image


def _is_harmless(error: ValueError) -> bool:
    return any(warning in str(error) for warning in _HARMLESS)


def _mended(data: bytes) -> bytes:
    """The JPEG without the harmless flaws of its header: libjpeg tells one warning, and that could hide a cut."""
    made, at, sequential, adobe = bytearray(data[:2]), 2, False, 0
    while True:
        at = data.find(b"\xff", at)  # past extraneous bytes
        marker = data[at + 1] if 0 <= at < len(data) - 3 else 0xD9
        if marker in (0xD8, 0xD9):  # another start, the end, or a cut: for libjpeg to say
            return bytes(made) + data[at if at >= 0 else len(data) :]
        if marker in (0, 0xFF) or 0xD0 <= marker <= 0xD7:  # fill bytes, and what belongs into a scan
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segment = bytearray(data[at:end])
        if marker in (0xC0, 0xC1, 0xC2) and len(segment) > 9:
            sequential = marker != 0xC2
            if adobe and made[adobe] > 2:
                made[adobe] = 1 if segment[9] == 3 else 2  # as libjpeg takes an unknown one: YCbCr, YCCK
        elif marker == 0xEE and segment[4:9] == b"Adobe" and len(segment) >= 16:
            adobe = len(made) + 15
        elif marker == 0xDA:
            if sequential:
                segment[-3:] = b"\x00\x3f\x00"
            return bytes(made + segment) + data[end:]
        made += segment
        at = end


def _decode_with_pillow(data: bytes, name: str) -> tuple[NDArray[np.uint8], int]:
    try:
        with _open(data) as picture:
            _check_size(picture.height, picture.width, name, twice=picture.format == "WEBP" or picture.mode == "CMYK")
            picture.load()
            if picture.format == "PNG" and b"IEND" not in data:  # which Pillow accepts
                raise DataError(f"{name}: truncated image (a PNG without an IEND chunk)")
            orientation = _orientation(picture)
            image = _to_rgb(picture)
            picture.close()  # frees its pixels before `upright` makes a copy
        return upright(image, orientation), orientation
    except Mnv2visionError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not an image in a known format ({', '.join(_FORMATS)}), or truncated") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: more than {_max_pixels():,} pixels, the limit{_MORE}") from error
    except Exception as error:  # Pillow's readers raise errors of all kinds
        raise DataError(f"{name}: damaged or truncated image ({_reason(error)})") from error


def _open(data: bytes) -> Image.Image:
    if Image.MAX_IMAGE_PIXELS is not None and _max_pixels() > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = _max_pixels()  # as the user asked
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes, which `_check_size` refuses, and damaged EXIF
        return Image.open(io.BytesIO(data), formats=_FORMATS)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _to_rgb(picture: Image.Image) -> NDArray[np.uint8]:
    image = np.empty((picture.height, picture.width, 3), np.uint8)
    rows = max(1, _STRIP // picture.width)
    for top in range(0, picture.height, rows):  # in strips: each conversion makes a copy
        strip = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
        if strip.mode.startswith("I;16"):  # convert() would clip; Pillow keeps the high byte of 16-bit RGB, too
            image[top : top + rows] = (np.asarray(strip) >> 8)[:, :, None]
        else:
            strip.info.pop("transparency", None)  # else convert() warns that it drops it
            image[top : top + rows] = np.asarray(strip.convert("RGB"))
    return image


def _orientation(picture: Image.Image) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = picture.getexif().get(_ORIENTATION)
    except Exception:  # unreadable EXIF is no reason to refuse the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo the rotation and mirroring of EXIF orientation 1..8; other values mean upright."""
    if orientation in (5, 6, 7, 8):  # rows and columns are swapped
        image = np.asarray(cv2.transpose(image), np.uint8)
    # What remains is a flip, by the codes of cv2.flip: horizontal (1), vertical (0) or both (-1).
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return image if flip is None else np.asarray(cv2.flip(image, flip), np.uint8)


_MORE = "; MNV2VISION_MAX_PIXELS=<number> raises it, at about 10 bytes per pixel"


def _max_pixels() -> int:
    asked = os.environ.get("MNV2VISION_MAX_PIXELS")
    if asked is None:
        return MAX_PIXELS
    if not asked.isdecimal() or int(asked) < 1:
        raise ConfigError(f"MNV2VISION_MAX_PIXELS={asked} is not a number of pixels")
    return int(asked)


def _check_size(height: int, width: int, name: str, *, twice: bool) -> None:
    limit = _max_pixels() // (1 + twice)
    if height * width > limit:
        raise DataError(f"{name}: {width} x {height} pixels, more than {limit:,}, the limit{_MORE}")
