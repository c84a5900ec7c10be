"""Image files to arrays: fast for JPEG, strict about damaged files, upright by the EXIF tag."""

import io
import os

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mnv2vision.errors import DataError

MAX_PIXELS = 178_956_970
"""Larger images are refused by their header: half a gigabyte of RGB, the limit at which Pillow gives up too."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_ORIENTATION = 0x0112
_EXIF_REACH = 65536  # EXIF is JPEG's first or second segment, and a segment ends within 64 KiB

# Warnings of libjpeg that leave every pixel in place; real data sets are full of them.
_HARMLESS = ("extraneous bytes", "Invalid SOS parameters", "Adobe color transform")


def decode_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read and decode an image file.

    Returns:
        (H, W, 3) RGB, C-contiguous, upright by EXIF. Grey becomes RGB, 16 bits are scaled to 8, and transparency is
        dropped: the colours under it stay as they are stored.

    Raises:
        DataError: If the file is missing, unreadable, damaged, not an image or of more than `MAX_PIXELS`.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            data = file.read()
    except IsADirectoryError as error:
        raise DataError(f"{name}: is a folder, not an image") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    return decode_bytes(data, name)


def decode_bytes(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode an image file held in memory; like `decode_image`, with `name` for the messages."""
    if not data:
        raise DataError(f"{name}: the file is empty")
    image = _decode_jpeg(data, name) if data.startswith(b"\xff\xd8") else None
    if image is None:
        return _decode_with_pillow(data, name)
    if data.find(b"Exif", 0, _EXIF_REACH) < 0:
        return image
    return _upright(image, _orientation(data))


def _decode_jpeg(data: bytes, name: str) -> NDArray[np.uint8] | None:
    """Decode with libjpeg-turbo, or give None for the kinds that Pillow must read (CMYK, rare subsamplings)."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    _check_size(int(height), int(width), name)
    if colorspace in ("CMYK", "YCCK"):
        return None
    try:
        image: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError as error:
        if not any(warning in str(error) for warning in _HARMLESS):
            raise DataError(f"{name}: damaged or truncated JPEG ({error})") from error
        image = simplejpeg.decode_jpeg(data, "RGB", strict=False)
    return image


def _decode_with_pillow(data: bytes, name: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(image.height, image.width, name)
            image.load()
            if image.format == "PNG" and b"IEND" not in data:  # Pillow is content with the pixels
                raise DataError(f"{name}: truncated image (a PNG without its end)")
            return _upright(_to_rgb(image), _orientation(data))
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not an image in a known format ({', '.join(_FORMATS)}), or cut off early") from error
    except Exception as error:  # Pillow's readers raise whatever their parsing trips over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name}: damaged or truncated image ({reason})") from error


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):  # convert() would clip; the high byte is what Pillow keeps of 16-bit RGB as well
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    image.info.pop("transparency", None)  # else convert() warns that it drops it
    return np.array(image.convert("RGB"))


def _orientation(data: bytes) -> int:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:  # reads the header alone
            value = image.getexif().get(_ORIENTATION)
    except Exception:  # the pixels are fine by now: EXIF that nobody can parse is no reason to refuse them
        return 1
    return value if isinstance(value, int) else 1


def _upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo the camera's rotation and mirroring, by the eight values of EXIF's orientation; others mean upright."""
    if orientation in (5, 6, 7, 8):  # rows and columns are swapped
        image = np.asarray(cv2.transpose(image), np.uint8)
    # What is left is a mirroring: of the columns (1), of the rows (0) or of both (-1), as cv2.flip counts them.
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return image if flip is None else np.asarray(cv2.flip(image, flip), np.uint8)


def _check_size(height: int, width: int, name: str) -> None:
    if height * width > MAX_PIXELS:
        raise DataError(f"{name}: {width} x {height} pixels, more than the {MAX_PIXELS:,} that are decoded")
