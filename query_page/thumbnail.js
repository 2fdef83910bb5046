// The slice of an answer with the region that speaks for it.

import { slicePicture } from "./api.js";

const SIDE = 192;

export function thumbnail(answer) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", answer.image ? `slice of study ${answer.study_id} with the region` : "no picture");
  if (!answer.image) return canvas;
  const image = new Image();
  image.onload = () => {
    const context = canvas.getContext("2d");
    const scale = SIDE / Math.max(image.naturalWidth, image.naturalHeight);
    const [left, top] = [(SIDE - image.naturalWidth * scale) / 2, (SIDE - image.naturalHeight * scale) / 2];
    context.drawImage(image, left, top, image.naturalWidth * scale, image.naturalHeight * scale);
    const [x0, y0, x1, y1] = answer.box.map((x) => (x + 0.5) * scale);
    context.strokeStyle = "#ffd23f";
    context.lineWidth = 3;
    context.strokeRect(left + x0, top + y0, x1 - x0, y1 - y0);
  };
  image.onerror = () => {
    const context = canvas.getContext("2d");
    context.fillStyle = "#aaa";
    context.font = "20px system-ui";
    context.textAlign = "center";
    context.fillText("picture missing", SIDE / 2, SIDE / 2);
    canvas.setAttribute("aria-label", "picture missing");
  };
  image.src = slicePicture(answer.split, answer.study_id, answer.series_id, answer.instance_number);
  return canvas;
}
