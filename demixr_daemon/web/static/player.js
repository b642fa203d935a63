// Plays a track: fetches the blocks around the position, feeds the engine, tells listeners what is going on.
// Memory does not grow with the track: a few seconds behind, some ahead, and what a loop needs first.
import * as api from './api.js';

const AHEAD_S = 10, BEHIND_S = 2, AT_ONCE = 3;
const FALLBACK_SAMPLES = 2048;
const REST_MS = 10000; // then the sound card may sleep
const RETRY_MS = [300, 1000, 3000];

export class Player extends EventTarget {
  constructor() {
    super();
    this.about = null;
    this.state = {position: 0, playing: false, waiting: false, levels: []};
    this.speed = 1;
    this.semitones = 0;
    this.gain = 1;
    this.loop = null;
    this.generation = 0;
    this.blocks = new Set();
    this.fetching = new Map();
    this.loading = null;
    this.tell = () => {};
    document.addEventListener('reach', () => this.fill());
  }

  get duration() { return this.about ? this.about.samples / this.about.rate_hz : 0; }
  get position_s() { return this.about ? this.state.position / this.about.rate_hz : 0; }

  emit(name, detail) { this.dispatchEvent(new CustomEvent(name, {detail})); }

  // Make a track the one that is played; resolves when it can be.
  load(about) {
    this.loading = this.change(about);
    return this.loading;
  }

  async change(about) {
    const generation = ++this.generation;
    this.tell('pause');
    for (const {controller} of this.fetching.values()) controller.abort();
    this.fetching.clear();
    this.blocks.clear();
    await this.prepare(about.rate_hz);
    if (generation !== this.generation) return; // another one was chosen meanwhile
    this.about = about;
    this.serial = 0;
    this.loop = null;
    this.speed = 1;
    this.semitones = 0;
    this.state = {position: 0, reading: 0, playing: false, waiting: false, levels: about.lanes.map(() => 0)};
    this.tell('load', {lanes: about.lanes.length, samples: about.samples, blockSamples: about.block_samples,
      float: about.float, track: generation});
    this.tell('volume', {gain: this.gain});
    this.emit('state', this.state);
    this.fill();
  }

  // An AudioContext at the track's own rate: what is heard is not resampled by us.
  async prepare(rate_hz) {
    if (this.context && this.context.sampleRate === rate_hz && this.context.state !== 'closed') return;
    await this.context?.close();
    this.stretchLoaded = null;
    this.context = new AudioContext({sampleRate: rate_hz, latencyHint: 'balanced'});
    if (this.context.audioWorklet) {
      await this.context.audioWorklet.addModule(new URL('worklet.js', import.meta.url));
      const node = new AudioWorkletNode(this.context, 'demixr', {numberOfInputs: 0, outputChannelCount: [2]});
      node.port.onmessage = ({data}) => this.heard(data);
      this.node = node;
      this.tell = (name, content = {}, transfer = []) => node.port.postMessage({name, ...content}, transfer);
    } else await this.prepareFallback(rate_hz);
    this.node.connect(this.context.destination);
  }

  // Browsers keep AudioWorklet from pages that came by http from another machine.
  async prepareFallback(rate_hz) {
    const {Engine, QUANTUM} = await import('./engine.js');
    const engine = new Engine(rate_hz, (report) => queueMicrotask(() => this.heard(report)));
    const node = this.context.createScriptProcessor(FALLBACK_SAMPLES, 0, 2);
    node.onaudioprocess = ({outputBuffer}) => {
      const [left, right] = [outputBuffer.getChannelData(0), outputBuffer.getChannelData(1)];
      for (let at = 0; at < left.length; at += QUANTUM) engine.render(left.subarray(at, at + QUANTUM), right.subarray(at, at + QUANTUM));
    };
    this.node = node;
    this.tell = (name, content = {}) => {
      if (name === 'useStretch') globalThis.SignalsmithStretch().then((module) => { engine.useStretch(module); this.heard({stretch: true}); });
      else engine[name](content);
    };
  }

  heard(report) {
    if (report.stretch) { this.stretchReady?.(); return; }
    if (report.track !== this.generation) return;
    if (report.serial !== this.serial) Object.assign(report, {position: this.state.position, reading: this.state.reading});
    this.state = report;
    this.emit('state', report);
    if (report.ended) this.emit('ended');
    this.fill();
  }

  async play() {
    await this.loading;
    if (!this.about) return;
    if (this.state.position >= this.about.samples - 1) this.seek(0);
    clearTimeout(this.rest);
    await this.context.resume();
    this.tell('play');
    this.state.playing = true;
    this.emit('state', this.state);
  }

  pause() {
    if (!this.about) return;
    this.tell('pause');
    this.state.playing = false;
    clearTimeout(this.rest);
    this.rest = setTimeout(() => this.context.suspend(), REST_MS);
    this.emit('state', this.state);
  }

  toggle() { return this.state.playing ? this.pause() : this.play(); }

  seek(seconds) {
    if (!this.about) return;
    const position = Math.max(0, Math.min(Math.round(seconds * this.about.rate_hz), this.about.samples - 1));
    this.tell('seek', {position, serial: ++this.serial});
    Object.assign(this.state, {position, reading: position});
    this.fill();
    this.emit('state', this.state);
  }

  // Samples [first, end), or null.
  setLoop(loop) {
    this.loop = loop;
    this.tell('setLoop', {loop});
    this.fill();
    this.emit('loop', loop);
  }

  setVolume(gain) { this.gain = gain; if (this.about) this.tell('volume', {gain}); }

  setFader(lane, matrix) { this.tell('fader', {lane, matrix}); }

  async setTempo(speed, semitones) {
    this.speed = speed;
    this.semitones = semitones;
    if (!this.about) return;
    if (speed !== 1 || semitones !== 0) await (this.stretchLoaded ??= this.loadStretch());
    this.tell('tempo', {speed: this.speed, semitones: this.semitones});
  }

  async loadStretch() {
    const url = new URL('vendor/signalsmith-stretch.js', import.meta.url);
    const ready = new Promise((resolve) => { this.stretchReady = resolve; });
    if (this.context.audioWorklet) await this.context.audioWorklet.addModule(url);
    else await import(url);
    this.tell('useStretch');
    await ready;
  }

  // The blocks that should be here, the most urgent first.
  desired() {
    const {block_samples, rate_hz, samples} = this.about;
    const size = block_samples / rate_hz;
    const last = Math.ceil(samples / block_samples) - 1;
    const now = Math.min(last, Math.floor(this.state.reading / block_samples));
    const ahead = Math.ceil((AHEAD_S * Math.max(1, this.speed)) / size);
    const wanted = [];
    let index = now;
    for (let k = 0; k <= ahead; k++) {
      wanted.push(index);
      const looping = this.loop && this.state.reading < this.loop[1];
      index = looping && index >= Math.floor((this.loop[1] - 1) / block_samples) ? Math.floor(this.loop[0] / block_samples) : index + 1;
      if (index > last || wanted.includes(index)) break;
    }
    const behind = Math.ceil(BEHIND_S / size);
    for (let k = 1; k <= behind; k++) if (now - k >= 0) wanted.push(now - k);
    return [...new Set(wanted)];
  }

  fill() {
    if (!this.about) return;
    const wanted = this.desired();
    const gone = [...this.blocks].filter((index) => !wanted.includes(index));
    if (gone.length) {
      this.tell('drop', {indices: gone});
      for (const index of gone) this.blocks.delete(index);
    }
    for (const [index, {controller}] of this.fetching) if (!wanted.includes(index)) controller.abort();
    for (const index of wanted) {
      if (this.fetching.size >= AT_ONCE) return;
      if (!this.blocks.has(index) && !this.fetching.has(index)) this.fetch(index);
    }
  }

  async fetch(index) {
    const {about, generation} = this;
    const controller = new AbortController();
    const entry = {controller};
    this.fetching.set(index, entry);
    try {
      const content = await this.tried(`tracks/${about.id}/audio/${about.version}/${index}`, controller.signal);
      if (generation !== this.generation) return;
      this.blocks.add(index);
      this.tell('block', {track: generation, index, content}, [content]);
    } catch (error) {
      // a server that is gone may come back: what is here plays on, and the rest is asked for again
      if (error.name !== 'AbortError' && error.status !== 0 && generation === this.generation) { this.pause(); this.emit('error', error); return; }
    } finally {
      if (this.fetching.get(index) === entry) this.fetching.delete(index);
    }
    if (generation === this.generation) this.fill();
  }

  async tried(path, signal) {
    for (const pause of [...RETRY_MS, null]) {
      try { return await api.bytes(path, {signal}); } catch (error) {
        if (pause === null || error.name === 'AbortError' || ![0, 503].includes(error.status)) throw error;
        await new Promise((resolve) => { setTimeout(resolve, pause); });
        signal.throwIfAborted();
      }
    }
    throw new Error('unreachable');
  }
}
