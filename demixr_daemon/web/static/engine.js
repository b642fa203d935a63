// The sound itself: blocks of all lanes in, stereo out, 128 samples at a time. Knows no browser: it runs in an AudioWorklet,
// or, where there is none (http from another machine), on the page's own thread.
//
// A block holds the same samples of every lane, interleaved, and one position reads them all: lanes cannot drift.

export const QUANTUM = 128;
const SMOOTHING = 0.3; // of the way to a new fader position, each quantum: 95 % within 25 ms
const SETTLED = 1e-4;
const REPORT_QUANTA = 6; // a report each 17 ms at 44.1 kHz

export class Engine {
  constructor(rate_hz, report) {
    this.rate_hz = rate_hz;
    this.report = report;
    this.stretch = null;
    this.load({lanes: 0, samples: 0, blockSamples: 1, float: false, track: 0});
  }

  // Everything that can be asked; each is a message of this name.
  load({lanes, samples, blockSamples, float, track}) {
    Object.assign(this, {lanes, samples, blockSamples, float, track});
    this.blocks = new Map();
    this.position = 0; // the next sample to be read
    this.serial = 0; // of the last seek that was done
    this.playing = false;
    this.waiting = false;
    this.next = null; // {position} or {pause: true}: done after a quantum that fades out
    this.fadeIn = true;
    this.loop = null;
    this.speed = 1;
    this.semitones = 0;
    this.master = this.masterNow = 1;
    this.wanted = Float32Array.from({length: lanes * 4}, (_, k) => (k % 4 === 0 || k % 4 === 3 ? 1 : 0));
    this.faders = this.wanted.slice();
    this.levels = new Float32Array(lanes);
    this.quanta = 0;
    this.fresh = true;
  }

  block({track, index, content}) {
    if (track !== this.track) return;
    this.blocks.set(index, this.float ? new Float32Array(content) : new Int16Array(content));
  }

  drop({indices}) { for (const index of indices) this.blocks.delete(index); }

  // matrix of a lane: left to left, left to right, right to left, right to right
  fader({lane, matrix}) { this.wanted.set(matrix, lane * 4); }

  volume({gain}) { this.master = gain; }

  play() { this.playing = true; this.fadeIn = true; if (this.next?.pause) this.next = null; }

  pause() { if (this.playing) this.next = {pause: true}; }

  seek({position, serial}) {
    position = Math.max(0, Math.min(Math.round(position), this.samples));
    if (this.playing && !this.waiting) { this.next = {position, serial}; return; }
    this.jump(position);
    this.serial = serial;
  }

  setLoop({loop}) { this.loop = loop && loop[1] - loop[0] >= QUANTUM ? loop : null; }

  tempo({speed, semitones}) {
    const was = this.stretching;
    const heard = this.heard();
    this.speed = speed;
    this.semitones = semitones;
    if (this.stretching !== was) this.jump(Math.round(heard));
    else if (this.stretch) this.stretch.module._setTransposeSemitones(semitones, 8000 / this.rate_hz);
  }

  useStretch(module) {
    module._main();
    module._presetDefault(2, this.rate_hz);
    const input = module._inputLatency(), output = module._outputLatency();
    const room = Math.max(input + 2 * output, 4 * QUANTUM);
    this.stretch = {module, input, output, room, at: module._setBuffers(2, room)};
    this.jump(Math.round(this.position));
  }

  get stretching() { return this.stretch !== null && (this.speed !== 1 || this.semitones !== 0); }

  // What is heard now, in samples of the track; the stretcher looks ahead.
  heard() {
    if (!this.stretching) return this.position;
    const heard = this.position - this.stretch.input - this.stretch.output * this.speed;
    if (this.loop && heard < this.loop[0] && this.looped) return heard + this.loop[1] - this.loop[0];
    return Math.max(0, heard);
  }

  jump(position) {
    this.position = position;
    this.looped = false;
    this.fraction = 0;
    this.fadeIn = true;
    this.fresh = true;
  }

  // Fill both channels, QUANTUM samples each.
  render(left, right) {
    left.fill(0);
    right.fill(0);
    this.levels.fill(0);
    const leaving = this.playing ? this.next : null;
    let heard = false;
    if (this.playing) {
      heard = this.stretching ? this.renderStretched(left, right) : this.renderPlain(left, right);
      this.waiting = !heard && this.position < this.samples;
    }
    if (!heard) this.faders.set(this.wanted);
    this.applyMaster(left, right, heard);
    if (heard && this.fadeIn) { ramp(left, right, 0, 1); this.fadeIn = false; }
    if (leaving) {
      ramp(left, right, 1, 0);
      this.next = null;
      if (leaving.pause) { const at = this.heard(); this.playing = false; this.jump(Math.round(at)); } else { this.jump(leaving.position); this.serial = leaving.serial; }
    }
    const ended = this.playing && this.heard() >= this.samples;
    if (ended) this.playing = false;
    const news = this.playing !== this.told;
    if (news || (this.playing && ++this.quanta % REPORT_QUANTA === 0)) this.tell(ended);
  }

  tell(ended = false) {
    this.told = this.playing;
    this.report({track: this.track, serial: this.serial, position: this.heard(), reading: this.position, playing: this.playing, ended,
      waiting: this.playing && this.waiting, levels: Array.from(this.levels)});
  }

  renderPlain(left, right) {
    if (!this.has(this.position, QUANTUM)) return false;
    this.mix(left, right, QUANTUM);
    return true;
  }

  renderStretched(left, right) {
    const {module, room, at, input, output} = this.stretch;
    const channel = (k) => new Float32Array((module.exports ? module.exports.memory : module.HEAP8).buffer, at + 4 * k * room, room);
    if (this.fresh) {
      // what comes out first is what lies at the position: the stretcher is given what lies around it
      const from = Math.round(this.position - output * this.speed);
      const to = Math.round(this.position + input + output * this.speed);
      const samples = Math.min(room, to - from);
      if (!this.has(Math.max(0, from), samples)) return false;
      module._reset();
      module._setTransposeSemitones(this.semitones, 8000 / this.rate_hz);
      const a = new Float32Array(samples), b = new Float32Array(samples);
      const skip = Math.max(0, -from);
      const loop = this.loop;
      this.loop = null;
      this.position = Math.max(0, to - samples + skip);
      this.mix(a.subarray(skip), b.subarray(skip), samples - skip);
      this.loop = loop;
      channel(0).set(a);
      channel(1).set(b);
      module._seek(samples, this.speed);
      this.fresh = false;
    }
    const exact = this.fraction + QUANTUM * this.speed;
    const samples = Math.floor(exact);
    if (!this.has(this.position, samples)) return false;
    this.fraction = exact - samples;
    const a = new Float32Array(samples), b = new Float32Array(samples);
    this.mix(a, b, samples);
    channel(0).set(a);
    channel(1).set(b);
    module._process(samples, QUANTUM);
    left.set(channel(2).subarray(0, QUANTUM));
    right.set(channel(3).subarray(0, QUANTUM));
    return true;
  }

  // Whether all blocks of the next samples are here; beyond the end there is nothing to be had.
  has(position, samples) {
    while (samples > 0 && position < this.samples) {
      const index = Math.floor(position / this.blockSamples);
      if (!this.blocks.has(index)) return false;
      const end = this.end(position, (index + 1) * this.blockSamples);
      samples -= end - position;
      position = this.loop && end === this.loop[1] ? this.loop[0] : end;
    }
    return true;
  }

  end(position, end) { return this.loop && position < this.loop[1] && this.loop[1] <= end ? this.loop[1] : end; }

  // Read `samples` from the position on through the faders, round the loop, and move on.
  mix(left, right, samples) {
    const {lanes, faders, wanted} = this;
    const from = faders.slice();
    for (let k = 0; k < faders.length; k++) {
      const step = (wanted[k] - faders[k]) * SMOOTHING;
      faders[k] = Math.abs(wanted[k] - faders[k]) < SETTLED ? wanted[k] : faders[k] + step;
    }
    const scale = this.float ? 1 : 1 / 32768;
    let done = 0;
    while (done < samples) {
      const index = Math.floor(this.position / this.blockSamples);
      const limit = this.position < this.samples ? this.end(this.position, (index + 1) * this.blockSamples) : this.position + samples;
      const count = Math.min(samples - done, limit - this.position);
      const content = this.blocks.get(index);
      if (content) {
        const first = (this.position - index * this.blockSamples) * lanes * 2;
        for (let lane = 0; lane < lanes; lane++) {
          const k = lane * 4;
          const [ll, lr, rl, rr] = [from[k], from[k + 1], from[k + 2], from[k + 3]];
          const [dll, dlr, drl, drr] = [0, 1, 2, 3].map((c) => (faders[k + c] - from[k + c]) / samples);
          let level = 0;
          for (let i = 0, at = first + lane * 2; i < count; i++, at += lanes * 2) {
            const l = content[at] * scale, r = content[at + 1] * scale, t = done + i + 1;
            const toLeft = l * (ll + dll * t) + r * (rl + drl * t);
            const toRight = l * (lr + dlr * t) + r * (rr + drr * t);
            left[done + i] += toLeft;
            right[done + i] += toRight;
            level = Math.max(level, Math.abs(toLeft), Math.abs(toRight));
          }
          this.levels[lane] = Math.max(this.levels[lane], level);
        }
      }
      done += count;
      this.position += count;
      if (this.loop && this.position === this.loop[1]) { this.position = this.loop[0]; this.looped = true; }
    }
  }

  applyMaster(left, right, heard) {
    const from = this.masterNow;
    const to = !heard || Math.abs(this.master - from) < SETTLED ? this.master : from + (this.master - from) * SMOOTHING;
    this.masterNow = to;
    if (from === 1 && to === 1) return;
    for (let i = 0; i < left.length; i++) {
      const gain = from + ((to - from) * (i + 1)) / left.length;
      left[i] *= gain;
      right[i] *= gain;
    }
  }
}

function ramp(left, right, from, to) {
  for (let i = 0; i < left.length; i++) {
    const gain = from + ((to - from) * (i + 0.5)) / left.length;
    left[i] *= gain;
    right[i] *= gain;
  }
}
