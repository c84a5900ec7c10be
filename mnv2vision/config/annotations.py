"""Annotations that several options share: a Python type, and the kind with its range."""

from typing import Annotated

from mnv2vision.config.kinds import Duration, Many, Number, OneOf, Text, Word, optional, whole

AUTO = "auto"
"""Of a number that a run finds by itself before it begins."""
_SIDE = whole(1, 16_384)

Name = Annotated[str, Word()]
"""A word that is checked where it is used."""
UserText = Annotated[str, Text()]
"""A path or a name of the user's."""
UserTexts = Annotated[tuple[str, ...], Many(Text(), least=1)]
Formats = Annotated[tuple[str, ...], Many(Word(), least=1, alone=True)]
Count = Annotated[int, whole(1, 10**9)]
NotNegative = Annotated[int, whole(0, 10**9)]
_BATCH = whole(1, 2**20)
BatchSize = Annotated[int, _BATCH]
BatchSizeOrAuto = Annotated[int | str, OneOf((_BATCH, Word((AUTO,))))]
Seed = Annotated[int, whole(0, 2**32 - 1)]  # what numpy's generators take
Byte = Annotated[int, whole(0, 255)]
Side = Annotated[int, _SIDE]
Size = Annotated[int | tuple[int, int] | None, optional(_SIDE, Many(_SIDE, 2, 2))]
Stride = Annotated[int, whole(1, 32)]
Channels = Annotated[int, whole(1, 8192)]
Detections = Annotated[int, whole(1, 10**5)]
Seconds = Annotated[float, Duration()]
Share = Annotated[float, Number(0, 1)]
Held = Annotated[float, Number(above=0, below=1)]
ShareOrAuto = Annotated[float | str, OneOf((Number(0, 1), Word((AUTO,))))]
BelowOne = Annotated[float, Number(0, below=1)]
AboveZero = Annotated[float, Number(most=1, above=0)]
"""At most 1."""
_FACTOR = Number(most=10, above=0)
Factor = Annotated[float, _FACTOR]
Factors = Annotated[tuple[float, ...], Many(_FACTOR, least=1)]
Rate = Annotated[float, Number(0)]
RateOrAuto = Annotated[float | str, OneOf((Number(0), Word((AUTO,))))]
Epochs = Annotated[float, Number(0, 10**9)]
Strength = Annotated[float, Number(0, 10)]
Alpha = Annotated[float, Number(0, 1000)]
Scales = Annotated[tuple[float, ...], Many(Number(most=4, above=0), least=1)]
Colour = Many(Number(-1e6, 1e6), 3, 3)
Deviation = Many(Number(1e-6, 1e6), 3, 3)
Limit = Annotated[int | float | None, optional(whole(1, 10**9), Number(0, 1, above=0))]
LimitOrNone = Annotated[int | float | None, optional(whole(0, 10**9), Number(0, 1, above=0))]
Step = Annotated[float, OneOf((Number(0, 0), Number(0.001, 16)))]
