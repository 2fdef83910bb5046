"""The anatomy on a plane: tissues laid over one another with soft edges, back to front.

Every shape is a signed distance in spine coordinates, mm, negative inside; its coverage falls from 1
to 0 across `EDGE_MM`, which stands for partial volume. Names: u, v, s as in `curve`; `w` is mm
behind the posterior wall; `t` mm above the nearest disc's centre; `across` is |u|.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.geometry import Frame
from data_prep.phantom.anatomy import DISC_COUNT, FIRST_GRADED, LEVELS, Patient
from data_prep.phantom.curve import arc_index
from data_prep.phantom.tissues import ROUGHNESS, Palette, Tissue, texture
from data_prep.sites import Condition

Array = npt.NDArray[np.float64]
Field = npt.NDArray[np.floating[Any]]
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

EDGE_MM = 1.0


def cover(distance: Field, edge: float = EDGE_MM) -> Field:
    """Share of a pixel inside a shape, from its signed distance in mm."""
    return np.clip(np.float32(0.5) - distance * np.float32(1 / edge), 0, 1)


def ellipse(a: Field, b: Field, half_a: Field | float, half_b: Field | float) -> Field:
    """About the signed distance from an ellipse about (0, 0)."""
    radius = np.sqrt((a / half_a) ** 2 + (b / half_b) ** 2)
    return (radius - 1) * np.minimum(half_a, half_b)


def box(*sides: Field) -> Field:
    """Signed distance from the intersection of half-spaces, each given by its own signed distance."""
    distance = sides[0]
    for side in sides[1:]:
        distance = np.maximum(distance, side)
    return distance


@dataclass
class Canvas:
    """Pixels of one region, with the spine coordinates that the painters need."""

    patient: Patient
    palette: Palette
    image: Field
    texture: Field
    u: Field
    v: Field
    s: Field

    def __post_init__(self) -> None:
        self.entry = arc_index(self.s)
        self.across = np.abs(self.u)

    def paint(self, tissue: Tissue, coverage: Field, gain: Field | float = 1.0) -> None:
        """Lay a tissue over what is there."""
        signal = np.float32(self.palette.signal[tissue]) * gain
        rough = ROUGHNESS[tissue]
        if rough:
            signal = signal * (1 + rough * self.texture)
        self.image += coverage * (signal - self.image)

    def part(self, inside: Mask) -> tuple["Canvas", Index]:
        """The canvas of some pixels, and where they lie in this one."""
        index = np.flatnonzero(inside)
        arrays = (self.image, self.texture, self.u, self.v, self.s)
        return Canvas(self.patient, self.palette, *(array.take(index) for array in arrays)), index

    def along(self, profile: Array) -> Field:
        """A profile of `Patient` at each pixel."""
        return profile.astype(np.float32).take(self.entry)

    def disc(self) -> tuple[Index, Field]:
        """Index of the nearest disc, and mm above its centre."""
        disc = self.patient.nearest_disc.take(self.entry)
        return disc, self.s - self.patient.disc_arc.astype(np.float32).take(disc)

    def vertebra(self) -> Field:
        """mm above the nearest vertebral body's centre."""
        return self.s - self.patient.body_arc.astype(np.float32).take(self.patient.nearest_body.take(self.entry))

    def sided(self, condition: Condition, disc: Index) -> Field:
        """Grade of the nearest disc's site on the pixel's own side; 0 at discs without grades."""
        table = np.zeros((DISC_COUNT, 2), dtype=np.float32)
        table[FIRST_GRADED : FIRST_GRADED + len(LEVELS)] = self.patient.grade_by_level(condition)
        return table.ravel().take(disc * 2 + (self.u < 0))


Painter = Callable[[Canvas], None]


def render(patient: Patient, frame: Frame, palette: Palette, offset_mm: float = 0.0) -> Field:
    """The noiseless image of a plane, about 0..1, in the frame's shape; `offset_mm` moves it along its normal."""
    x, y, z = _anatomy_points(patient, frame, offset_mm)
    u, v, s = patient.curve.to_spine(x, y, z)
    start = patient.body.texture_origin_mm
    grain = texture(x + np.float32(start[0]), y + np.float32(start[1]), z + np.float32(start[2]))
    image = np.full(x.shape, palette.signal[Tissue.FAT], dtype=np.float32)
    canvas = Canvas(patient, palette, image, grain, u, v, s)
    _paint_surroundings(canvas)
    wall = canvas.along(patient.wall)
    behind = v - wall
    _paint_part(canvas, (canvas.across < 46) & (behind < 3) & (v > -50), _paint_column)
    _paint_part(canvas, (canvas.across < 46) & (behind > -5) & (behind < 60), _paint_arch)
    _paint_part(canvas, (canvas.across < 27) & (behind > -5) & (behind < 25), _paint_canal)
    return canvas.image.reshape(frame.shape)


def _anatomy_points(patient: Patient, frame: Frame, offset_mm: float) -> tuple[Field, Field, Field]:
    """Every pixel's centre in the anatomy's own axes, flattened."""
    to_anatomy = patient.body.rotation.T
    corner = to_anatomy @ (frame.to_patient(0, 0) + frame.normal * offset_mm - patient.body.origin_mm)
    along = to_anatomy @ np.asarray(frame.row_direction) * frame.spacing_mm[1]
    down = to_anatomy @ np.asarray(frame.column_direction) * frame.spacing_mm[0]
    rows, columns = frame.shape
    column, row = np.arange(columns, dtype=np.float32)[None, :], np.arange(rows, dtype=np.float32)[:, None]
    x, y, z = (
        (np.float32(corner[i]) + np.float32(along[i]) * column + np.float32(down[i]) * row).ravel() for i in range(3)
    )
    return x, y, z


def _paint_part(canvas: Canvas, inside: Mask, painter: Painter) -> None:
    if not inside.any():
        return
    part, index = canvas.part(inside)
    painter(part)
    canvas.image[index] = part.image


def _paint_surroundings(canvas: Canvas) -> None:
    """Muscle, fat, bowel, kidneys and skin."""
    patient, across, v, s = canvas.patient, canvas.across, canvas.v, canvas.s
    behind = v - canvas.along(patient.wall)
    marbled = np.clip((canvas.texture - np.float32(2.6 - 1.9 * patient.body.muscle_fat)) * 1.5, 0, 0.8)

    abdomen = cover(v + 48 + 4 * canvas.texture * 0.3, 8.0)
    canvas.paint(Tissue.BOWEL, abdomen * np.clip(0.5 + canvas.texture, 0, 1))
    low = np.clip((60 - s) * np.float32(1 / 130), 0, 1.2)
    psoas_radius = 7 + 14 * low
    canvas.paint(
        Tissue.MUSCLE, cover(ellipse(across - 27 - psoas_radius * 0.75, v + 1, psoas_radius * 0.85, psoas_radius))
    )
    canvas.paint(Tissue.MUSCLE, cover(ellipse(across - 62, v - 14, 15.0, 9.0)))
    canvas.paint(Tissue.KIDNEY, cover(box(ellipse(across - 66, v + 6, 20.0, 24.0), 30 - s)))

    shrink = np.clip((s + 130) * np.float32(1 / 90), 0.15, 1)
    erector = ellipse(across - 31, behind - 30, 27.0, 19.0 * shrink + 2)
    multifidus = ellipse(across - 12, behind - 33, 10.5, 18.0 * shrink + 2)
    mass = np.minimum(erector, multifidus)
    septum = cover(np.abs(erector - multifidus) - 0.4, 1.0) * 0.5
    canvas.paint(Tissue.MUSCLE, cover(mass))
    canvas.paint(Tissue.FAT, cover(mass) * np.maximum(marbled, septum))
    canvas.paint(Tissue.LIGAMENT, cover(np.abs(mass) - 0.3) * 0.7)

    skin = behind - np.float32(52 + patient.body.fat_depth) - 18 * np.clip((-60 - s) * np.float32(1 / 60), 0, 1)
    canvas.paint(Tissue.SKIN, cover(-skin - 1.5))
    canvas.paint(Tissue.AIR, cover(-skin))


def _paint_column(canvas: Canvas) -> None:
    """Great vessels, vertebral bodies and discs."""
    patient, u, v, across = canvas.patient, canvas.u, canvas.v, canvas.across
    disc, t = canvas.disc()
    half_width, wall, front = (canvas.along(p) for p in (patient.half_width, patient.wall, patient.front))
    _paint_vessels(canvas, front)

    depth = np.where(v > 0, wall, front)
    # The posterior wall is hollow in the midline, the rest of the outline a squarish oval.
    hollow = np.where(v > 0, v + 1.6 * np.exp(-((u * np.float32(1 / 9)) ** 2)), v)
    radius = np.cbrt((across / half_width) ** 3 + np.abs(hollow / depth) ** 3)
    outline = (radius - 1) * depth
    half_height = (patient.body.disc_height / 2).astype(np.float32).take(disc)
    endplate = np.abs(t) - half_height * (0.78 + 0.34 * np.clip(1 - radius**2, 0, 1))

    canvas.paint(Tissue.MARROW, cover(outline))
    _paint_endplate_changes(canvas, disc, t, endplate, outline)
    vein = box(np.abs(canvas.vertebra()) - 1.1 - 0.05 * np.clip(v, 0, None), across - 5, 2 - v)
    canvas.paint(Tissue.VEIN, cover(vein) * cover(outline + 1) * 0.8)
    canvas.paint(Tissue.CORTEX, cover(np.abs(outline + 0.3) - 0.45))

    bulge = patient.body.diffuse_bulge.astype(np.float32).take(disc)
    disc_cover = cover(endplate) * cover(outline - bulge)
    canvas.paint(Tissue.CORTEX, cover(np.abs(endplate) - 0.5) * cover(outline))
    canvas.paint(Tissue.ANNULUS, disc_cover)
    _paint_nucleus(canvas, disc, t, radius, endplate)


def _paint_vessels(canvas: Canvas, front: Field) -> None:
    """Aorta and vena cava, which divide before L4."""
    apart = 0.42 * np.clip(-28 - canvas.s, 0, 60)
    aorta = ellipse(canvas.u - 9 - apart, canvas.v + front + 11, 8.0, 8.0)
    right_artery = ellipse(canvas.u - 9 + apart, canvas.v + front + 11, 6.0, 6.5) + 20 * (canvas.s > -28)
    cava = ellipse(canvas.u + 15, canvas.v + front + 7.5, 9.5, 6.0)
    for vessel in (cava, aorta, right_artery):
        canvas.paint(Tissue.VESSEL, cover(vessel))
        canvas.paint(Tissue.SKIN, cover(np.abs(vessel) - 0.5) * 0.7)


def _paint_endplate_changes(canvas: Canvas, disc: Index, t: Field, endplate: Field, outline: Field) -> None:
    """Modic changes and Schmorl's nodes: distractors that no grade moves."""
    body = canvas.patient.body
    plate = disc * 2 + (t < 0)
    kind = body.modic.take(plate)
    near = np.exp(-np.clip(endplate, 0, None) * np.float32(1 / 4.5)) * cover(outline)
    for tissue, code in ((Tissue.MODIC_FLUID, 1), (Tissue.MODIC_FAT, 2)):
        if (body.modic == code).any():
            canvas.paint(tissue, near * (kind == code) * 0.9)
    size = body.schmorl.astype(np.float32).take(plate)
    if (size > 0).any():
        node = np.sqrt(canvas.u**2 + (canvas.v + 2) ** 2 + np.clip(endplate, 0, None) ** 2) - size
        canvas.paint(Tissue.CORTEX, cover(np.abs(node) - 0.4) * (size > 0))
        canvas.paint(Tissue.ANNULUS, cover(node) * (size > 0))


def _paint_nucleus(canvas: Canvas, disc: Index, t: Field, radius: Field, endplate: Field) -> None:
    health = (1 - canvas.patient.body.degeneration).astype(np.float32).take(disc)
    inside = cover((radius - 0.74) * 16, 2.5) * cover(endplate + 0.9, 1.4)
    cleft = 1 - 0.45 * np.exp(-((t * np.float32(1 / 0.9)) ** 2))
    canvas.paint(Tissue.NUCLEUS, inside * (0.12 + 0.88 * health), cleft)


def _paint_arch(canvas: Canvas) -> None:
    """Pedicles, facets, laminae, spinous and transverse processes."""
    patient, across, s = canvas.patient, canvas.across, canvas.s
    w = canvas.v - canvas.along(patient.wall)
    _, t = canvas.disc()
    tb = canvas.vertebra()
    above_sacrum = s - np.float32(patient.body_arc[7] + 8)
    lateral = np.interp(
        patient.nearest_body.take(canvas.entry), range(9), [13, 13.5, 14, 14.5, 15.3, 16.3, 18.5, 20, 18]
    )
    lateral = lateral.astype(np.float32)

    ligament = box(across - 4.5, 21 - w, w - 47, -above_sacrum)
    canvas.paint(Tissue.FAT, cover(ligament) * 0.55)

    spread = w - 23
    spine_t = tb + 6 + 0.28 * spread
    spinous = box(across - 2.2 - 0.03 * spread, np.abs(spine_t) - 7.5 - 0.09 * spread, 21 - w, w - 46, -above_sacrum)
    lamina_line = np.abs((w - 24) + across * 0.44) * np.float32(0.915) - 2.9
    lamina = box(lamina_line, np.abs(tb + 5) - 10, across - 17, -above_sacrum)
    transverse = ellipse(w - 8 - 0.12 * (across - 20), tb - 5, 3.2, 3.6)
    transverse = box(transverse, 18 - across, across - 42)
    pedicle = box(ellipse(across - lateral, tb - 5, 4.6, 7.3), -3 - w, w - 17)
    near = np.exp(-((t / 8) ** 4))
    pillar_w = 17.5 + 0.5 * near
    pillar = ellipse(across - lateral - 1.5 - 0.5 * near, w - pillar_w, 5.2 + 3.2 * near, 4.0 + 3.6 * near)
    pillar = np.maximum(pillar, -above_sacrum)
    for bone in (transverse, spinous, lamina, pedicle, pillar):
        _paint_bone(canvas, bone)
    _paint_joint(canvas, across - lateral - 2, w - pillar_w, t, pillar)
    _paint_sacrum(canvas, w, -above_sacrum)


def _paint_bone(canvas: Canvas, distance: Field) -> None:
    canvas.paint(Tissue.CORTEX, cover(distance))
    canvas.paint(Tissue.MARROW, cover(distance + 1.1))


def _paint_joint(canvas: Canvas, a: Field, b: Field, t: Field, pillar: Field) -> None:
    """The facet joint's cleft: a curved plane that runs from anteromedial to posterolateral."""
    line = 0.78 * a - 0.62 * b + 0.03 * b * b + 0.12 * t
    inside = cover(pillar) * cover(np.abs(t) - 9, 2.0)
    canvas.paint(Tissue.CORTEX, cover(np.abs(line) - 1.5) * inside)
    canvas.paint(Tissue.CARTILAGE, cover(np.abs(line) - 0.45) * inside * 0.8)


def _paint_sacrum(canvas: Canvas, w: Field, below: Field) -> None:
    """Wings of the sacrum beside its canal, and the median crest behind."""
    wings = box(below * -1 + 0, ellipse(canvas.across - 24, w + 2, 17.0, 13.0))
    crest = box(np.abs(w - 18.5) - 3.2, canvas.across - 12, below * -1)
    for bone in (wings, crest):
        _paint_bone(canvas, bone)


def _paint_canal(canvas: Canvas) -> None:
    """The spinal canal, the foramina and the recesses: everything that is graded."""
    w = canvas.v - canvas.along(canvas.patient.wall)
    disc, t = canvas.disc()
    graded = (disc >= FIRST_GRADED) & (disc < FIRST_GRADED + len(LEVELS))
    narrow = canvas.along(canvas.patient.canal_loss.sum(axis=0))
    roomy = ellipse(canvas.across, w - 9.8, 12.8, 11.0)
    canvas.paint(Tissue.CORTEX, cover(roomy - 0.9) * (w > 2))
    canvas.paint(Tissue.FAT, cover(roomy))
    _paint_foramen(canvas, w, disc, t, graded)
    _paint_flavum(canvas, w)
    bulge = box(w - canvas.along(canvas.patient.sac_front) + 0.4, canvas.across - 11 + 0.06 * w * w)
    canvas.paint(Tissue.ANNULUS, cover(bulge) * np.clip(narrow - 0.4, 0, 1))
    _paint_sac(canvas, w)
    _paint_recess(canvas, w, disc, t, graded)


def _paint_flavum(canvas: Canvas, w: Field) -> None:
    """A dark band on each side between the laminae, a V that opens forwards."""
    thickness = canvas.along(canvas.patient.flavum)
    inner = (w - canvas.along(canvas.patient.sac_back) - 0.6) + np.clip(canvas.across - 1.5, 0, None) * 0.55
    band = box(-inner, inner - thickness * 1.15 - 0.2, canvas.across - 13.5, 3 - w)
    canvas.paint(Tissue.LIGAMENT, cover(band) * np.clip(thickness - 0.6, 0, 1))


def _paint_sac(canvas: Canvas, w: Field) -> None:
    """Dura, fluid, conus and the roots of the cauda equina, which crowd as the sac shrinks."""
    patient, u = canvas.patient, canvas.u
    front, back = canvas.along(patient.sac_front), canvas.along(patient.sac_back)
    half_depth, half_width = np.maximum((back - front) / 2, 0.3), canvas.along(patient.sac_half_width)
    middle = (front + back) / 2
    sac = ellipse(u, w - middle, half_width, half_depth)
    canvas.paint(Tissue.LIGAMENT, cover(sac - 0.5) * 0.8)
    canvas.paint(Tissue.FLUID, cover(sac))

    inside = cover(sac + 0.4)
    conus_end = np.float32(patient.disc_arc[FIRST_GRADED] + 8)
    cord_radius = np.clip((canvas.s - conus_end) * 0.16, 0, 4.2)
    roots = np.full_like(u, 9.0)
    for number, (angle, radius) in enumerate(zip(patient.body.root_angle, patient.body.root_radius, strict=True)):
        reach = 0.5 + 0.32 * (number % 3) / 2
        wave = 0.05 * np.sin(canvas.s * np.float32(1 / 11) + number)
        a = u - half_width * (np.float32(reach * np.cos(angle)) + wave)
        b = w - middle - half_depth * (np.float32(0.12 + reach * 0.85 * np.sin(angle)) - 0.15 + wave)
        roots = np.minimum(roots, np.sqrt(a * a + b * b) - np.float32(radius))
    canvas.paint(Tissue.ROOT, cover(roots) * inside * (canvas.s < conus_end + 25))
    cord = np.sqrt(u**2 + (w - middle) ** 2) - cord_radius
    canvas.paint(Tissue.CORD, cover(cord) * inside * (cord_radius > 0.3))


def _paint_foramen(canvas: Canvas, w: Field, disc: Index, t: Field, graded: Mask) -> None:
    """A window between two pedicles: fat around the exiting root; disc and facet close in as the grade rises."""
    patient = canvas.patient
    grade = canvas.sided(Condition.NEURAL_FORAMINAL_NARROWING, disc)
    place = np.interp(np.arange(DISC_COUNT) - FIRST_GRADED, range(len(LEVELS)), patient.foramen_u)
    out = canvas.across - place.astype(np.float32).take(disc)
    window = box(np.abs(out) - 7.5, -0.5 - w, w - 12.5, np.abs(t - 4.5) - 11.5)
    canvas.paint(Tissue.ANNULUS, cover(window))
    top = 15.0 - 0.9 * grade
    half_height = 10.4 * (1 - 0.27 * grade)
    half_depth = 6.0 * (1 - 0.26 * grade)
    middle = top - half_height
    taper = 0.82 + 0.18 * np.clip((t - middle) * np.float32(1 / 6), -1, 1)
    fat = ellipse((w - 5.8) / taper, t - middle, half_depth, half_height)
    canvas.paint(Tissue.FAT, cover(box(fat, np.abs(out) - 8.5)))
    root_t = 9.2 - 0.4 * out - 0.5 * grade
    root = ellipse(w - 5.8, t - root_t, 3.1 - 0.35 * grade, 3.6 - 0.2 * grade)
    canvas.paint(Tissue.ROOT, cover(box(root, np.abs(out) - 9)) * graded)


def _paint_recess(canvas: Canvas, w: Field, disc: Index, t: Field, graded: Mask) -> None:
    """The canal's anterolateral corner with the traversing root; disc and facet close it as the grade rises."""
    grade = canvas.sided(Condition.SUBARTICULAR_STENOSIS, disc) * np.exp(-((t / 6.5) ** 4))
    out = canvas.across - 9.6
    height = cover(np.abs(t + 1) - 8, 3.0) * graded
    closing = np.clip(grade - 0.15, 0, None)
    protrusion = ellipse(out, w + 1.0, 4.6, 0.5 + 2.1 * closing)
    overgrowth = ellipse(out - 4.2, w - 8.0, 1.0 + 1.75 * closing, 1.0 + 2.1 * closing)
    open_share = 1 - 0.3 * grade
    corner = ellipse(out - 0.4, w - 4.0, 4.0 * open_share, 3.6 * open_share)
    canvas.paint(Tissue.FAT, cover(corner) * height)
    for tissue, shape in ((Tissue.ANNULUS, protrusion), (Tissue.LIGAMENT, overgrowth)):
        canvas.paint(tissue, cover(box(shape, 4.2 - canvas.across)) * height * np.clip(closing * 2, 0, 1))
    root = ellipse(out - 0.1, w - 4.0 - 0.5 * closing, 1.75 - 0.1 * grade, 1.75 - 0.32 * grade)
    canvas.paint(Tissue.ROOT, cover(root) * height)
