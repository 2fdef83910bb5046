"""Paint the canal, the foramina and the lateral recesses: all structures that are graded.

`share` is the disease share of a site, from 0 to 1 (`anatomy.disease_share` of its grade).
"""

import numpy as np

from data_prep.phantom.anatomy import LEVELS, RECESS_U, Array, Patient
from data_prep.phantom.arch import articular_processes
from data_prep.phantom.canvas import Canvas, Field, bump, common, cover, ellipse
from data_prep.phantom.habitus import Arch
from data_prep.phantom.tissues import Tissue
from data_prep.sites import Condition


def paint_canal(canvas: Canvas) -> None:
    if canvas.reaches(0, 15):
        bony_canal = ellipse(canvas.across, canvas.w - 9.8, 12.6, 11.0)
        canvas.paint(Tissue.CORTEX, cover(bony_canal - 0.7) * (canvas.w > 2) * 0.9)
        canvas.paint(Tissue.FAT, cover(bony_canal))
    if canvas.reaches(7, 28):
        _paint_foramina(canvas)
    if canvas.reaches(0, 15):
        _paint_flavum(canvas)
        _paint_bulge(canvas)
        _paint_sac(canvas)
        _paint_recesses(canvas)


def _is_graded(canvas: Canvas) -> Field:
    discs, first = np.arange(canvas.patient.body.skeleton.discs), canvas.patient.first_graded
    return canvas.by_disc(((discs >= first) & (discs < first + len(LEVELS))).astype(np.float32))


def _share(canvas: Canvas, condition: Condition) -> Field:
    """Return per pixel the disease share at the nearest disc, on the pixel's side; 0 at discs without grades."""
    first = canvas.patient.first_graded
    table = np.zeros((canvas.patient.body.skeleton.discs, 2))
    table[first : first + len(LEVELS)] = canvas.patient.share_by_level(condition)
    return canvas.by_side(table)


def _paint_foramina(canvas: Canvas) -> None:
    """Paint the foramina between the pedicles: fat around the exiting root.

    Disc and facet close them from below and from both sides.
    """
    patient, t, w = canvas.patient, canvas.t, canvas.w
    share = _share(canvas, Condition.NEURAL_FORAMINAL_NARROWING)
    out = canvas.across - canvas.by_disc(_by_level(patient, patient.foramen_u))
    reach = np.abs(out) - 9
    arch = None if patient.body.habitus is None else patient.body.habitus.arch
    behind: Field | float = 5.8
    above: Field | float = 9.2
    size = np.float32(1)
    if arch is not None:  # the root lies where the mark does
        point_D2 = _by_level(patient, patient.root_points)
        behind, above, size = canvas.by_disc(point_D2[:, 0]), canvas.by_disc(point_D2[:, 1]), np.float32(arch.root)
    deep = w - behind - 0.02 * out * out
    window = common(_foramen(canvas, deep, reach, arch), np.float32(patient.sacrum_end + 8) - canvas.s)
    middle = 4.3 + 5.2 * share
    opened = ellipse(deep, t - middle, (6.9 + 0.12 * np.maximum(t, 0)) * (1 - 0.84 * share), 11.5 * (1 - 0.86 * share))
    canvas.paint(Tissue.FAT, cover(window))
    canvas.paint(Tissue.ANNULUS, cover(window) * (1 - cover(opened)), 1 + 0.12 * canvas.texture.swell)
    high = t - above + 0.4 * out - 0.6 * share
    root = ellipse(deep, high, size * (3.1 - 0.9 * share), size * (3.6 - 0.6 * share))
    canvas.paint(Tissue.ROOT, cover(common(root, reach)) * _is_graded(canvas))


def _by_level(patient: Patient, values: Array) -> Array:
    """Return values (discs, ...) from those of the graded levels, (5, ...); other discs have the nearest one's."""
    level = np.arange(patient.body.skeleton.discs) - patient.first_graded
    return np.asarray(values)[np.clip(level, 0, len(LEVELS) - 1)]


def _foramen(canvas: Canvas, deep: Field, reach: Field, arch: Arch | None) -> Field:
    """Return the signed distance in mm from the outline of the foramina.

    Args:
        canvas: The pixels.
        deep: Their distance behind the middle of the foramina.
        reach: Their signed distance from the foramina's extent across the sagittal plane.
        arch: The patient's variety; None for foramina of the standard shape.
    """
    skeleton = canvas.patient.body.skeleton
    upwards = 0.12 * np.maximum(canvas.t, 0)
    smaller_D = skeleton.smaller_foramina
    if arch is None:
        shape = ellipse(deep, canvas.t - 4.3, 6.7 + upwards, 11.3)
        return common(shape, reach) + canvas.by_disc(smaller_D.astype(np.float32))
    disc = np.arange(skeleton.discs)
    smaller_D = smaller_D * np.where(disc >= skeleton.first_sacral_body, 1 - 0.8 * arch.sacral_foramen, 1)
    lowest = canvas.by_disc(np.where(disc == skeleton.first_sacral_body - 1, arch.lowest_foramen, 1.0))
    height = arch.foramen_height * lowest
    middle = 4.3 + 8 * (1 - height)  # a small one lies under the upper pedicle
    shape = ellipse(deep, canvas.t - middle, 6.7 * arch.foramen_depth * lowest + upwards, 11.3 * height)
    # The articular processes close it from behind, the body in front.
    closed = np.maximum(1.0 - np.minimum(*articular_processes(canvas, arch)), -2.0 - canvas.w)
    return np.maximum(common(shape, reach) + canvas.by_disc(smaller_D), closed)


def _paint_flavum(canvas: Canvas) -> None:
    """Paint the ligamentum flavum: a dark band on each side between the laminae, in the shape of a V open in front."""
    thickness = canvas.along(canvas.patient.flavum)
    inner = canvas.w - canvas.along(canvas.patient.sac_back) - 0.6 + np.maximum(canvas.across - 1.5, 0) * 0.55
    shape = common(-inner, inner - thickness * 1.15 - 0.2, canvas.across - 13.5, 3 - canvas.w)
    canvas.paint(Tissue.LIGAMENT, cover(shape) * np.clip(thickness - 0.6, 0, 1))


def _paint_bulge(canvas: Canvas) -> None:
    """Paint the part of the disc that bulges into the canal in front of the sac."""
    narrowed = canvas.along(canvas.patient.canal_loss.sum(axis=0))
    front = canvas.w - canvas.along(canvas.patient.sac_front) + 0.4
    shape = common(front, canvas.across - 11 + 0.06 * canvas.w * canvas.w)
    canvas.paint(Tissue.ANNULUS, cover(shape) * np.clip(narrowed - 0.4, 0, 1))


def _paint_sac(canvas: Canvas) -> None:
    """Paint the dura, the fluid, the conus and the roots of the cauda equina, which crowd as the sac shrinks."""
    patient, u = canvas.patient, canvas.u
    front, back = canvas.along(patient.sac_front), canvas.along(patient.sac_back)
    half_depth, half_width = np.maximum((back - front) / 2, 0.3), canvas.along(patient.sac_half_width)
    deep = canvas.w - (front + back) / 2
    sac = ellipse(u, deep, half_width, half_depth)
    canvas.paint(Tissue.LIGAMENT, cover(sac - 0.4) * 0.8)
    canvas.paint(Tissue.FLUID, cover(sac))
    canvas.within(sac < 0.5, _paint_nerves)


def _paint_nerves(canvas: Canvas) -> None:
    patient, u, s = canvas.patient, canvas.u, canvas.s
    front, back = canvas.along(patient.sac_front), canvas.along(patient.sac_back)
    half_depth, half_width = np.maximum((back - front) / 2, 0.3), canvas.along(patient.sac_half_width)
    deep = canvas.w - (front + back) / 2
    inside = cover(ellipse(u, deep, half_width, half_depth) + 0.4)
    conus_end = np.float32(patient.disc_arc[patient.first_graded] + 8)
    roots = np.full_like(u, 9.0)
    for number, (angle, radius) in enumerate(zip(patient.body.root_angle, patient.body.root_radius, strict=True)):
        reach = 0.5 + 0.16 * (number % 3)
        wave = 0.05 * np.sin(s * np.float32(1 / 11) + np.float32(number))
        a = u - half_width * (np.float32(reach * np.cos(angle)) + wave)
        b = deep - half_depth * (np.float32(0.85 * reach * np.sin(angle) - 0.03) + wave)
        roots = np.minimum(roots, np.sqrt(a * a + b * b) - np.float32(radius))
    canvas.paint(Tissue.ROOT, cover(roots) * inside * (s < conus_end + 25))
    cord_radius = np.clip((s - conus_end) * np.float32(0.16), 0, 4.2)
    canvas.paint(Tissue.CORD, cover(np.sqrt(u * u + deep * deep) - cord_radius) * inside * (cord_radius > 0.3))


def _paint_recesses(canvas: Canvas) -> None:
    """Paint the anterolateral corners of the canal, with the traversing roots; disc and facet close them."""
    t = canvas.t
    share = _share(canvas, Condition.SUBARTICULAR_STENOSIS) * bump(t, 6.5)
    height = cover(np.abs(t + 1) - 8, 3.0) * _is_graded(canvas)
    out = canvas.across - RECESS_U
    # If the canal is narrowed from in front, its corners lie further back.
    w = canvas.w - 0.45 * (canvas.along(canvas.patient.sac_front) - 1.3)
    # The zone between the middle of the canal and the foramen: tissue that closes a recess must not narrow either.
    zone = np.abs(canvas.across - 8.6) - 4.4
    opened = 1 - 0.9 * share
    corner = ellipse(out - 0.5, w - 4.0, 4.3 * opened, 3.8 * opened)
    canvas.paint(Tissue.FAT, cover(corner) * height)
    canvas.paint(Tissue.FLUID, cover(corner) * height * 0.6)
    strong = height * np.minimum(share * 5, 1)
    protrusion = ellipse(out, w + 1.0, 5.0, 0.5 + 6.2 * share)
    overgrowth = ellipse(out - 4.2, w - 8.0, 1.0 + 5.6 * share, 1.0 + 6.6 * share)
    canvas.paint(Tissue.ANNULUS, cover(common(protrusion, zone)) * strong)
    canvas.paint(Tissue.LIGAMENT, cover(common(overgrowth, zone)) * strong)
    root = ellipse(out - 0.1, w - 4.0 - 1.4 * share, 1.75 - 0.3 * share, 1.75 - 0.95 * share)
    canvas.paint(Tissue.ROOT, cover(root) * height)
