// Keys, wherever the focus is; and what a click leaves behind.
import {$, $$} from './dom.js';

const typing = (target) => target.matches?.('input:not([type=range]):not([type=file]), textarea, select') || target.closest?.('dialog');

// `keys`: key → what it does; `lane(k, alone)`: what the digits do.
export function wireKeys(keys, lane) {
  addEventListener('keydown', (event) => {
    const shortcut = event.ctrlKey || event.metaKey || event.altKey; // the browser's; with AltGr some keyboards type [
    if (shortcut && !event.getModifierState('AltGraph') || event.isComposing) return;
    if (event.target === $('#query') && event.key === 'Escape') { event.target.blur(); return; }
    if (typing(event.target)) return;
    const digit = event.code.match(/^Digit([1-9])$/)?.[1];
    if (digit && !keys[event.key]) { // some keyboards have / on a digit
      event.preventDefault();
      lane(digit - 1, event.shiftKey);
      return;
    }
    const pressing = event.key === ' ' && event.target.closest?.('button, summary, a, [role=tab], input[type=file]');
    const sliding = event.key.startsWith('Arrow') && event.target.matches?.('input[type=range]');
    if (pressing || sliding || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key](event);
  });
  // a mouse leaves no focus on what it pressed, nor on what then takes its place: the space bar plays
  addEventListener('click', (event) => {
    if (event.detail) event.target.closest('button, summary')?.blur();
    for (const pop of $$('details.pop[open]')) if (!pop.contains(event.target)) pop.open = false;
  }, {capture: true});
  addEventListener('pointerup', (event) => { if (event.pointerType === 'mouse' && event.target.matches?.('input[type=range]')) event.target.blur(); });
}

// Close what popped up, if anything did; the focus goes back to what opened it.
export function shutPop() {
  const pop = $('details[open]');
  if (!pop) return false;
  const inside = pop.contains(document.activeElement);
  pop.open = false;
  if (inside) $('summary', pop).focus();
  return true;
}
