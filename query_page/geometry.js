// Slices in the patient: millimetres, LPS (x to the patient's left, y to the back, z to the head).
// Pixels are [column, row], counted from the centre of the first one.

export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
export const minus = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];

/** The smallest angle between two planes at which each is drawn in the other, in degrees. */
export const LEAST_ANGLE = 20;

export const normal = (place) => cross(place.row_direction, place.column_direction);

/** The point in the patient of a pixel. */
export function toPatient(place, [column, row]) {
  const [along, down] = [column * place.spacing_mm[1], row * place.spacing_mm[0]];
  return place.position_mm.map((x, i) => x + along * place.row_direction[i] + down * place.column_direction[i]);
}

/** The pixel nearest to a point in the patient, as [column, row] with fractions. */
export function toPixel(place, point) {
  const from = minus(point, place.position_mm);
  return [dot(from, place.row_direction) / place.spacing_mm[1], dot(from, place.column_direction) / place.spacing_mm[0]];
}

export const centre = (slice) => toPatient(slice.place, [(slice.columns - 1) / 2, (slice.rows - 1) / 2]);

/** How far a point lies from a slice: across its plane, and beyond the edge of its picture. */
export function distance(slice, point) {
  const across = dot(minus(point, slice.place.position_mm), normal(slice.place));
  const [column, row] = toPixel(slice.place, point);
  const beyond = (x, size) => Math.max(-0.5 - x, x - size + 0.5, 0);
  return Math.hypot(
    across,
    beyond(column, slice.columns) * slice.place.spacing_mm[1],
    beyond(row, slice.rows) * slice.place.spacing_mm[0],
  );
}

/** The slice that is nearest to a point, in and across its plane. */
export function nearest(slices, point) {
  let best = 0;
  slices.forEach((slice, i) => { if (distance(slice, point) < distance(slices[best], point)) best = i; });
  return best;
}

/**
 * Where the plane of another slice cuts the picture of this one: two pixels on its edge, or null if the planes are
 * less than LEAST_ANGLE apart or cut each other outside the picture.
 */
export function cut(slice, other) {
  const across = normal(other.place);
  if (Math.abs(dot(normal(slice.place), across)) > Math.cos((LEAST_ANGLE * Math.PI) / 180)) return null;
  const { row_direction, column_direction, spacing_mm, position_mm } = slice.place;
  const a = dot(across, row_direction) * spacing_mm[1];
  const b = dot(across, column_direction) * spacing_mm[0];
  const c = dot(across, minus(position_mm, other.place.position_mm));
  const [left, right, top, bottom] = [-0.5, slice.columns - 0.5, -0.5, slice.rows - 0.5];
  const ends = [];
  const add = (column, row) => {
    const inside = column >= left - 1e-6 && column <= right + 1e-6 && row >= top - 1e-6 && row <= bottom + 1e-6;
    if (inside && !ends.some(([x, y]) => Math.hypot(x - column, y - row) < 1e-6)) ends.push([column, row]);
  };
  if (Math.abs(b) > 1e-9) for (const column of [left, right]) add(column, -(c + a * column) / b);
  if (Math.abs(a) > 1e-9) for (const row of [top, bottom]) add(-(c + b * row) / a, row);
  return ends.length >= 2 ? [ends[0], ends[1]] : null;
}

/** The letter of the patient's side that a direction points to, and a second one if it leans by more than half. */
export function letters(direction) {
  const named = direction.map((x, i) => [Math.abs(x), x > 0 ? "LPS"[i] : "RAI"[i]]).sort((p, q) => q[0] - p[0]);
  return named[0][1] + (named[1][0] > 0.5 * named[0][0] ? named[1][1] : "");
}

/**
 * Slices in the order in which a reader turns them: to the feet, sagittal ones to the patient's left. Slices whose
 * places are not known are left out if others' are; if no place is known, all are in the order of their numbers.
 */
export function ordered(slices, isSagittal) {
  const key = (slice) => (isSagittal ? centre(slice)[0] : -centre(slice)[2]);
  const placed = slices.filter((slice) => slice.place);
  if (placed.length) return placed.sort((p, q) => key(p) - key(q) || p.number - q.number);
  return [...slices].sort((p, q) => p.series_id - q.series_id || p.instance_number - q.instance_number);
}

/** How far a point lies from the plane of a slice, in mm. */
export const across = (slice, point) => Math.abs(dot(minus(point, slice.place.position_mm), normal(slice.place)));

/** Whether a point lies in a slice of a stack: at most half the distance to the nearer of its neighbours away. */
export function isWithin(slices, at, point) {
  const gaps = [slices[at - 1], slices[at + 1]].filter(Boolean)
    .map((other) => across(slices[at], centre(other))).filter((gap) => gap > 0.01);
  return across(slices[at], point) <= (gaps.length ? Math.min(...gaps) / 2 : Infinity) + 1e-6;
}
