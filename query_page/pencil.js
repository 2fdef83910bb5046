// Lines and words on a canvas that are legible on any grey.

const DARK = "rgb(0 0 0 / .7)";

export function drawLine(context, [[x0, y0], [x1, y1]], colour, width = 1.2) {
  for (const [style, wide] of [[DARK, width + 1.8], [colour, width]]) {
    context.strokeStyle = style;
    context.lineWidth = wide;
    context.beginPath();
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
    context.stroke();
  }
}

export function drawBox(context, [x0, y0], [x1, y1], colour) {
  for (const [style, wide] of [[DARK, 4], [colour, 2]]) {
    context.strokeStyle = style;
    context.lineWidth = wide;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
}

/** Words at a point: x is their left, center or right, y their baseline. */
export function drawWords(context, text, x, y, align, colour = "#fff") {
  context.textAlign = align;
  context.lineWidth = 3;
  context.lineJoin = "round";
  context.strokeStyle = "#000";
  context.strokeText(text, x, y);
  context.fillStyle = colour;
  context.fillText(text, x, y);
}
