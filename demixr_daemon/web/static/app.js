// The page put together: views, queue, keyboard, links, theme, token.
import * as api from './api.js';
import {Deck} from './deck.js';
import {$, $$, clock, cover, el, icon, roam, said, toast} from './dom.js';
import {drawHero, refuse, refused} from './hero.js';
import {shutPop, wireKeys} from './keys.js';
import {Library} from './library.js';
import {Player} from './player.js';
import {Work, bar, reason, says} from './work.js';

const THEMES = ['auto', 'light', 'dark'];
const player = new Player();
const deck = new Deck(player);
const library = new Library();
const work = new Work();
let state = {models: [], work: false};
let queue = [];
let listed = []; // the queue as it was shown last
let current = null;

// ---- theme

const bright = matchMedia('(prefers-color-scheme: light)');

function applyTheme() {
  const chosen = localStorage.getItem('demixr.theme') || 'auto';
  document.documentElement.dataset.theme = chosen === 'auto' ? (bright.matches ? 'light' : 'dark') : chosen;
  $('#theme').setAttribute('aria-label', `Colours: ${chosen === 'auto' ? 'as the system' : chosen}`);
  $('#theme').title = $('#theme').getAttribute('aria-label');
  deck.waveforms.draw();
}
bright.addEventListener('change', applyTheme);
$('#theme').addEventListener('click', () => {
  const chosen = localStorage.getItem('demixr.theme') || 'auto';
  localStorage.setItem('demixr.theme', THEMES[(THEMES.indexOf(chosen) + 1) % 3]);
  applyTheme();
});

// ---- views

const tabs = $$('[role=tab]');

function showTab(name) {
  for (const tab of tabs) {
    const shown = tab.id === `tab-${name}`;
    tab.setAttribute('aria-selected', shown);
    tab.tabIndex = shown ? 0 : -1;
    $(`#${tab.id.slice(4)}`).hidden = !shown;
  }
}
for (const tab of tabs) {
  tab.addEventListener('click', () => showTab(tab.id.slice(4)));
  tab.addEventListener('keydown', (event) => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return;
    event.stopPropagation();
    const shown = tabs.filter((other) => !other.hidden);
    const next = shown[(shown.indexOf(tab) + step + shown.length) % shown.length];
    showTab(next.id.slice(4));
    next.focus();
  });
}

const narrow = matchMedia('(max-width: 899px)');

// On a phone the player covers the library, and the way back is also the browser's own.
function openDeck(open) {
  const shows = open && (deck.about !== undefined || refused());
  if (shows === document.body.classList.contains('deck-open')) return;
  document.body.classList.toggle('deck-open', shows);
  if (!narrow.matches) return;
  if (shows && !history.state?.deck) {
    history.replaceState({library: true}, '');
    history.pushState({deck: true}, '');
  }
  (shows ? $('#deck') : $('#mini')).focus({preventScroll: true});
}
function shutDeck() { narrow.matches && history.state?.deck ? history.back() : openDeck(false); }
addEventListener('popstate', () => {
  const {library: back, deck: ahead} = history.state ?? {}; // neither: a link was followed
  if (back && current !== null) history.replaceState(history.state, '', `#track=${current}`);
  if (back || ahead) openDeck(Boolean(ahead));
});
$('#mini').addEventListener('click', () => (narrow.matches ? openDeck(true) : $('#deck').focus()));
$('#shut').addEventListener('click', shutDeck);
$('#hero-shut').addEventListener('click', shutDeck);

// ---- playing

// `open`: the user chose this track, and sees it; what follows by itself leaves a phone where it is.
async function play(id, {settings = {}, start = true, at = 0, open = false, failed} = {}) {
  try {
    if (!(await deck.open(id, settings, at))) return false;
    current = id;
    library.mark(id);
    if (open) openDeck(true);
    showCallout();
    showQueue();
    if (start) { history.replaceState(history.state, '', `#track=${id}`); await player.play(); }
    return true;
  } catch (error) {
    if (deck.about) toast(error.message, 'bad');
    else { refuse(error.message); if (open) openDeck(true); }
    failed?.(error);
    return false;
  }
}

library.addEventListener('play', ({detail}) => {
  const at = library.rows.findIndex((row) => row.id === detail.id);
  queue = library.rows.slice(at + 1);
  played = library.rows.slice(0, at);
  playing = detail;
  play(detail.id, {open: true});
});
library.addEventListener('enqueue', ({detail}) => { queue = [detail, ...queue]; showQueue(); toast(`Next: ${detail.title}`); });
library.addEventListener('separate', async ({detail}) => { if (await work.separate(detail.id)) toast(`Separating ${detail.title}`); });

const UNPLAYABLE = [404, 422], MOST_FAILURES = 3;
let played = [];
let playing = null;

// What cannot be played is passed over, a few times; if the server is gone, the queue waits for it, and goes on unless somebody
// has chosen otherwise meanwhile.
function next(failures = 0) {
  if (!queue.length) return;
  const before = playing;
  if (before) played.push(before);
  playing = queue.shift();
  showQueue();
  play(playing.id, {failed: ({status}) => {
    if (UNPLAYABLE.includes(status) && failures + 1 < MOST_FAILURES) next(failures + 1);
    if (status !== 0) return;
    queue.unshift(playing);
    if (before) played.pop();
    playing = before;
    showQueue();
    const {request} = deck;
    document.addEventListener('reach', () => { if (request === deck.request && !player.state.playing) next(); }, {once: true});
  }});
}
function previous() {
  if (player.position_s > 3 || !played.length) { player.seek(0); return; }
  if (playing) queue.unshift(playing);
  playing = played.pop();
  play(playing.id);
}
$('#next').addEventListener('click', () => next());
$('#previous').addEventListener('click', previous);
player.addEventListener('ended', () => next());
document.addEventListener('play-first', () => $('#rows .open')?.click());
document.addEventListener('reopen', () => reopen(false));

// The track that is shown, from new files: as it is heard now.
function reopen(start) {
  const {speed, semitones: key, loop, position_s: at} = player;
  return play(current, {settings: {speed, key, loop}, at, start});
}

// The focus stays on its row, or goes to what follows it.
function showQueue() {
  const list = $('#queue-rows');
  const focused = list.contains(document.activeElement) && document.activeElement;
  const kind = focused && (focused.matches('.open') ? '.open' : '.quiet');
  const was = focused && $$(kind, list).indexOf(focused);
  const place = queue.length - listed.length + was; // what comes and goes does so before it
  const held = queue[place] === listed[was] ? place : place + 1;
  listed = [...queue];
  $('#queue-count').hidden = !queue.length;
  $('#queue-count').textContent = queue.length;
  $('#queue-notice').hidden = queue.length > 0;
  list.replaceChildren(...queue.slice(0, 200).map((row, k) => el('li', {class: 'row'},
    el('button', {class: 'open', onclick: () => jump(k)},
      cover(`tracks/${row.id}`, row.album || row.title), el('span', {class: 'names'}, el('b', {text: row.title}), el('small', {text: row.artist})), el('time', {text: clock(row.length)})),
    el('button', {class: 'quiet', 'aria-label': `Remove from the queue: ${row.title}`, onclick: () => { queue.splice(k, 1); showQueue(); }}, icon('close')))));
  if (focused) ($$(kind, list)[held] ?? $$(kind, list).at(-1) ?? $('#tab-queue')).focus();
}
function jump(k) {
  played.push(...[playing, ...queue.splice(0, k)].filter(Boolean));
  playing = queue.shift();
  showQueue();
  play(playing.id, {open: true});
}
roam($('#queue-rows'), '.open');

// ---- separating the track that is shown

function showCallout() {
  const box = $('#callout');
  const job = current === null ? null : work.of(current);
  const active = job && ['waiting', 'running', 'paused'].includes(job.state);
  const without = deck.about?.lanes.length === 1 && deck.about.lanes[0] === 'mix';
  box.hidden = !(active || (without && state.work)) && !(without && !state.work);
  if (box.hidden) { box.dataset.shows = ''; return; }
  if (active) {
    box.dataset.shows = 'job';
    box.replaceChildren(el('p', {}, el('b', {text: `${says(job)}`})), ...[job.reason ? el('p', {}, ...said(reason(job))) : null, bar(job)].filter(Boolean));
    return;
  }
  if (box.dataset.shows === `choose ${current}`) return;
  box.dataset.shows = `choose ${current}`;
  if (!state.work) {
    box.replaceChildren(el('p', {}, el('b', {text: 'No stems yet. '}), 'Separate it with ', el('code', {text: `beet demix id:${current}`}), '.'));
    return;
  }
  const models = el('select', {'aria-label': 'Model'}, el('option', {value: '', text: 'Best model here'}), ...state.models.map((model) => el('option', {value: model, text: model})));
  box.replaceChildren(el('p', {}, el('b', {text: 'No stems yet. '}), 'Take the track apart into vocals, drums, bass and other.'), models,
    el('button', {class: 'primary', text: 'Separate', onclick: () => work.separate(current, models.value)}));
}
work.addEventListener('jobs', showCallout);
work.addEventListener('adding', () => showTab('work'));
work.addEventListener('play', ({detail}) => { playing = null; play(detail, {open: true}); });
work.addEventListener('done', async ({detail}) => {
  if ($('#library').scrollTop < 50) library.load();
  if (detail.item_id !== current || current === null) return;
  if (await reopen(player.state.playing)) toast('The stems are here');
});

// ---- links

$('#share').addEventListener('click', async () => {
  const link = new URL(deck.link(), location.href).href;
  history.replaceState(history.state, '', link);
  try { await navigator.clipboard.writeText(link); toast('Link copied'); } catch { toast('The link is in the address bar'); }
});

function followLink() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const id = Number(parts.get('track'));
  if (!Number.isInteger(id) || id <= 0 || id === current && !parts.has('mix')) return;
  const number = (name, low, high, otherwise) => { const value = Number(parts.get(name) ?? otherwise); return value >= low && value <= high ? value : otherwise; };
  const loop = (parts.get('loop') || '').match(/^(\d+)-(\d+)$/)?.slice(1).map(Number);
  play(id, {settings: {mix: parts.get('mix'), speed: number('speed', 0.5, 1.5, 1), key: Math.round(number('key', -6, 6, 0)), loop}, start: false, open: true});
}
addEventListener('hashchange', followLink);

// ---- keyboard

wireKeys({
  ' ': () => $('#play').click(),
  ArrowLeft: (event) => player.seek(player.position_s - (event.shiftKey ? 1 : 5)),
  ArrowRight: (event) => player.seek(player.position_s + (event.shiftKey ? 1 : 5)),
  ArrowUp: () => deck.setVolume(Number($('#volume').value) + 5),
  ArrowDown: () => deck.setVolume(Number($('#volume').value) - 5),
  '[': () => deck.ruler.mark(0), ']': () => deck.ruler.mark(1), l: () => deck.ruler.toggleLoop(),
  n: () => next(), p: previous, 0: () => deck.resetMix(),
  '/': () => { openDeck(false); showTab('library'); $('#query').focus(); },
  '?': () => $('#help').showModal(),
  Escape: () => { if (!shutPop()) shutDeck(); },
}, (lane, alone) => deck.toggle(lane, alone));
$('#keys').addEventListener('click', () => $('#help').showModal());

// ---- token

document.addEventListener('token-needed', () => { if (!$('#token').open) $('#token').showModal(); });
$('#token-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  try {
    await api.post('login', {token: $('#token-text').value});
    $('#token').close();
    await begin();
  } catch (error) { $('#token-error').textContent = error.message; }
});
$('#token').addEventListener('cancel', (event) => event.preventDefault());

// ---- a server that is gone

const LOOK_AGAIN_MS = 2000;
document.addEventListener('reach', ({detail}) => {
  $('#gone').hidden = detail;
  if (!detail) lookAgain();
  else if (!begun) begin();
});
function lookAgain() { setTimeout(() => api.get('state').catch((error) => { if (error.status === 0) lookAgain(); }), LOOK_AGAIN_MS); }

// ---- begin

let begun = false;
async function begin() {
  try { state = await api.get('state'); } catch (error) {
    if (error.status !== 401) library.notice([el('b', {text: 'Something is wrong'}), ...said(error.message)], true);
    return;
  }
  begun = true;
  library.canSeparate = state.work;
  $('#tab-work').hidden = !state.work;
  $('#drop').hidden = !state.upload_mb;
  if (!state.tracks) $('#hero-text').textContent = 'As soon as there is music in your library, you can take it apart here.';
  if (state.work) work.start();
  if (new URLSearchParams(location.search).has('token')) history.replaceState(null, '', location.pathname + location.hash);
  await library.load();
  followLink();
}

applyTheme();
drawHero();
await begin();
document.documentElement.dataset.ready = 'yes';
