// Waveforms: fetched as they become known, drawn as bars; once dim, once lit, and the lit one is cut at the position.
import * as api from './api.js';
import {toast} from './dom.js';

const BAR_PX = 2, GAP_PX = 1;
const REDRAW_MS = 120;

export class Waveforms {
  constructor() {
    this.canvases = [];
    new ResizeObserver(() => this.draw()).observe(document.body);
  }

  // `canvases`: of every lane, those that show it.
  async show(about, canvases, colour) {
    this.controller?.abort();
    const controller = this.controller = new AbortController();
    Object.assign(this, {canvases, colour, lanes: about.lanes.length, spans: Math.ceil(about.samples / about.span_samples), known: 0});
    this.content = new Uint8Array(this.spans * this.lanes * 2);
    this.draw();
    try {
      let drawn = 0;
      for await (const part of api.stream(`tracks/${about.id}/peaks/${about.version}`, {signal: controller.signal})) {
        this.content.set(part.subarray(0, this.content.length - this.known), this.known);
        this.known = Math.min(this.content.length, this.known + part.length);
        if (performance.now() - drawn > REDRAW_MS) { this.draw(); drawn = performance.now(); }
      }
    } catch (error) {
      if (error.name === 'AbortError') return;
      if (error.status !== 0) toast(error.message, 'bad');
    }
    this.draw();
    if (this.known === this.content.length) return;
    document.addEventListener('reach', () => this.show(about, canvases, colour), {once: true, signal: controller.signal});
  }

  draw() {
    let loudest = 24;
    for (let k = 0; k < this.known; k += 2) loudest = Math.max(loudest, this.content[k]);
    this.canvases.forEach((pair, lane) => { for (const canvas of pair) this.drawLane(canvas, lane, loudest); });
  }

  drawLane(canvas, lane, loudest) {
    const {width, height} = canvas.getBoundingClientRect();
    if (!width) return;
    const ratio = Math.min(2, devicePixelRatio || 1);
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext('2d');
    context.scale(ratio, ratio);
    context.fillStyle = this.colour(lane);
    const middle = height / 2, tallest = height / 2 - 7;
    const bars = Math.floor(width / (BAR_PX + GAP_PX));
    for (let bar = 0; bar < bars; bar++) {
      const first = Math.floor((bar * this.spans) / bars), last = Math.max(first + 1, Math.floor(((bar + 1) * this.spans) / bars));
      let peak = 0, power = 0;
      for (let span = first; span < last; span++) {
        const at = (span * this.lanes + lane) * 2;
        peak = Math.max(peak, this.content[at]);
        power = Math.max(power, this.content[at + 1]);
      }
      const x = bar * (BAR_PX + GAP_PX);
      context.globalAlpha = 0.5;
      bead(context, x, middle, Math.max(0.75, tallest * (peak / loudest) ** 0.75));
      context.globalAlpha = 1;
      if (power) bead(context, x, middle, tallest * (power / loudest) ** 0.75);
    }
  }
}

function bead(context, x, middle, half) {
  context.beginPath();
  context.roundRect(x, middle - half, BAR_PX, half * 2, BAR_PX / 2);
  context.fill();
}
