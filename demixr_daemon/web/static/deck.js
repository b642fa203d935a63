// The player as it is seen: lanes with their faders, the ruler with its loop, the transport.
import * as api from './api.js';
import {$, $$, clock, cover, el, hue, icon, toast} from './dom.js';
import {Mix, remember, remembered} from './mix.js';
import {Ruler, valued} from './ruler.js';
import {Waveforms} from './waveform.js';

const NAMES = {vocals: 'Vocals', drums: 'Drums', bass: 'Bass', other: 'Other', mix: 'Track'};
const title = (lane) => NAMES[lane] ?? lane;
const SLOP_PX = 8;
const ICONS = ['vocals', 'drums', 'bass', 'other', 'mix'];

export const colourOf = (lane) => `var(--${ICONS.includes(lane) ? lane : 'other'})`;

export class Deck {
  constructor(player) {
    this.player = player;
    this.waveforms = new Waveforms();
    this.ruler = new Ruler(player);
    this.levels = [];
    player.addEventListener('state', () => this.moved());
    player.addEventListener('error', ({detail}) => this.broken(detail));
    this.wireTransport();
  }

  // Show a track and make it ready to play; `settings`: {mix, speed, key, loop} of a link, or nothing.
  async open(id, settings = {}, at = 0) {
    const request = this.request = Symbol('open');
    let about;
    try { about = await api.get(`tracks/${id}`); } catch (error) { if (request === this.request) throw error; }
    if (request !== this.request) return false;
    this.about = about;
    this.mix = new Mix(about.lanes);
    this.mix.read(settings.mix || remembered(about.id));
    this.build();
    await this.player.load(about);
    if (request !== this.request) return false;
    $('#total').textContent = clock(this.player.duration);
    this.applyMix();
    if (at) this.player.seek(at);
    const limit = (sample) => Math.max(0, Math.min(about.samples, sample));
    this.ruler.begin(settings.loop?.map(limit));
    await this.setTempo(settings.speed || 1, settings.key || 0);
    $('#elapsed').textContent = ''; // said anew, with the new length
    this.moved();
    this.waveforms.show(about, $$('.lane').map((lane) => $$('canvas', lane)), (lane) => getComputedStyle($$('.lane')[lane]).getPropertyValue('--c'));
    return true;
  }

  build() {
    const {about} = this;
    const by = [about.artist, about.album, about.year || null].filter(Boolean).join(' · ');
    $('#hero').hidden = true;
    $('#stage').hidden = false;
    $('#now-title').textContent = about.title;
    $('#now-artist').textContent = by;
    $('#mini-title').textContent = about.title;
    $('#mini-artist').textContent = about.artist;
    $('#now-cover').replaceChildren(cover(`tracks/${about.id}`, about.album || about.title, 480));
    $('#mini-cover').replaceChildren(cover(`tracks/${about.id}`, about.album || about.title));
    $('#deck').style.setProperty('--glow', hue(about.album || about.title));
    document.title = `${about.title} – ${about.artist || 'Demixr'}`;
    $('#lane-list').replaceChildren(...about.lanes.map((lane, k) => this.lane(lane, k)));
    this.meters = $$('.meter');
    this.buildPresets();
    this.buildDownloads();
  }

  lane(name, k) {
    const set = this.mix.set[name];
    const alone = this.about.lanes.length === 1;
    const range = (kind, label, min, max, value, says) => {
      const input = el('input', {type: 'range', class: kind, min, max, value, 'aria-label': `${title(name)} ${label}`, title: label});
      const shown = () => { fillRange(input); input.setAttribute('aria-valuetext', says(Number(input.value))); };
      input.addEventListener('input', () => { set_(Number(input.value)); shown(); });
      input.addEventListener('dblclick', () => { input.value = kind === 'pan' ? 0 : 100; input.dispatchEvent(new Event('input')); });
      const set_ = (v) => { this.mix.set[name][kind] = v / 100; this.mixChanged(false); };
      shown();
      return input;
    };
    const button = (kind, letter, label) => el('button', {class: kind, text: letter, 'aria-label': `${label} ${title(name)}`,
      'aria-pressed': 'false', title: `${label} (${kind === 's' ? 'shift ' : ''}${k + 1})`, onclick: () => this.toggle(k, kind === 's')});
    const node = el('section', {class: `lane${alone ? ' alone' : ''}`, data: {lane: name}, 'aria-label': title(name)},
      el('div', {class: 'head'}, el('div', {class: 'meter'}),
        el('h3', {}, icon(ICONS.includes(name) ? name : 'other'), title(name)),
        alone ? el('span') : el('div', {class: 'ms'}, button('m', 'M', 'Mute'), button('s', 'S', 'Solo')),
        el('div', {class: 'faders'},
          range('volume', 'volume', 0, 150, Math.round(set.volume * 100), (v) => `${v} percent`),
          range('pan', 'pan', -100, 100, Math.round(set.pan * 100), (v) => (v ? `${Math.abs(v)} percent ${v < 0 ? 'left' : 'right'}` : 'centre')))),
      el('div', {class: 'wave'}, el('canvas', {class: 'dim', 'aria-hidden': 'true'}), el('canvas', {class: 'lit', 'aria-hidden': 'true'}), el('div', {class: 'looped', hidden: true})));
    node.style.setProperty('--c', colourOf(name));
    this.wireScrub($('.wave', node));
    return node;
  }

  buildPresets() {
    const {lanes} = this.about;
    const presets = lanes.includes('vocals') && lanes.length > 1 ? [
      ['Everything', lanes], ['No vocals', lanes.filter((lane) => lane !== 'vocals')], ['Vocals only', ['vocals']],
      ...(lanes.includes('drums') && lanes.includes('bass') ? [['Drums and bass', ['drums', 'bass']], ['No drums', lanes.filter((lane) => lane !== 'drums')]] : []),
    ] : [];
    $('#presets').hidden = !presets.length;
    $('#presets').replaceChildren(...presets.map(([name, wanted]) => {
      const button = el('button', {text: name, 'aria-pressed': 'false', onclick: () => { this.mix.only(wanted); this.mixChanged(); }});
      button.heard = wanted;
      return button;
    }));
  }

  buildDownloads() {
    const {about} = this;
    const link = (path, name, note, symbol, colour) => {
      const a = el('a', {href: api.address(`tracks/${about.id}/download/${path}`), download: ''}, icon(symbol), name, note && el('small', {text: note}));
      if (colour) a.style.setProperty('--c', colour);
      return a;
    };
    const stems = about.lanes.filter((lane) => lane !== 'mix');
    const without = new URLSearchParams([['vocals', '0,0'], ['name', 'instrumental']]);
    this.mixLink = link('mix', 'This mix, as set', 'WAV', 'mix');
    $('#download-list').replaceChildren(...[
      ...stems.map((lane) => link(`stems/${lane}`, title(lane), '', ICONS.includes(lane) ? lane : 'other', colourOf(lane))),
      stems.length && el('hr'),
      stems.length > 1 && link('set', 'All stems', 'ZIP', 'split'),
      about.derived.includes('instrumental') ? link('stems/instrumental', 'Instrumental', '', 'other')
        : stems.includes('vocals') && stems.length > 1 && link(`mix?${without}`, 'Instrumental', 'WAV', 'other'),
      stems.length ? this.mixLink : link('stems/mix', 'The track', '', 'mix'),
    ].filter(Boolean));
  }

  toggle(k, solo) {
    const lane = this.about?.lanes[k];
    if (!lane || this.about.lanes.length < 2) return;
    const set = this.mix.set[lane];
    if (solo) set.solo = !set.solo; else set.mute = !set.mute;
    this.mixChanged();
  }

  resetMix() { if (this.mix) { this.mix.reset(); this.mixChanged(); } }

  mixChanged(everything = true) {
    remember(this.about.id, this.mix.untouched ? '' : this.mix.toString());
    this.applyMix(everything);
  }

  applyMix(everything = true) {
    this.about.lanes.forEach((lane, k) => {
      const set = this.mix.set[lane];
      this.player.setFader(k, this.mix.matrix(lane));
      const node = $$('.lane')[k];
      node.classList.toggle('silent', !this.mix.audible(lane));
      $('.m', node)?.setAttribute('aria-pressed', set.mute);
      $('.s', node)?.setAttribute('aria-pressed', set.solo);
      if (!everything) return;
      for (const kind of ['volume', 'pan']) {
        const input = $(`input.${kind}`, node);
        input.value = Math.round(set[kind] * 100);
        fillRange(input);
      }
    });
    for (const button of $$('#presets button')) button.setAttribute('aria-pressed', this.mix.hears(button.heard));
    this.mixLink.href = api.address(`tracks/${this.about.id}/download/mix?${this.mix.toQuery()}`);
  }

  // What a link says of all this.
  link() {
    const {loop, speed, semitones} = this.player;
    const parts = new URLSearchParams({track: this.about.id});
    if (!this.mix.untouched) parts.set('mix', this.mix.toString());
    if (loop) parts.set('loop', loop.join('-'));
    if (speed !== 1) parts.set('speed', speed);
    if (semitones) parts.set('key', semitones);
    return `#${parts}`;
  }

  async setTempo(speed, key) {
    $('#speed').value = speed;
    $('#key').value = key;
    const [speedText, keyText] = [`${speed.toFixed(2)}×`, `${key > 0 ? '+' : key < 0 ? '−' : ''}${Math.abs(key)}`];
    $('#speed-text').textContent = speedText;
    $('#key-text').textContent = keyText;
    $('#tempo-text').textContent = key ? `${speedText}  ${keyText}` : speedText;
    $('#tempo').classList.toggle('changed', speed !== 1 || key !== 0);
    for (const input of [$('#speed'), $('#key')]) fillRange(input);
    try { await this.player.setTempo(speed, key); } catch (error) { toast(`speed and key cannot be changed here: ${error.message}`, 'bad'); }
  }

  wireTransport() {
    const {player} = this;
    $('#play').addEventListener('click', () => (player.loading ? player.toggle() : document.dispatchEvent(new CustomEvent('play-first'))));
    const tempo = () => this.setTempo(Number($('#speed').value), Number($('#key').value));
    $('#speed').addEventListener('input', tempo);
    $('#key').addEventListener('input', tempo);
    $('#tempo-reset').addEventListener('click', () => this.setTempo(1, 0));
    $('#volume').addEventListener('input', () => this.setVolume(Number($('#volume').value)));
    $('#loop-a').addEventListener('click', () => this.ruler.mark(0));
    $('#loop-b').addEventListener('click', () => this.ruler.mark(1));
    $('#loop-off').addEventListener('click', () => this.ruler.toggleLoop());
    for (const input of $$('#transport input[type=range]')) fillRange(input);
  }

  setVolume(percent) {
    const value = Math.max(0, Math.min(100, percent));
    $('#volume').value = value;
    fillRange($('#volume'));
    this.player.setVolume((value / 100) ** 2);
  }

  // Seek with a click or a drag on any waveform. A finger that lands there may be about to scroll: it seeks when it is lifted,
  // or has moved sideways.
  wireScrub(node) {
    const there = (event) => {
      const box = node.getBoundingClientRect();
      this.player.seek(Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)) * this.player.duration);
    };
    node.addEventListener('pointerdown', (event) => {
      if (event.button) return;
      node.setPointerCapture(event.pointerId);
      let scrubbing = event.pointerType !== 'touch';
      if (scrubbing) there(event);
      const gesture = new AbortController();
      node.addEventListener('pointermove', (moved) => {
        scrubbing ||= Math.abs(moved.clientX - event.clientX) > SLOP_PX;
        if (scrubbing) there(moved);
      }, {signal: gesture.signal});
      node.addEventListener('pointerup', (lifted) => { gesture.abort(); if (!scrubbing) there(lifted); }, {signal: gesture.signal});
      node.addEventListener('pointercancel', () => gesture.abort(), {signal: gesture.signal});
    });
  }

  moved() {
    const {state} = this.player;
    if (!this.about) return;
    $('#lanes').style.setProperty('--at', this.about.samples ? (state.position / this.about.samples).toFixed(5) : 0);
    $('#lanes').classList.toggle('waiting', state.waiting);
    const shown = clock(this.player.position_s);
    if ($('#elapsed').textContent !== shown) {
      $('#elapsed').textContent = shown;
      valued($('#cap'), this.player.position_s, this.player.duration);
    }
    if (this.shownPlaying !== state.playing) {
      this.shownPlaying = state.playing;
      $('#play').setAttribute('aria-label', state.playing ? 'Pause' : 'Play');
      $('#play').replaceChildren(icon(state.playing ? 'pause' : 'play'));
      document.body.classList.toggle('playing', state.playing);
    }
    this.meters?.forEach((meter, k) => {
      const level = state.playing ? Math.min(1, state.levels?.[k] || 0) ** 0.6 : 0;
      this.levels[k] = state.playing ? Math.max(level, (this.levels[k] || 0) * 0.86) : 0;
      meter.style.setProperty('--level', this.levels[k].toFixed(3));
    });
  }

  broken(error) {
    toast(error.message, 'bad');
    if (error.status === 409) document.dispatchEvent(new CustomEvent('reopen'));
  }
}

function fillRange(input) {
  const [min, max] = [Number(input.min), Number(input.max)];
  input.style.setProperty('--v', `${(100 * (input.value - min)) / (max - min)}%`);
}
