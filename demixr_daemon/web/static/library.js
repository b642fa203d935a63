// The library as a list: search, filters, tracks or albums, more rows as one scrolls.
import * as api from './api.js';
import {colourOf} from './deck.js';
import {$, $$, clock, cover, el, icon, roam, said} from './dom.js';

const ROWS = 60;
const TYPING_MS = 180;

export class Library extends EventTarget {
  constructor() {
    super();
    this.kind = 'tracks';
    this.rows = [];
    this.canSeparate = false;
    let typing;
    $('#query').addEventListener('input', () => { clearTimeout(typing); typing = setTimeout(() => this.load(), TYPING_MS); });
    $('#query').addEventListener('keydown', (event) => {
      if (event.key !== 'ArrowDown') return;
      event.preventDefault();
      $('#rows button')?.focus();
    });
    roam($('#rows'), '.open, .album');
    document.addEventListener('reach', ({detail}) => { if (detail) this.missed?.(); });
    $('#library .search').addEventListener('submit', (event) => { event.preventDefault(); this.load(); });
    $('#stems').addEventListener('change', () => this.load());
    $('#sort').addEventListener('change', () => this.load());
    for (const button of $$('.segment [data-kind]')) button.addEventListener('click', () => this.show(button.dataset.kind));
    new IntersectionObserver(([entry]) => { if (entry.isIntersecting && this.more) this.load(true); }, {rootMargin: '400px'}).observe($('#more'));
  }

  show(kind) {
    this.kind = kind;
    for (const button of $$('.segment [data-kind]')) button.setAttribute('aria-pressed', button.dataset.kind === kind);
    return this.load();
  }

  async load(further = false) {
    const request = this.request = Symbol('load');
    this.more = false;
    const query = new URLSearchParams({q: $('#query').value, sort: $('#sort').value, stems: $('#stems').value,
      start: further ? this.rows.length : 0, rows: ROWS});
    try {
      const {rows, more} = await api.get(`${this.kind}?${query}`);
      if (request !== this.request) return;
      this.missed = null;
      this.rows = further ? [...this.rows, ...rows] : rows;
      this.more = more;
      const list = $('#rows');
      list.className = this.kind === 'albums' ? 'albums' : 'rows';
      const nodes = rows.map((row) => (this.kind === 'albums' ? this.album(row) : this.track(row)));
      const held = further ? null : document.activeElement?.closest('#rows .row button');
      further ? list.append(...nodes) : list.replaceChildren(...nodes);
      const row = held && $(`.row[data-id="${held.closest('.row').dataset.id}"]`, list);
      if (row) ($$('button', row).find(({title}) => title === held.title) ?? $('.open', row)).focus({preventScroll: true});
      if (!further) $('#library').scrollTop = 0;
      this.notice(this.rows.length ? null : await this.nothing());
      this.mark(this.current);
    } catch (error) {
      if (request !== this.request) return;
      this.missed = error.status === 0 ? () => this.load(further) : null;
      if (further && this.missed) return;
      $('#rows').replaceChildren();
      this.rows = [];
      if (error.status !== 401) this.notice([el('b', {text: error.status === 400 ? 'Not quite a query' : 'Something is wrong'}), ...said(error.message)], true);
    }
  }

  async nothing() {
    if ($('#query').value || $('#stems').value) return [el('b', {text: 'Nothing found'}), 'No track matches. A query can name fields, such as artist:nina or year:1965..1972.'];
    return [el('b', {text: 'Your library is empty'}), 'Import music with beets,', el('code', {class: 'command', text: 'beet import ~/Downloads'}),
      this.canSeparate ? 'or open Work and add a song there.' : 'and it appears here.'];
  }

  notice(content, bad = false) {
    const node = $('#library-notice');
    node.hidden = !content;
    node.classList.toggle('bad', bad);
    if (content) node.replaceChildren(...content);
  }

  track(row) {
    const quiet = (name, label, action) => el('button', {class: 'quiet', 'aria-label': `${label}: ${row.title}`, title: label, onclick: action}, icon(name));
    const stems = row.stems.length ? el('span', {class: 'dots', role: 'img', 'aria-label': `stems: ${row.stems.join(', ')}`},
      ...row.stems.slice(0, 4).map((stem) => { const dot = el('i'); dot.style.setProperty('--c', colourOf(stem)); return dot; })) : null;
    return el('li', {class: 'row', data: {id: row.id}},
      el('button', {class: 'open', onclick: () => this.emit('play', row)}, cover(`tracks/${row.id}`, row.album || row.title),
        el('span', {class: 'names'}, el('b', {text: row.title}), el('small', {text: [row.artist, row.album].filter(Boolean).join(' · ')})),
        el('span', {class: 'meta'}, stems, el('time', {text: clock(row.length)}))),
      el('span', {class: 'acts'}, !row.stems.length && this.canSeparate ? quiet('split', 'Separate', () => this.emit('separate', row)) : null,
        quiet('plus', 'Add to the queue', () => this.emit('enqueue', row))));
  }

  album(row) {
    const stems = row.with_stems === row.tracks ? 'all with stems' : row.with_stems ? `${row.with_stems} with stems` : '';
    return el('li', {}, el('button', {class: 'album', onclick: () => this.open(row)},
      cover(`albums/${row.id}`, row.album, 480),
      el('span', {class: 'names'}, el('b', {text: row.album || 'No album'}), el('small', {text: row.artist}),
        el('small', {text: [`${row.tracks} track${row.tracks === 1 ? '' : 's'}`, stems].filter(Boolean).join(', ')}))));
  }

  open(album) {
    $('#query').value = `album_id:${album.id}`;
    $('#sort').value = 'album';
    return this.show('tracks');
  }

  emit(name, row) { this.dispatchEvent(new CustomEvent(name, {detail: row})); }

  mark(id) {
    this.current = id;
    for (const node of $$('#rows .row')) {
      const current = Number(node.dataset.id) === id;
      node.classList.toggle('current', current);
      $('.open', node).setAttribute('aria-current', current);
    }
  }
}
