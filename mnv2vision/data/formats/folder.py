"""A folder of photos without labels."""

import os

from mnv2vision.data.decoding import decode_image
from mnv2vision.data.formats.folder_index import load_index, tell_of_left_out
from mnv2vision.data.sample import Sample
from mnv2vision.errors import DataError


class Folder:
    """The images of a folder and of those below it, to learn from by teachers alone.

    Files and folders starting with a dot are ignored.

    Attributes:
        names: None.
        targets: None.
    """

    names: tuple[str, ...] = ()
    targets: frozenset[str] = frozenset()

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Find the images, using the cached index if no folder has changed.

        Args:
            root: The folder.

        Raises:
            DataError: If it does not exist, cannot be read, or has no images.
        """
        self._root = os.path.abspath(root)
        if not os.path.isdir(self._root):
            raise DataError(f"{self._root}: the data set's root folder does not exist")
        index = load_index(self._root, classes=False)
        tell_of_left_out(index, self._root)
        self._files = index.files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        path = self.path(range(len(self))[index])
        return Sample(decode_image(path), image_id=os.path.relpath(path, self._root), path=path)

    def path(self, index: int) -> str:
        """The path of an image."""
        return os.path.join(self._root, self._files[index])
