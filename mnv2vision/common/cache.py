"""The cache folder: downloaded and converted weights, indices of data sets."""

import os
from pathlib import Path


def home() -> Path:
    """$MNV2VISION_HOME, or a folder in the user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MNV2VISION_HOME") or Path(cache) / "mnv2vision")
