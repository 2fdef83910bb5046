// Three panes of one study: slices that are turned, windowed and linked through the patient.

import { centre, cut, isWithin, letters, nearest, ordered, toPatient, toPixel } from "./geometry.js";
import { Pictures } from "./pictures.js";
import { drawBox, drawLine, drawWords } from "./pencil.js";

export const VIEWS = [["sagittal_t1", "Sagittal T1"], ["sagittal_t2_stir", "Sagittal T2/STIR"], ["axial_t2", "Axial T2"]];
const AHEAD = 3;
/** A wheel's way to the next slice: a notch is longer, a trackpad sends many short pieces. */
const WHEEL_PIXELS = 40;
const NARROWER = 0.8;
const DARKER = 0.1;
const BOX = "#ffd23f";
const COLOURS = ["#7fd4ff", "#ffb27f", "#a6f08c"];

export class Viewer {
  /** root: the element of the panes. split: of the study. slices: its slices. */
  constructor(root, split, slices) {
    this.root = root;
    this.pictures = new Pictures(split);
    this.point = null;
    root.replaceChildren();
    this.panes = VIEWS.map(([view, words], i) => {
      const isSagittal = view !== "axial_t2";
      return new Pane(this, view, words, ordered(slices.filter((s) => s.view === view), isSagittal), COLOURS[i]);
    });
    this.watcher = new ResizeObserver(() => this.draw());
    this.panes.forEach((pane) => this.watcher.observe(pane.canvas));
  }

  close() { this.watcher.disconnect(); }

  /** Turn every pane to the slice that is nearest to a point in the patient. */
  moveTo(point, but = null) {
    this.point = point;
    for (const pane of this.panes) if (pane.hasPlaces && pane !== but) pane.at = nearest(pane.slices, point);
    this.draw();
  }

  /** Show a site: the slices that its probabilities come from, with their boxes. */
  showSite(site) {
    for (const pane of this.panes) {
      pane.boxes = site.views.filter((v) => pane.slices.some((s) => isOf(s, v)));
      if (pane.boxes.length) pane.at = pane.slices.findIndex((s) => isOf(s, pane.boxes[0]));
    }
    const first = this.panes.find((pane) => pane.boxes.length && pane.hasPlaces);
    if (!first) return this.draw();
    const [x0, y0, x1, y1] = first.boxes[0].box;
    const point = toPatient(first.slice.place, [(x0 + x1) / 2, (y0 + y1) / 2]);
    this.point = point;
    for (const pane of this.panes) if (!pane.boxes.length && pane.hasPlaces) pane.at = nearest(pane.slices, point);
    this.draw();
  }

  draw() {
    this.root.dataset.point = this.point?.join(" ") ?? "";
    this.panes.forEach((pane) => pane.draw());
  }
}

const isOf = (slice, view) => slice.series_id === view.series_id && slice.instance_number === view.instance_number;

/** Key -> how many times as wide the window becomes, and by which part of its width it moves. */
const WINDOW_KEYS = { "[": [NARROWER, 0], "]": [1 / NARROWER, 0], "-": [1, DARKER], "+": [1, -DARKER], "=": [1, -DARKER] };

class Pane {
  constructor(viewer, view, words, slices, colour) {
    Object.assign(this, { viewer, words, slices, colour, boxes: [], at: Math.floor(slices.length / 2), window: null });
    const figure = document.createElement("figure");
    figure.className = "pane";
    figure.dataset.view = view;
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("aria-label", words);
    this.canvas.setAttribute("role", slices.length ? "slider" : "img");
    if (slices.length) this.canvas.setAttribute("aria-orientation", "vertical");
    if (slices.length) this.canvas.tabIndex = 0;
    this.caption = document.createElement("figcaption");
    figure.append(this.canvas, this.caption);
    viewer.root.append(figure);
    this.listen();
  }

  get slice() { return this.slices[this.at]; }

  /** Whether it is known where its slices lie in the patient. */
  get hasPlaces() { return Boolean(this.slice?.place); }

  turn(by) {
    this.at = Math.min(Math.max(this.at + by, 0), this.slices.length - 1);
    this.viewer.draw();
  }

  listen() {
    const on = (kind, act) => this.canvas.addEventListener(kind, act, { passive: false });
    let way = 0;
    on("wheel", (event) => {
      if (event.ctrlKey) return; // the browser's own zoom
      event.preventDefault();
      if (way * event.deltaY < 0) way = 0;
      way += event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY : WHEEL_PIXELS * event.deltaY;
      if (Math.abs(way) < WHEEL_PIXELS) return;
      this.turn(Math.sign(way)); // one slice per event, however far: a notch is one
      way = 0;
    });
    on("contextmenu", (event) => event.preventDefault());
    on("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const steps = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, PageDown: 5, PageUp: -5, Home: -1e6, End: 1e6 };
      if (event.key in steps) this.turn(steps[event.key]);
      else if (event.key === "r") { this.window = null; this.viewer.draw(); }
      else if (event.key in WINDOW_KEYS) this.changeWindow(...WINDOW_KEYS[event.key]);
      else return;
      event.preventDefault();
    });
    let start = null;
    on("pointerdown", (event) => {
      start = { x: event.clientX, y: event.clientY, window: this.currentWindow(), at: this.at, moved: false, button: event.button };
      this.canvas.setPointerCapture(event.pointerId);
    });
    for (const end of ["pointercancel", "lostpointercapture"]) on(end, () => { start = null; });
    on("pointermove", (event) => {
      if (!event.buttons) start = null;
      if (!start || !this.slice) return;
      const [dx, dy] = [event.clientX - start.x, event.clientY - start.y];
      start.moved ||= Math.hypot(dx, dy) > 4;
      if (start.button === 2) this.drag(start.window, dx, dy);
      else if (event.pointerType === "touch" && start.moved) this.turn(start.at + Math.round(dy / 12) - this.at);
    });
    on("pointerup", (event) => {
      if (start && !start.moved && start.button === 0 && this.hasPlaces) {
        const pixel = this.pixelAt(event.offsetX, event.offsetY);
        if (pixel) this.viewer.moveTo(toPatient(this.slice.place, pixel), this);
      }
      start = null;
    });
  }

  /** The window in the scanner's units: what the PNG holds, or what the reader has set. */
  currentWindow() { return this.window ?? this.slice?.window ?? [0, 255]; }

  drag([low, high], dx, dy) {
    const width = high - low;
    const middle = (low + high) / 2 + (dy * width) / 200;
    const half = Math.max((width / 2) * Math.exp(dx / 150), 1);
    this.window = [middle - half, middle + half];
    this.viewer.draw();
  }

  /** Make the window so many times as wide, and move it by a part of its width: to higher values is darker. */
  changeWindow(factor, shift) {
    const [low, high] = this.currentWindow();
    const middle = (low + high) / 2 + shift * (high - low);
    const half = Math.max(((high - low) / 2) * factor, 1);
    this.window = [middle - half, middle + half];
    this.viewer.draw();
  }

  /** Where the picture lies in the canvas, in CSS pixels: its left and upper edge, and its scale per pixel. */
  layout() {
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    const { rows, columns, place } = this.slice;
    const [down, along] = place?.spacing_mm ?? [1, 1];
    const [tall, wide] = [rows * down, columns * along];
    const perMm = Math.min(width / wide, height / tall);
    return {
      left: (width - wide * perMm) / 2, top: (height - tall * perMm) / 2, perMm,
      perColumn: along * perMm, perRow: down * perMm, wide: wide * perMm, tall: tall * perMm,
    };
  }

  pixelAt(x, y) {
    const { left, top, perColumn, perRow } = this.layout();
    const [column, row] = [(x - left) / perColumn - 0.5, (y - top) / perRow - 0.5];
    const inside = column >= -0.5 && row >= -0.5 && column < this.slice.columns - 0.5 && row < this.slice.rows - 0.5;
    return inside ? [column, row] : null;
  }

  draw() {
    const context = this.canvas.getContext("2d");
    const ratio = devicePixelRatio || 1;
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    if (this.canvas.width !== Math.round(width * ratio)) this.canvas.width = Math.round(width * ratio);
    if (this.canvas.height !== Math.round(height * ratio)) this.canvas.height = Math.round(height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "600 13px system-ui, sans-serif";
    if (!this.slice) return this.tell(context, "this study has no such series");
    const layout = this.layout();
    const pixels = this.viewer.pictures.of(this.slice, () => this.viewer.draw());
    if (pixels) this.drawPixels(context, pixels, layout);
    this.drawMarks(context, layout);
    this.describe();
    if (pixels === false) this.tell(context, "picture missing: run prepare_data.py again");
    for (let step = 1; step <= AHEAD; step += 1) {
      for (const near of [this.slices[this.at + step], this.slices[this.at - step]]) if (near) this.viewer.pictures.of(near, () => {});
    }
  }

  drawPixels(context, pixels, layout) {
    const shown = [this.slice.number, ...this.currentWindow()].join(" ");
    if (this.shown !== shown) this.windowed(pixels);
    this.shown = shown;
    context.drawImage(this.scratch, layout.left, layout.top, layout.wide, layout.tall);
  }

  /** Write the slice into `scratch`, its greys in the current window. */
  windowed(pixels) {
    const [darkest, brightest] = this.slice.window ?? [0, 255];
    const [low, high] = this.currentWindow();
    const table = new Uint32Array(256).map((_, grey) => {
      const value = darkest + (grey / 255) * (brightest - darkest);
      const shade = Math.round(Math.min(Math.max((255 * (value - low)) / (high - low), 0), 255));
      return 0xff000000 | (shade << 16) | (shade << 8) | shade;
    });
    const copy = new ImageData(pixels.width, pixels.height);
    const to = new Uint32Array(copy.data.buffer); // one number is one pixel
    for (let i = 0; i < to.length; i += 1) to[i] = table[pixels.greys[i]];
    this.scratch ??= new OffscreenCanvas(1, 1);
    [this.scratch.width, this.scratch.height] = [pixels.width, pixels.height];
    this.scratch.getContext("2d").putImageData(copy, 0, 0);
  }

  drawMarks(context, layout) {
    const on = ([column, row]) => [layout.left + (column + 0.5) * layout.perColumn, layout.top + (row + 0.5) * layout.perRow];
    for (const other of this.viewer.panes) {
      const line = other === this || !this.hasPlaces || !other.hasPlaces ? null : cut(this.slice, other.slice);
      if (line) drawLine(context, line.map(on), other.colour);
    }
    for (const { box, weight } of this.shownBoxes()) {
      const [upper, lower] = [on(box.slice(0, 2)), on(box.slice(2))];
      drawBox(context, upper, lower, BOX);
      if (weight != null) drawWords(context, weight.toFixed(2), upper[0], upper[1] > 20 ? upper[1] - 5 : lower[1] + 16, "left", BOX);
    }
    if (!this.hasPlaces) return;
    if (this.viewer.point && isWithin(this.slices, this.at, this.viewer.point)) {
      const [x, y] = on(toPixel(this.slice.place, this.viewer.point));
      drawLine(context, [[x - 7, y], [x + 7, y]], "#fff");
      drawLine(context, [[x, y - 7], [x, y + 7]], "#fff");
    }
    this.drawLetters(context);
    const length = 20 * layout.perMm;
    const [right, bottom] = [this.canvas.clientWidth - 8, this.canvas.clientHeight - 8];
    drawLine(context, [[right - length, bottom], [right, bottom]], "#fff", 2);
    drawWords(context, "20 mm", right, bottom - 7, "right");
  }

  /** The boxes of the site that lie on the slice that is shown. */
  shownBoxes() { return this.boxes.filter((box) => isOf(this.slice, box)); }

  drawLetters(context) {
    const { row_direction, column_direction } = this.slice.place;
    const back = (direction) => direction.map((x) => -x);
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    drawWords(context, letters(back(row_direction)), 6, height / 2, "left");
    drawWords(context, letters(row_direction), width - 6, height / 2, "right");
    drawWords(context, letters(back(column_direction)), width / 2, 16, "center");
    drawWords(context, letters(column_direction), width / 2, height - 8, "center");
  }

  tell(context, text) {
    this.caption.textContent = `${this.words}: ${text}`;
    if (this.slice) this.canvas.setAttribute("aria-valuetext", text);
    else this.canvas.setAttribute("aria-label", this.caption.textContent);
    drawWords(context, text, this.canvas.clientWidth / 2, this.canvas.clientHeight / 2, "center");
  }

  /** Tell the slice in words, for people below the picture and for screen readers as the value of a slider. */
  describe() {
    const [low, high] = this.currentWindow().map(Math.round);
    const boxes = this.shownBoxes().map(({ weight }) => (weight == null ? ", shows the site" : `, shows the site with weight ${weight.toFixed(2)}`));
    const place = `slice ${this.slice.instance_number} (${this.at + 1} of ${this.slices.length})`;
    const [x, , z] = this.hasPlaces ? centre(this.slice).map((mm) => mm.toFixed(0)) : [];
    const where = `${this.hasPlaces ? `x ${x}, z ${z} mm` : "place in the patient not known"}, window ${low} to ${high}`;
    this.caption.replaceChildren(
      Object.assign(document.createElement("strong"), { textContent: this.words }),
      `, series ${this.slice.series_id}, ${place}, ${where}`,
    );
    const values = { now: this.at + 1, min: 1, max: this.slices.length, text: `${place}, ${where}${boxes.join("")}` };
    for (const [name, value] of Object.entries(values)) this.canvas.setAttribute(`aria-value${name}`, value);
    this.canvas.parentElement.dataset.slice = this.slice.number;
  }
}
