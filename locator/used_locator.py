"""The locator that a conversion uses, in words and as it is recorded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.placement.shipped_atlas import NOTICE as ATLAS_NOTICE
from locator.files import SHIPPED, SHIPPED_LOCATOR, locator_fingerprint

#: Printed if the shipped locator is used because there are no marks.
NOTICE = (
    "no study with marks at two levels to learn an atlas from; the shipped locator, which was trained on synthetic "
    "spines, places unannotated sites"
)


@dataclass(frozen=True)
class UsedLocator:
    """The locator that places unannotated sites.

    Attributes:
        folder: Its folder; None if none was trained or named.
        may_ship: Whether the shipped locator is used if there is neither a locator nor a learned atlas.
    """

    folder: Path | None
    may_ship: bool

    @property
    def words(self) -> str:
        if self.folder is None:
            return "an atlas, or the shipped locator if no study is marked" if self.may_ship else "an atlas"
        return "the shipped locator" if self.folder == SHIPPED else f"the locator {self.folder.parent.name!r}"

    @property
    def record(self) -> dict[str, Any]:
        """What the positions depend on: the locator's run and fingerprint, or the fingerprint of the shipped one."""
        if self.folder is None:
            return {"shipped_locator": locator_fingerprint(SHIPPED)} if self.may_ship else {}
        run = SHIPPED_LOCATOR if self.folder == SHIPPED else self.folder.parent.name
        return {"locator": {"run": run, "fingerprint": locator_fingerprint(self.folder)}}

    @property
    def notice_without_marks(self) -> str | None:
        """What to say if there is no atlas of the data at hand; None if a locator was trained or named."""
        if self.folder is not None:
            return None
        return NOTICE if self.may_ship else ATLAS_NOTICE
