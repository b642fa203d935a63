// The ruler above the lanes: times, the position, and the loop, with mouse, finger or keys.
import {$, $$, clock, el, spoken} from './dom.js';

const LEAST_LOOP_S = 0.05;
const DRAG_PX = 5;
const TICKS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200];

export class Ruler {
  constructor(player) {
    this.player = player;
    player.addEventListener('loop', () => this.showLoop());
    this.wire();
    new ResizeObserver(() => this.drawTicks()).observe($('#ruler'));
  }

  get about() { return this.player.about; }

  // Another track, with the loop of a link or none.
  begin(loop) {
    this.lastLoop = null;
    this.drawTicks();
    loop && loop[0] < loop[1] ? this.setLoop(loop) : this.player.setLoop(null);
  }

  // The loop: set its start or end here; once both are known it is on.
  mark(end) {
    if (!this.about) return;
    const {about, player} = this;
    const at = Math.round(player.state.position);
    const old = player.loop ?? this.lastLoop ?? [0, about.samples];
    const least = LEAST_LOOP_S * about.rate_hz;
    const loop = end ? [Math.min(old[0], Math.max(0, at - least)), Math.max(at, least)] : [at, old[1] > at + least ? old[1] : about.samples];
    if (loop[1] - loop[0] >= least) this.setLoop(loop.map(Math.round));
  }

  setLoop(loop) {
    this.lastLoop = loop;
    this.player.setLoop(loop);
    if (loop && (this.player.state.position < loop[0] || this.player.state.position >= loop[1])) this.player.seek(loop[0] / this.about.rate_hz);
  }

  toggleLoop() {
    if (!this.about) return;
    if (this.player.loop) { this.lastLoop = this.player.loop; this.player.setLoop(null); } else this.setLoop(this.lastLoop ?? [0, this.about.samples]);
  }

  showLoop() {
    const loop = this.player.loop;
    const samples = this.about?.samples || 1;
    for (const node of [$('#region'), $('#grip-a'), $('#grip-b'), ...$$('.looped')]) node.hidden = !loop;
    $('#loop-off').setAttribute('aria-pressed', Boolean(loop));
    $('#loop-a').classList.toggle('set', Boolean(loop));
    $('#loop-b').classList.toggle('set', Boolean(loop));
    if (!loop) return;
    const [a, b] = loop.map((sample) => (100 * sample) / samples);
    for (const node of [$('#region'), ...$$('.looped')]) { node.style.left = `${a}%`; node.style.width = `${b - a}%`; }
    [['#grip-a', a, loop[0]], ['#grip-b', b, loop[1]]].forEach(([id, at, sample]) => {
      $(id).style.left = `${at}%`;
      valued($(id), sample / this.about.rate_hz, this.player.duration);
    });
  }

  // A click on the ruler seeks, a drag marks a loop; the loop's ends can be dragged and moved with arrow keys.
  wire() {
    const ruler = $('#ruler');
    const sample = (event) => {
      const box = ruler.getBoundingClientRect();
      return Math.round(Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)) * this.about.samples);
    };
    ruler.addEventListener('pointerdown', (event) => {
      if (event.button || !this.about) return;
      ruler.setPointerCapture(event.pointerId);
      const begun = {x: event.clientX, sample: sample(event)};
      const grip = event.target.closest('.grip');
      const least = LEAST_LOOP_S * this.about.rate_hz;
      let dragged = Boolean(grip);
      const fixed = grip ? this.player.loop[grip.id === 'grip-a' ? 1 : 0] : begun.sample;
      const cap = event.target.closest('.cap');
      const move = (moved) => {
        dragged ||= Math.abs(moved.clientX - begun.x) > DRAG_PX;
        if (!dragged) return;
        if (cap) { this.player.seek(sample(moved) / this.about.rate_hz); return; }
        const loop = [fixed, sample(moved)].sort((a, b) => a - b);
        if (loop[1] - loop[0] >= least) { this.lastLoop = loop; this.player.setLoop(loop); }
      };
      const gesture = new AbortController();
      const stop = () => {
        gesture.abort();
        if (!dragged) this.player.seek(begun.sample / this.about.rate_hz);
        else if (!cap && this.player.loop) this.setLoop(this.player.loop);
      };
      ruler.addEventListener('pointermove', move, {signal: gesture.signal});
      ruler.addEventListener('pointerup', stop, {signal: gesture.signal});
      ruler.addEventListener('pointercancel', () => gesture.abort(), {signal: gesture.signal});
    });
    const keyed = (node, change) => node.addEventListener('keydown', (event) => {
      const step = {ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1}[event.key];
      if (!step || !this.about) return;
      event.preventDefault();
      event.stopPropagation();
      change(step * (event.shiftKey ? 0.1 : 1));
    });
    keyed($('#cap'), (step) => this.player.seek(this.player.position_s + step * 5));
    [0, 1].forEach((end) => keyed($(end ? '#grip-b' : '#grip-a'), (step) => {
      const loop = [...this.player.loop];
      loop[end] = Math.max(0, Math.min(this.about.samples, Math.round(loop[end] + step * this.about.rate_hz)));
      if (loop[1] - loop[0] >= LEAST_LOOP_S * this.about.rate_hz) this.setLoop(loop);
    }));
  }

  drawTicks() {
    const width = $('#ruler').clientWidth;
    const {duration} = this.player;
    if (!width || !duration) return;
    const step = TICKS_S.find((s) => (s / duration) * width > 76) ?? 1800;
    const ticks = [];
    for (let s = 0; s < duration - step / 3; s += step) {
      const left = `${(100 * s) / duration}%`;
      const [label, line] = [el('span', {text: clock(s)}), el('i')];
      label.style.left = line.style.left = left;
      ticks.push(label, line);
    }
    $('#ticks').replaceChildren(...ticks);
  }
}

export function valued(node, seconds, duration) {
  node.setAttribute('aria-valuemin', 0);
  node.setAttribute('aria-valuemax', Math.round(duration));
  node.setAttribute('aria-valuenow', Math.round(seconds));
  node.setAttribute('aria-valuetext', `${spoken(seconds)} of ${spoken(duration)}`);
}
