"""A model's preprocessing in words, for those who feed an exported file without this package."""

from typing import Literal

from mnv2vision.preprocessing import Preprocessing


def steps(
    preprocessing: Preprocessing, layout: Literal["NHWC", "NCHW"], dtype: str, scale: float | None = None
) -> tuple[str, ...]:
    """What is done to a photo, in order.

    Args:
        preprocessing: Of the model.
        layout: Of the graph's input.
        dtype: Of the graph's input.
        scale: Of an input of quantised values.
    """
    height, width = preprocessing.image_size
    smooth = (
        "with antialiasing when shrinking, as Pillow's resize does"
        if preprocessing.antialias
        else "without antialiasing, as OpenCV's resize does"
    )
    shape = f"(N, {height}, {width}, 3)" if layout == "NHWC" else f"(N, 3, {height}, {width})"
    values = (
        f"pixel values 0 to 255 as {dtype}"
        if scale is None
        else f"{dtype} = round(pixel value / scale) + zero_point of `input`, for pixel values 0 to 255"
    )
    return (
        "Decode the photo to 8-bit RGB, and turn it upright by its EXIF orientation; h and w are its height and width.",
        *_resize(preprocessing, f"{preprocessing.interpolation} interpolation, {smooth}"),
        f"Give {shape} RGB, {values}; scaling to 0..1, mean {list(preprocessing.mean)} and"
        f" standard deviation {list(preprocessing.std)} are applied in the graph.",
    )


def _resize(preprocessing: Preprocessing, how: str) -> tuple[str, ...]:
    height, width = preprocessing.image_size
    if preprocessing.resize == "stretch":
        return (f"Resize it to {height} x {width} (height x width), whatever its aspect ratio, by {how}.",)
    if preprocessing.resize == "letterbox":
        value = preprocessing.padding_value
        return (
            f"Keep its aspect ratio: if {height} * w >= {width} * h, resize it to max(1, round(h * {width} / w))"
            f" x {width}, else to {height} x max(1, round(w * {height} / h)) (height x width), by {how}.",
            f"Pad it below and to the right to {height} x {width} with the value {value} in each channel.",
        )
    tall, wide = (round(side / preprocessing.crop_fraction) for side in (height, width))
    return (
        f"Keep its aspect ratio: if {height} * w >= {width} * h, resize it to {tall} x floor({tall} * w / h),"
        f" else to floor({wide} * h / w) x {wide} (height x width), by {how}.",
        f"Cut {height} x {width} from its centre: the first row is round((height - {height}) / 2), the first column"
        f" round((width - {width}) / 2), halves to the even number.",
    )
