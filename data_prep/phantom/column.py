"""Paint the vertebral bodies, the discs, and the great vessels in front of them."""

import numpy as np

from data_prep.phantom.canvas import Canvas, Field, band, common, cover, ellipse
from data_prep.phantom.tissues import Tissue

#: The s, in mm, at which the aorta divides: beside L4.
_BIFURCATION_MM = -28.0


def paint_column(canvas: Canvas) -> None:
    patient, v, across, swell = canvas.patient, canvas.v, canvas.across, canvas.texture.swell
    _paint_vessels(canvas)
    depth = np.where(v > 0, canvas.along(patient.wall), canvas.along(patient.front))
    # The outline is a squarish oval whose posterior side is hollow in the midline.
    squeezed = across * np.float32(1 / 9)
    hollow = np.where(v > 0, v + 1.6 * np.exp(-squeezed * squeezed), -v) / depth
    wide = across / canvas.along(patient.half_width)
    radius = np.cbrt(wide * wide * wide + hollow * hollow * hollow)
    outline = np.maximum((radius - 1) * depth + 0.25 * swell, np.float32(patient.sacrum_end) - canvas.s)
    half_height = canvas.by_disc(patient.body.disc_height / 2)
    endplate = np.abs(canvas.t) - half_height * (0.78 + 0.34 * np.maximum(1 - radius * radius, 0)) + 0.2 * swell

    canvas.paint(Tissue.MARROW, cover(outline), 1 + 0.07 * swell)
    _paint_endplate_changes(canvas, endplate, outline)
    vein = common(np.abs(canvas.from_body) - 0.9 - 0.06 * np.maximum(v, 0), across - 5, 2 - v)
    canvas.paint(Tissue.VEIN, cover(vein) * cover(outline + 1) * 0.75)
    canvas.paint(Tissue.CORTEX, cover(band(outline + 0.2, 0.15)) * 0.85)
    thickness = patient.body.habitus.endplate_mm if patient.body.habitus else 0.3
    canvas.paint(Tissue.CORTEX, cover(band(endplate, thickness)) * cover(outline))
    canvas.paint(Tissue.ANNULUS, cover(endplate) * cover(outline - canvas.by_disc(patient.body.diffuse_bulge)))
    _paint_nucleus(canvas, radius, endplate)


def _paint_vessels(canvas: Canvas) -> None:
    """Paint the aorta, which divides beside L4, and the vena cava; both are dark because of flow."""
    patient = canvas.patient
    front = canvas.v + canvas.along(patient.half_depth) + np.float32(3.0) + 0.5 * canvas.texture.swell
    apart = 0.42 * np.clip(_BIFURCATION_MM - canvas.s, 0, 60)
    habitus = patient.body.habitus
    u = canvas.u - np.float32(habitus.vessel_shift) if habitus else canvas.u
    left = ellipse(u - 9 - apart, front + 8.5, 8.0, 8.0)
    right = ellipse(u - 9 + apart, front + 8.5, 6.0, 6.5)
    right += 20 * (canvas.s > _BIFURCATION_MM)
    cava = ellipse(u + 15, front + 4.5, 9.5, 6.0)
    for vessel in (cava, left, right):
        canvas.paint(Tissue.VESSEL, cover(vessel))
        canvas.paint(Tissue.SKIN, cover(band(vessel, 0.3)) * 0.6)


def _paint_endplate_changes(canvas: Canvas, endplate: Field, outline: Field) -> None:
    """Paint Modic changes and Schmorl's nodes: distractors that do not depend on grades."""
    body, below = canvas.patient.body, canvas.t < 0
    # There are two endplates per disc, the upper one first.
    kind, size = (
        np.where(below, canvas.by_disc(values[1::2]), canvas.by_disc(values[::2]))
        for values in (body.modic, body.schmorl)
    )
    beyond = np.maximum(endplate, 0)
    near = np.exp(-beyond * np.float32(1 / 4.5)) * cover(outline) * 0.9
    for tissue, code in ((Tissue.MODIC_FLUID, 1), (Tissue.MODIC_FAT, 2)):
        if (kind == code).any():
            canvas.paint(tissue, near * (kind == code))
    if (size > 0).any():
        forward = canvas.v + 2
        node = np.sqrt(canvas.u * canvas.u + forward * forward + beyond * beyond) - size
        canvas.paint(Tissue.CORTEX, cover(band(node, 0.3)) * (size > 0))
        canvas.paint(Tissue.ANNULUS, cover(node) * (size > 0))


def _paint_nucleus(canvas: Canvas, radius: Field, endplate: Field) -> None:
    """Paint the nucleus of each disc: bright with a darker cleft if the disc is healthy, grey if it is degenerate."""
    health = canvas.by_disc(1 - canvas.patient.body.degeneration)
    inside = cover((radius - 0.74) * 16, 3.0) * cover(endplate + 0.9, 1.6)
    cleft = canvas.t * np.float32(1 / 0.9)
    canvas.paint(Tissue.NUCLEUS, inside * (0.12 + 0.88 * health), 1 - 0.4 * np.exp(-cleft * cleft))
