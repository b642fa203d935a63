// What is shown where no track is.
import {$, said} from './dom.js';

const COLOURS = ['--vocals', '--drums', '--bass', '--other'];

export function drawHero() {
  for (let k = 0; k < 20; k++) {
    const height = 22 + 92 * Math.abs(Math.sin(k * 1.7) * Math.cos(k * 0.55));
    const bar = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
    for (const [name, value] of Object.entries({x: k * 12 + 2, y: 60 - height / 2, width: 7, height, rx: 3.5})) bar.setAttribute(name, value);
    bar.style.fill = `var(${COLOURS[Math.floor(k / 5)]})`;
    bar.style.animationDelay = `${-k * 0.31}s`;
    $('#hero .bars').append(bar);
  }
}

// There is no track to show: say why.
export function refuse(message) {
  $('#hero').classList.add('refused');
  $('#hero-title').textContent = 'This track cannot be played';
  $('#hero-text').replaceChildren(...said(message));
}

export const refused = () => $('#hero').classList.contains('refused');
