// What the faders say: volume, pan, mute and solo of every lane; as text for links, and remembered for each track.

const UNTOUCHED = {volume: 1, pan: 0, mute: false, solo: false};

export class Mix {
  constructor(lanes) {
    this.lanes = lanes;
    this.set = Object.fromEntries(lanes.map((lane) => [lane, {...UNTOUCHED}]));
  }

  reset() { for (const lane of this.lanes) this.set[lane] = {...UNTOUCHED}; }

  get soloing() { return this.lanes.some((lane) => this.set[lane].solo); }

  audible(lane) { return this.soloing ? this.set[lane].solo : !this.set[lane].mute; }

  gain(lane) { return this.audible(lane) ? this.set[lane].volume : 0; }

  get untouched() {
    return this.lanes.every((lane) => Object.keys(UNTOUCHED).every((name) => this.set[lane][name] === UNTOUCHED[name]));
  }

  // Hear only these lanes, and touch nothing but mutes and solos.
  only(lanes) {
    for (const lane of this.lanes) Object.assign(this.set[lane], {solo: false, mute: !lanes.includes(lane)});
  }

  hears(lanes) { return this.lanes.every((lane) => this.audible(lane) === lanes.includes(lane)); }

  // Left to left, left to right, right to left, right to right: as a StereoPannerNode does it.
  matrix(lane) {
    const {pan} = this.set[lane];
    const gain = this.gain(lane);
    const angle = ((pan <= 0 ? pan + 1 : pan) * Math.PI) / 2;
    const near = Math.cos(angle), far = Math.sin(angle);
    return (pan <= 0 ? [1, 0, near, far] : [near, far, 0, 1]).map((part) => part * gain);
  }

  // vocals.80.-20.m~drums.100.0: percent, percent, m and s
  toString() {
    return this.lanes.map((lane) => {
      const {volume, pan, mute, solo} = this.set[lane];
      const marks = `${mute ? 'm' : ''}${solo ? 's' : ''}`;
      return `${lane}.${Math.round(volume * 100)}.${Math.round(pan * 100)}${marks ? `.${marks}` : ''}`;
    }).join('~');
  }

  read(text) {
    for (const part of (text || '').split('~')) {
      const [lane, volume, pan, marks = ''] = part.split('.');
      if (!this.lanes.includes(lane) || !/^\d{1,3}$/.test(volume) || !/^-?\d{1,3}$/.test(pan)) continue;
      this.set[lane] = {volume: Math.min(2, volume / 100), pan: Math.max(-1, Math.min(1, pan / 100)),
        mute: marks.includes('m'), solo: marks.includes('s')};
    }
  }

  // The same for the server, which makes a file of it.
  toQuery() {
    return new URLSearchParams(this.lanes.map((lane) => [lane, `${this.gain(lane).toFixed(3)},${this.set[lane].pan.toFixed(2)}`]));
  }
}

const key = (track) => `demixr.mix.${track}`;

export function remember(track, text) {
  try { text ? localStorage.setItem(key(track), text) : localStorage.removeItem(key(track)); } catch { /* private windows */ }
}

export function remembered(track) {
  try { return localStorage.getItem(key(track)) || ''; } catch { return ''; }
}
