// Building the page. Text is always set as text: what is in a tag cannot become markup.

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

export function el(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (key === 'class') node.className = value;
    else if (key === 'text') node.textContent = value;
    else if (key === 'data') Object.assign(node.dataset, value);
    else node.setAttribute(key, value === true ? '' : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const SVG = 'http://www.w3.org/2000/svg';

export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  const use = document.createElementNS(SVG, 'use');
  use.setAttribute('href', `#i-${name}`);
  svg.append(use);
  return svg;
}

// Arrow keys go up and down a list of buttons.
export function roam(list, entries) {
  list.addEventListener('keydown', (event) => {
    const step = {ArrowDown: 1, ArrowUp: -1}[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    const buttons = $$(entries, list);
    const row = event.target.closest('li');
    buttons[buttons.findIndex((button) => row.contains(button)) + step]?.focus();
    event.preventDefault();
    event.stopPropagation();
  });
}

export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${String(m).padStart(2, '0')}:${String(s).padStart(2, '0')}` : `${m}:${String(s).padStart(2, '0')}`;
}

export function spoken(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return whole < 60 ? `${whole} seconds` : `${Math.floor(whole / 60)} minutes ${whole % 60} seconds`;
}

// A colour of its own for every album, the same each time.
export function hue(text) {
  let hash = 7;
  for (const c of text) hash = (Math.imul(hash, 31) + c.codePointAt(0)) >>> 0;
  return Math.round((hash * 137.508) % 360); // the golden angle keeps neighbours apart
}

// The picture of an album, or its initial on a colour of its own.
export function cover(path, name, size = 96) {
  const box = el('span', {class: 'cover', 'aria-hidden': 'true', data: {initial: (name.trim()[0] || '♪').toUpperCase()}});
  box.style.setProperty('--hue', hue(name));
  const picture = el('img', {alt: '', loading: 'lazy', decoding: 'async', src: new URL(`api/${path}/cover?size=${size}`, document.baseURI).href});
  picture.addEventListener('load', () => box.classList.add('loaded'));
  picture.addEventListener('error', () => picture.remove());
  box.append(picture);
  return box;
}

// A message of the server: what it puts between backquotes is typed somewhere.
export function said(text) {
  return text.split(/`([^`]+)`/).map((part, k) => (k % 2 ? el('code', {text: part}) : part));
}

export function toast(text, kind = '') {
  const note = el('div', {class: `toast ${kind}`, role: kind === 'bad' ? 'alert' : 'status'}, el('span', {}, ...said(text)));
  $('#toasts').append(note);
  setTimeout(() => note.classList.add('gone'), kind === 'bad' ? 7000 : 3500);
  setTimeout(() => note.remove(), kind === 'bad' ? 7500 : 4000);
}
