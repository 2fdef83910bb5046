"""Paint the surroundings of the spine: fat, muscle, kidneys, bowel, skin."""

import numpy as np

from data_prep.phantom.canvas import Canvas, band, common, cover, ellipse
from data_prep.phantom.tissues import Tissue


def paint_surroundings(canvas: Canvas) -> None:
    """Paint everything except the spine over a background of fat."""
    w, swell = canvas.w, canvas.texture.swell
    canvas.image *= 1 - 0.09 * np.exp(-((swell * np.float32(1 / 0.12)) ** 2))  # septa
    canvas.within(canvas.v < -22, _paint_abdomen)
    canvas.within(canvas.v < -16, _paint_organs)
    canvas.within(canvas.across > 18, _paint_flank)
    canvas.within((w > 4) & (w < 62), _paint_back_muscles)
    canvas.within(w > 44, _paint_skin)


def _paint_abdomen(canvas: Canvas) -> None:
    """Paint loops of bowel: fluid or gas within a wall."""
    swell, grain = canvas.texture.swell, canvas.texture.grain
    habitus = canvas.patient.body.habitus
    behind = cover(canvas.v + 36 + 5 * swell, 5.0) * np.float32(habitus.bowel if habitus else 1)
    loops = cover(-swell - 0.1, 0.25) * behind
    canvas.paint(Tissue.BOWEL, loops, 0.55 + 0.8 * np.clip(0.35 * canvas.texture.streak + 0.5, 0, 1.2))
    canvas.paint(Tissue.SKIN, cover(np.abs(swell + 0.15) - 0.08, 0.2) * behind)
    canvas.paint(Tissue.AIR, cover(1.25 - swell + 0.1 * grain, 0.3) * behind * 0.9)


def _paint_organs(canvas: Canvas) -> None:
    """Paint the organs of the patient's habitus, each within a thin wall."""
    habitus, swell = canvas.patient.body.habitus, canvas.texture.swell
    for organ in habitus.organs if habitus else ():
        (u, v, s), half = organ.centre_mm.astype(np.float32), organ.half_mm.astype(np.float32)
        parts = ((canvas.u - u) / half[0], (canvas.v - v) / half[1], (canvas.s - s) / half[2])
        distance = (np.sqrt(sum(part * part for part in parts)) - 1) * half.min() + 1.5 * swell
        canvas.paint(Tissue.SKIN, cover(distance - 1))
        canvas.paint(organ.tissue, cover(distance), 1 + 0.1 * swell)


def _paint_flank(canvas: Canvas) -> None:
    """Paint psoas, quadratus lumborum and kidneys."""
    across, v, s, swell = canvas.across, canvas.v, canvas.s, canvas.texture.swell
    low = np.clip((60 - s) * np.float32(1 / 130), 0, 1.2)
    radius = 7 + 14 * low
    out = across - 26 - radius * 0.75
    if habitus := canvas.patient.body.habitus:
        radius = radius * np.float32(habitus.psoas_size)
        out = across - canvas.along(canvas.patient.half_width) - np.float32(habitus.psoas_gap) - radius * 0.85
    psoas = ellipse(out, v + 1 + 2 * low, radius * 0.85, radius) + 0.7 * swell
    quadratus = ellipse(across - 62, v - 14, 16.0, 8.0) + 1.2 * swell
    kidney = common(ellipse(across - 66, v + 6, 20.0, 23.0) + 0.8 * swell, 26 - s)
    marbled = np.clip(canvas.texture.streak * 0.5 - 0.75, 0, 0.5)
    for muscle in (psoas, quadratus):
        canvas.paint(Tissue.MUSCLE, cover(muscle))
        canvas.paint(Tissue.FAT, cover(muscle + 1) * marbled)
    canvas.paint(Tissue.KIDNEY, cover(kidney))
    canvas.paint(Tissue.FAT, cover(ellipse(across - 58, v + 6, 8.0, 7.0) + 2.5 * swell) * cover(kidney + 2) * 0.9)


def _paint_back_muscles(canvas: Canvas) -> None:
    """Paint multifidus and erector spinae, with the patient's amount of fat between their fibres."""
    across, w, s, swell = canvas.across, canvas.w, canvas.s, canvas.texture.swell
    shrink = np.clip((s + 130) * np.float32(1 / 90), 0.15, 1)
    depth, behind_erector, behind_multifidus = 17.0 * shrink + 3, w - 30, w - 33
    if habitus := canvas.patient.body.habitus:  # the muscles lie on the bone, down to the middle of the sacrum
        depth = np.clip((s + 175) * np.float32(1 / 90), 0.1, 1) * np.float32(20 * habitus.muscle_depth)
        behind_erector = behind_multifidus = w - 14 - depth
    erector = ellipse(across - 33, behind_erector, 28.0, depth) + 1.0 * swell
    multifidus = ellipse(across - 12, behind_multifidus, 11.0, depth) + 0.6 * swell
    mass = np.minimum(erector, multifidus)
    inside = cover(mass)
    # The share of fat increases caudally and towards the laminae.
    fatty = canvas.patient.body.muscle_fat + 0.5 * (1 - shrink) + np.clip((30 - w) * np.float32(1 / 60), 0, 0.3)
    marbled = np.clip((canvas.texture.streak + 0.4 * canvas.texture.grain) * 0.55 - 1.25 + 0.8 * fatty, 0, 0.85)
    septum = cover(band(erector - multifidus, 0.3)) * 0.45
    canvas.paint(Tissue.MUSCLE, inside)
    canvas.paint(Tissue.FAT, inside * np.maximum(marbled, septum))
    canvas.paint(Tissue.LIGAMENT, cover(band(mass, 0.15)) * 0.6)


def _paint_skin(canvas: Canvas) -> None:
    depth = canvas.patient.body.fat_depth + 52
    buttocks = 26 / (1 + np.exp((canvas.s + 95) * np.float32(1 / 16)))
    skin = canvas.w - depth - buttocks + 0.6 * canvas.texture.swell
    if habitus := canvas.patient.body.habitus:
        amplitude, wavelength, phase = (np.float32(value) for value in habitus.skin_wave)
        far = np.minimum(np.abs(canvas.s) * np.float32(1 / 100), 1.5)
        skin += buttocks * np.float32(1 - habitus.buttocks)
        skin += amplitude * np.sin(canvas.s * (np.float32(2 * np.pi) / wavelength) + phase)
        skin += np.float32(habitus.hollow) * (far * far - np.float32(0.5))
    canvas.paint(Tissue.SKIN, cover(-skin - 1.8))
    canvas.paint(Tissue.AIR, cover(-skin))
