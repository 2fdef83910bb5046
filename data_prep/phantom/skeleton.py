"""The dimensions of the bones that are drawn: `STANDARD` from T11 to S2, `LONG` from T8 to S4.

`STANDARD` fills the small fields of view of the first and second scanners. Wider ones show more of the chest and the
whole sacrum.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Skeleton:
    """The mean dimensions of a spine, in mm and degrees.

    Attributes:
        first_graded: Index of the disc L1-L2.
        disc_height: Height of each disc, from cranial to caudal, (D,).
        disc_tilt_degrees: Sagittal tilt of each disc, (D,).
        body_height: Height of each vertebral body, (D + 1,).
        body_half_width: Half its width, (D + 1,).
        body_half_depth: Half its depth, (D + 1,).
        pedicle_u: Distance of its pedicles from the midline, (D + 1,).
        tilt_below: Tilt at some distances below the last disc.
        smaller_foramina: By how much the foramina at each disc are smaller than lumbar ones, (D,). The sacrum has none
            if they are so small that nothing is left.
        ends: Whether the sacrum ends, or goes on beyond all images.
    """

    first_graded: int
    disc_height: Array
    disc_tilt_degrees: Array
    body_height: Array
    body_half_width: Array
    body_half_depth: Array
    pedicle_u: Array
    smaller_foramina: Array
    tilt_below: Mapping[float, float] = field(default_factory=dict)
    ends: bool = False

    @property
    def discs(self) -> int:
        return len(self.disc_height)

    @property
    def first_sacral_body(self) -> int:
        return self.first_graded + 5


#: The sacrum straightens towards the coccyx: tilt at 45 and 85 mm below S1-S2.
STANDARD = Skeleton(
    first_graded=2,
    disc_height=np.array([5.5, 6.5, 8.0, 9.2, 10.3, 11.0, 9.8, 2.2]),
    disc_tilt_degrees=np.array([-9.0, -11.0, -11.0, -8.0, -2.0, 8.0, 25.0, 34.0]),
    body_height=np.array([23.5, 24.5, 26.0, 26.8, 27.2, 27.0, 26.5, 29.0, 25.0]),
    body_half_width=np.array([19.0, 20.0, 21.0, 22.0, 23.0, 24.0, 25.0, 25.0, 21.0]),
    body_half_depth=np.array([14.5, 15.0, 15.6, 16.2, 16.7, 17.0, 17.0, 15.0, 11.0]),
    pedicle_u=np.array([13.0, 13.5, 14.0, 14.5, 15.3, 16.3, 18.5, 20.0, 18.0]),
    smaller_foramina=np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 20.0]),
    tilt_below={45.0: 24.0, 85.0: 5.0},
)

LONG = Skeleton(
    first_graded=5,
    disc_height=np.array([4.0, 4.5, 5.0, 5.5, 6.5, 8.0, 9.2, 10.3, 11.0, 9.8, 3.0, 1.8, 1.5]),
    disc_tilt_degrees=np.array([2.0, -2.0, -6.0, -9.0, -11.0, -11.0, -8.0, -2.0, 9.0, 29.0, 43.0, 49.0, 45.0]),
    body_height=np.array([20.5, 21.5, 22.5, 23.5, 24.5, 26.0, 26.8, 27.2, 27.0, 26.5, 28.5, 23.0, 20.0, 18.0]),
    body_half_width=np.array([16.0, 17.0, 18.0, 19.0, 20.0, 22.0, 23.0, 24.0, 25.0, 26.0, 26.0, 21.0, 18.0, 15.0]),
    body_half_depth=np.array([14.0, 14.2, 14.3, 14.5, 15.0, 15.6, 16.2, 16.7, 17.0, 17.0, 14.5, 10.5, 8.5, 7.0]),
    pedicle_u=np.array([12.0, 12.3, 12.6, 13.0, 13.5, 14.0, 14.5, 15.3, 16.3, 18.5, 20.0, 18.0, 16.0, 14.0]),
    smaller_foramina=np.array([3.0, 3.0, 2.5, 1.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 5.0, 5.0, 5.0]),
    tilt_below={25.0: 25.0, 55.0: 0.0},
    ends=True,
)
