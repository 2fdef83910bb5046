"""Keep the grey images of a study in memory as long as they fit into a budget; decode the others again when needed."""

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.dicom.pixels import Grey, read_image
from data_prep.faults import FileFault
from data_prep.series.windows import to_grey

#: Memory budget for the grey images of one study.
GREY_BYTES = 48 << 20
#: An image larger than a budget divided by this is not kept: decoding so large an image needs the memory itself.
LARGEST_PART = 8
#: Memory budget for grey images that were decoded again: a tile needs the same neighbouring slices as the next one.
RECENT_BYTES = 8 << 20


@dataclass
class GreyBudget:
    """The memory that a study may still use for grey images, and the images that were read again most recently."""

    left: int = field(default_factory=lambda: GREY_BYTES)
    recent: "OrderedDict[tuple[Path, int], Grey]" = field(default_factory=OrderedDict)

    def take(self, size: int) -> bool:
        """Reserve `size` bytes if they fit; return whether they do."""
        fits = size <= min(self.left, GREY_BYTES // LARGEST_PART)
        self.left -= size if fits else 0
        return fits

    def remember(self, key: tuple[Path, int], grey: Grey) -> Grey:
        self.recent[key] = grey
        while sum(image.nbytes for image in self.recent.values()) > RECENT_BYTES and len(self.recent) > 1:
            self.recent.popitem(last=False)
        return grey


@dataclass(frozen=True)
class GreyOnDisk:
    """A grey image that is decoded again whenever it is needed."""

    path: Path
    frame: int
    max_pixels: int
    shape: tuple[int, int]
    window: tuple[float, float]
    budget: GreyBudget

    def read(self) -> Grey:
        """Decode the image and map it to grey. Raise OSError if the file has changed."""
        key = (self.path, self.frame)
        if key in self.budget.recent:
            return self.budget.recent[key]
        try:
            pixels = read_image(self.path, self.max_pixels, self.frame)
        except FileFault as fault:
            raise OSError(f"{self.path}: the file changed while it was being converted ({fault.message})") from None
        if pixels.shape != self.shape:
            raise OSError(f"{self.path}: the file changed while it was being converted")
        return self.budget.remember(key, to_grey(pixels, self.window))
