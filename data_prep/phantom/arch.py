"""Paint the bone behind the canal: pedicles, facet joints, laminae, spinous and transverse processes, sacrum."""

import numpy as np

from data_prep.phantom.canvas import Canvas, Field, band, bump, common, cover, ellipse
from data_prep.phantom.habitus import Arch
from data_prep.phantom.tissues import Tissue


def paint_arch(canvas: Canvas) -> None:
    above_sacrum = canvas.s - np.float32(canvas.patient.body_arc[canvas.patient.body.skeleton.first_sacral_body] + 8)
    if canvas.reaches(0, 9):
        _paint_midline(canvas, above_sacrum)
    if canvas.reaches(0, 18):
        _paint_laminae(canvas, above_sacrum)
    if canvas.reaches(17, 44):
        _paint_transverse_processes(canvas)
    if canvas.reaches(6, 32):
        if (habitus := canvas.patient.body.habitus) is None:
            _paint_standard_pillars(canvas, above_sacrum)
        else:
            _paint_varied_pillars(canvas, habitus.arch, above_sacrum)
    _paint_sacrum(canvas, above_sacrum)


def _paint_bone(canvas: Canvas, distance: Field) -> None:
    """Paint a bone of marrow in a shell of cortex, with a slightly uneven outline."""
    distance = distance + 0.35 * canvas.texture.swell
    canvas.paint(Tissue.CORTEX, cover(distance))
    canvas.paint(Tissue.MARROW, cover(distance + 1.0), 1 + 0.08 * canvas.texture.swell)


def _paint_midline(canvas: Canvas, above_sacrum: Field) -> None:
    """Paint the spinous processes, the ligament and fat between them, and the ligament over their tips."""
    across, w, swell = canvas.across, canvas.w, canvas.texture.swell
    between = common(across - 4.0, 21 - w, w - 46 - swell, -above_sacrum)
    fibres = np.clip(0.45 + 0.25 * canvas.texture.streak + 0.2 * swell, 0.1, 0.9)
    canvas.paint(Tissue.FAT, cover(between) * 0.95)
    canvas.paint(Tissue.LIGAMENT, cover(between) * fibres)
    behind = w - 23
    middle = canvas.from_body + 6 + 0.28 * behind
    blade = ellipse(middle, behind - 10, 9.0, 15.0) + 0.5 * swell
    _paint_bone(canvas, common(blade, across - 2.4 - 0.04 * behind, 21 - w, -above_sacrum))
    canvas.paint(Tissue.LIGAMENT, cover(common(band(w - 47.5 - swell, 0.8), across - 3, -above_sacrum)))


def _paint_laminae(canvas: Canvas, above_sacrum: Field) -> None:
    across = canvas.across
    slope = np.abs((canvas.w - 24) + across * 0.44) * np.float32(0.915) - 2.7
    _paint_bone(canvas, common(slope, np.abs(canvas.from_body + 5) - 10, across - 17, -above_sacrum))


def _paint_transverse_processes(canvas: Canvas) -> None:
    out = canvas.across - 20
    process = ellipse(canvas.w - 8 - 0.12 * out, canvas.from_body - 5, 3.2, 3.6)
    _paint_bone(canvas, common(process, -2 - out, out - 22))


def _paint_standard_pillars(canvas: Canvas, above_sacrum: Field) -> None:
    """Paint the pedicles, and behind them the articular pillars, which widen to the facet joints beside the discs."""
    w, t, pedicle_u = canvas.w, canvas.t, canvas.by_body(canvas.patient.body.skeleton.pedicle_u)
    out = canvas.across - pedicle_u
    _paint_bone(canvas, common(ellipse(out, canvas.from_body - 5, 4.6, 7.3), -3 - w, w - 17))
    near = bump(t, 8.0)
    out = out - 2.0
    behind = w - 18 - 0.5 * near
    pillar = common(ellipse(out, behind, 5.2 + 4.2 * near, 4.0 + 4.2 * near), -above_sacrum)
    _paint_bone(canvas, pillar)
    # The joint space is a curved plane from anteromedial to posterolateral, between two dark plates.
    cleft = 0.78 * out - 0.62 * behind + 0.03 * behind * behind + 0.12 * t
    inside = cover(pillar) * cover(np.abs(t) - 9, 2.0)
    canvas.paint(Tissue.CORTEX, cover(band(cleft, 1.3)) * inside)
    canvas.paint(Tissue.CARTILAGE, cover(band(cleft, 0.4)) * inside * 0.8)


def _paint_varied_pillars(canvas: Canvas, arch: Arch, above_sacrum: Field) -> None:
    """Paint pedicles, ligaments between them, and pillars that overlap like tiles, with a joint where they do."""
    upper, lower = articular_processes(canvas, arch)
    # Capsule and ligaments fill the gap between neighbouring pedicles around the foramen's fat.
    gap = common(canvas.across - 20, 11 - canvas.across, 0.5 - canvas.w, canvas.w - 15, -above_sacrum)
    canvas.paint(Tissue.LIGAMENT, cover(gap + 0.8 * canvas.texture.swell, 3.0) * 0.8, 1.5)
    out = canvas.across - canvas.by_body(canvas.patient.body.skeleton.pedicle_u)
    pedicle = ellipse(out, canvas.from_body - 5.5, 6.0 * arch.pillar, 7.5)
    _paint_bone(canvas, common(pedicle, -3 - canvas.w, canvas.w - 17))
    _paint_bone(canvas, common(np.minimum(upper, lower), -above_sacrum))
    # The difference of two distances grows twice as fast as a distance.
    beside = upper - lower
    joint = common(band(beside, 2 * arch.joint_mm), np.maximum(upper, lower) - 2.5, -above_sacrum)
    canvas.paint(Tissue.CORTEX, cover(joint))
    canvas.paint(Tissue.CARTILAGE, cover(common(band(beside, 0.3), joint)) * 0.6)


def articular_processes(canvas: Canvas, arch: Arch) -> tuple[Field, Field]:
    """Return signed distances in mm from the pillars of the vertebrae above and below the nearest disc.

    A pillar is inclined: its superior process lies in front of, and lateral to, the inferior process of the vertebra
    above.
    """
    arc, pedicle_u = canvas.patient.body_arc, canvas.patient.body.skeleton.pedicle_u
    slant = np.float32(arch.slant)
    past_lower_end, past_upper_end = -arch.overlap_mm - canvas.t, canvas.t - arch.overlap_mm
    distances = []
    for arc_D, pedicle_u_D, beyond in (
        (arc[:-1], pedicle_u[:-1], past_lower_end),  # of the vertebra above each disc
        (arc[1:], pedicle_u[1:], past_upper_end),  # of the one below it
    ):
        above_isthmus = canvas.s - canvas.by_disc(arc_D) + 4
        behind = canvas.w - 15 + np.where(above_isthmus > 0, slant / 2, slant) * above_isthmus
        reach = np.clip(above_isthmus * np.float32(1 / 22), -1, 1)
        out = canvas.across - canvas.by_disc(pedicle_u_D) - 2 - 2.5 * reach
        thickness = arch.pillar * (4.2 + 1.2 * np.abs(reach))
        distances.append(ellipse(out, np.hypot(behind, np.maximum(beyond, 0)), 7.0 * arch.pillar, thickness))
    return distances[0], distances[1]


def _paint_sacrum(canvas: Canvas, above_sacrum: Field) -> None:
    """Paint the wings beside the sacral canal, and the median crest behind it."""
    within = common(above_sacrum, np.float32(canvas.patient.sacrum_end) - canvas.s)
    wing = ellipse(canvas.across - 24, canvas.w + 2, 17.0, 13.0)
    if canvas.patient.body.skeleton.ends:  # the sacrum tapers towards its end
        taper = np.clip((canvas.s - np.float32(canvas.patient.sacrum_end)) * np.float32(1 / 80), 0.25, 1)
        wing = ellipse(canvas.across - 24 * taper, canvas.w + 2, 17.0 * taper, 4 + 9.0 * taper)
    _paint_bone(canvas, common(within, wing))
    _paint_bone(canvas, common(within, band(canvas.w - 18.5, 3.0), canvas.across - 12))
