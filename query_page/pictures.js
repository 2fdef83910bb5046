// The decoded slices of one study: one byte per pixel, and those that were looked at last.

import { picture } from "./api.js";

/** Bytes that are kept. */
export const KEPT = 64 * 2 ** 20;

export class Pictures {
  /** split: of the study. kept: bytes that are kept at most, beside the newest picture. */
  constructor(split, kept = KEPT) {
    this.split = split;
    this.kept = kept;
    this.known = new Map(); // slice number -> picture, null, false; the one that was looked at last is the last one
    this.bytes = 0;
  }

  /**
   * The grey values of a slice as {width, height, greys}; null while they are loaded, false if there is no picture.
   * then: called when they are loaded.
   */
  of(slice, then) {
    const found = this.known.get(slice.number);
    if (found) {
      this.known.delete(slice.number);
      this.known.set(slice.number, found);
    }
    if (found === undefined) this.load(slice.number, then);
    return found ?? null;
  }

  load(number, then) {
    this.known.set(number, null);
    const image = new Image();
    image.onload = () => {
      const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      this.keep(number, context.getImageData(0, 0, canvas.width, canvas.height));
      then();
    };
    image.onerror = () => { this.known.set(number, false); then(); };
    image.src = picture(this.split, number);
  }

  /** Keep the grey values of a slice; those that were looked at longest ago make room. */
  keep(number, { width, height, data }) {
    const greys = new Uint8Array(width * height);
    for (let i = 0; i < greys.length; i += 1) greys[i] = data[4 * i]; // red, green and blue are the same
    this.known.delete(number);
    this.known.set(number, { width, height, greys });
    this.bytes += greys.length;
    for (const [other, one] of this.known) {
      if (this.bytes <= this.kept) break;
      if (!one || other === number) continue;
      this.bytes -= one.greys.length;
      this.known.delete(other);
    }
  }
}
