"""Bounded types for the fields of settings: ``steps: PositiveInteger = 10``.

Each is an `Annotated` type: mypy reads the plain number, `workspace.settings_parser` the bounds.
"""

import math
from typing import Annotated

from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt, restricted_number_type

PositiveInteger = Annotated[int, PositiveInt]
NonNegativeInteger = Annotated[int, NonNegativeInt]
#: A share or a probability, 0 to 1.
Share = Annotated[float, ClosedUnitInterval]
#: jsonargparse's own PositiveFloat admits infinity.
PositiveNumber = Annotated[float, restricted_number_type("PositiveNumber", float, [(">", 0), ("<", math.inf)])]
NonNegativeNumber = Annotated[float, restricted_number_type("NonNegativeNumber", float, [(">=", 0), ("<", math.inf)])]
#: A TCP port; 0 stands for any free one.
Port = Annotated[int, restricted_number_type("Port", int, [(">=", 0), ("<=", 65535)])]
#: torch's seeds have 63 bits.
Seed = Annotated[int, restricted_number_type("Seed", int, [(">=", 0), ("<", 2**63)])]
#: Worker processes of one data loader.
LoaderWorkers = Annotated[int, restricted_number_type("LoaderWorkers", int, [(">=", 0), ("<=", 64)])]
#: Parts that a cohort is divided into.
FoldCount = Annotated[int, restricted_number_type("FoldCount", int, [(">=", 2), ("<=", 1000)])]
