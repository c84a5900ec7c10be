"""One set of published weights, described."""

from collections.abc import Mapping
from dataclasses import dataclass, field

NO_HASH = "no hash is published"


@dataclass(frozen=True)
class Entry:
    """Published weights.

    Attributes:
        name: "source/architecture-tag".
        task: "classification", "detection" or "segmentation".
        source: Key of `importers.sources.SOURCES`: the importer that reads the file.
        location: A URL, "hf://<owner>/<repository>/<file>", or torchvision's name for the weights; empty if the file
            has no direct address.
        classes: What the model was trained to tell apart.
        licence: Of the weights; of the project that published them if the weights have none of their own.
        metrics: Figures stated by the publisher, by name (in percent, as published).
        state: How far the conversion was verified.
        member: Pattern of the file to read, if the published file is an archive.
        digest: SHA-256 of the published file in hexadecimal, or the beginning of it; empty if unknown.
        digest_source: Where the digest is published, or why there is none.
        options: Options of the importer.
        preprocessing: Fields of `Preprocessing` that differ from the importer's.
        architecture: Model options that the name promises; a file of another architecture is refused.
    """

    name: str
    task: str
    source: str
    location: str
    classes: str
    licence: str
    metrics: Mapping[str, float]
    state: str
    member: str = ""
    digest: str = ""
    digest_source: str = NO_HASH
    options: Mapping[str, object] = field(default_factory=dict)
    preprocessing: Mapping[str, object] = field(default_factory=dict)
    architecture: Mapping[str, object] = field(default_factory=dict)
