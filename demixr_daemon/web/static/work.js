// The jobs: live, by server-sent events; adding links and files; cancel and retry.
import * as api from './api.js';
import {$, el, icon, said, toast} from './dom.js';

const POLL_MS = 3000;
const STAGES = {download: 'downloading', import: 'importing', separate: 'separating', record: 'recording'};
const ENDED = ['done', 'failed', 'cancelled'];

export class Work extends EventTarget {
  constructor() {
    super();
    this.jobs = [];
    this.nodes = new Map();
    this.states = new Map();
    $('#add').addEventListener('submit', (event) => { event.preventDefault(); this.addUrl(); });
    $('#files').addEventListener('change', () => { this.addFiles([...$('#files').files]); $('#files').value = ''; });
    let inside = 0;
    const files = (event) => this.ready && [...(event.dataTransfer?.types || [])].includes('Files');
    addEventListener('dragenter', (event) => { if (files(event)) { inside++; $('#landing').hidden = false; } });
    addEventListener('dragleave', (event) => { if (files(event) && --inside <= 0) { inside = 0; $('#landing').hidden = true; } });
    addEventListener('dragover', (event) => { if (files(event)) event.preventDefault(); });
    addEventListener('drop', (event) => {
      if (!files(event)) return;
      event.preventDefault();
      inside = 0;
      $('#landing').hidden = true;
      this.addFiles([...event.dataTransfer.files]);
    });
  }

  start() {
    if (this.ready) return;
    this.ready = true;
    this.listen();
    document.addEventListener('visibilitychange', () => this.listen());
  }

  // A page that nobody looks at does not listen: a browser has six connections to a server, for all its tabs together.
  listen() {
    this.source?.close();
    clearTimeout(this.polling);
    if (document.hidden) return;
    const source = this.source = new EventSource(api.address('work/events'));
    source.onmessage = ({data}) => this.show(JSON.parse(data));
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) this.later(); // refused: too many listen already
      else api.get('state').catch(() => {}); // it comes again by itself; if the server is gone, the page says so
    };
  }

  later() {
    clearTimeout(this.polling);
    this.polling = setTimeout(() => this.poll(), POLL_MS);
  }

  async poll() {
    try { this.show(await api.get('work')); } catch (error) { this.notice(error.message); }
    if (!document.hidden && this.source.readyState === EventSource.CLOSED) this.later();
  }

  notice(text) {
    $('#work-notice').hidden = !text;
    $('#work-notice').textContent = text || '';
  }

  show({jobs = [], counts = {}, error}) {
    if (error) { this.notice(error); return; }
    this.jobs = jobs;
    this.notice(jobs.length ? '' : 'Nothing to do. Add a link or a file, or choose “Separate” on a track.');
    const open = (counts.running || 0) + (counts.waiting || 0) + (counts.paused || 0);
    $('#work-count').hidden = !open && !counts.failed;
    $('#work-count').textContent = open || counts.failed || 0;
    $('#work-count').classList.toggle('live', open > 0);
    $('#work-count').title = open ? `${open} under way` : `${counts.failed || 0} failed`;
    const kept = new Map();
    for (const job of jobs) {
      const text = JSON.stringify(job);
      const old = this.nodes.get(job.key);
      const entry = old?.text === text ? old : {text, node: this.job(job, old?.node)};
      kept.set(job.key, entry);
      const before = this.states.get(job.key);
      if (before !== job.state) {
        this.states.set(job.key, job.state);
        if (before !== undefined && job.state === 'done') this.dispatchEvent(new CustomEvent('done', {detail: job}));
      }
    }
    this.nodes = kept;
    const list = $('#jobs');
    const nodes = [...kept.values()].map(({node}) => node);
    const focused = document.activeElement;
    if (nodes.length !== list.children.length || nodes.some((node, k) => list.children[k] !== node)) list.replaceChildren(...nodes);
    if (list.contains(focused)) focused.focus({preventScroll: true});
    this.dispatchEvent(new CustomEvent('jobs', {detail: jobs}));
  }

  job(job, old) {
    const focused = old?.contains(document.activeElement) ? document.activeElement.dataset.does : null;
    const ended = ENDED.includes(job.state);
    const button = (name, label, action) => el('button', {class: 'quiet', 'aria-label': `${label}: ${job.title}`, title: label, data: {does: name}, onclick: action}, icon(name));
    const names = el('div', {class: 'names'}, job.state === 'done' && job.item_id !== null
      ? el('button', {data: {does: 'play'}, onclick: () => this.dispatchEvent(new CustomEvent('play', {detail: job.item_id}))}, el('b', {text: job.title}))
      : el('b', {text: job.title}), el('span', {class: `state ${ended ? `mark-${job.state}` : ''}`, text: says(job)}));
    const node = old ?? el('li');
    node.className = `job ${job.state}`;
    node.dataset.key = job.key;
    node.replaceChildren(el('header', {}, names,
      ['failed', 'cancelled'].includes(job.state) ? button('retry', 'Try again', () => this.ask('retry', job)) : null,
      ended ? null : button('close', 'Cancel', () => this.ask('cancel', job))),
    ...[job.reason ? el('p', {class: 'reason'}, ...said(reason(job))) : null, job.state === 'running' ? bar(job) : null].filter(Boolean));
    if (focused) (node.querySelector(`[data-does=${focused}]`) ?? node.querySelector('button'))?.focus({preventScroll: true});
    return node;
  }

  async ask(what, job) {
    try { await api.post(`work/${what}`, {key: job.key}); } catch (error) { toast(error.message, 'bad'); }
  }

  async addUrl() {
    try {
      await api.post('work/urls', {url: $('#url').value});
      $('#url').value = '';
      toast('Added');
    } catch (error) { toast(error.message, 'bad'); }
  }

  async addFiles(files) {
    this.dispatchEvent(new CustomEvent('adding'));
    for (const file of files) {
      const fill = el('i');
      fill.style.width = '0';
      const state = el('span', {class: 'state', text: 'uploading'});
      const node = el('div', {class: 'job'}, el('header', {}, el('div', {class: 'names'}, el('b', {text: file.name}), state)), el('div', {class: 'bar'}, fill));
      $('#uploads').append(node);
      try {
        await api.upload(file, (part) => { fill.style.width = `${100 * part}%`; state.textContent = part < 1 ? 'uploading' : 'looking at it'; });
        node.remove();
      } catch (error) {
        state.remove();
        fill.parentElement.replaceWith(el('p', {class: 'reason', role: 'alert'}, ...said(error.message)));
        setTimeout(() => node.remove(), 15000);
      }
    }
  }

  async separate(id, model = '') {
    try { await api.post('work/separate', {ids: [id], model}); return true; } catch (error) { toast(error.message, 'bad'); return false; }
  }

  // The job that is at work on a track, or was last.
  of(id) { return this.jobs.find((job) => job.item_id === id && !ENDED.includes(job.state)) ?? this.jobs.find((job) => job.item_id === id); }
}

export function bar(job) {
  const fill = el('i');
  if (job.progress !== null) fill.style.width = `${100 * job.progress}%`;
  return el('div', {class: `bar${job.progress === null ? ' unknown' : ''}`, role: 'progressbar', 'aria-label': `${STAGES[job.stage] ?? job.stage}: ${job.title}`,
    'aria-valuemin': 0, 'aria-valuemax': 100, 'aria-valuenow': job.progress === null ? null : Math.round(100 * job.progress)}, fill);
}

// A reason begins with what it is about; the job's title has said that.
export function reason({reason: text, title, source}) {
  const told = [title, source].find((name) => text.startsWith(`${name}: `));
  return told ? text.slice(told.length + 2) : text;
}

export function says(job) {
  if (job.state === 'done') return 'done';
  if (job.state === 'failed') return `failed while ${STAGES[job.stage] ?? job.stage}`;
  if (job.state !== 'running') return job.state;
  return [STAGES[job.stage] ?? job.stage, job.progress === null ? '' : `${Math.round(100 * job.progress)} %`,
    job.speed ? `${job.speed.toFixed(1)}× real time` : '', job.left_s === null ? '' : `${left(job.left_s)} left`].filter(Boolean).join(' · ');
}

function left(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
