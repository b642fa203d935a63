// Asking the server. Addresses are relative: the page may be mounted anywhere.

class Refused extends Error {
  constructor(message, status) { super(message); this.status = status; }
}

export const address = (path) => new URL(`api/${path}`, document.baseURI).href;

// Whether the server answered when it was last asked; a change is told to the document.
let reached = true;

function reach(now) {
  if (now === reached) return;
  reached = now;
  document.dispatchEvent(new CustomEvent('reach', {detail: now}));
}

async function answer(response) {
  if (response.ok) return response;
  let message = `the server answered ${response.status}`;
  try { message = (await response.json()).error || message; } catch { /* no JSON */ }
  if (response.status === 401) document.dispatchEvent(new CustomEvent('token-needed'));
  throw new Refused(message, response.status);
}

async function send(path, options) {
  let response;
  try { response = await fetch(address(path), options); } catch (error) { throw lost(error); }
  reach(true);
  return answer(response);
}

function lost(error) {
  if (error.name === 'AbortError') return error;
  reach(false);
  return new Refused('the server cannot be reached; is it still running?', 0);
}

export const get = async (path, options) => (await send(path, options)).json();
export async function* stream(path, options) {
  const reader = (await send(path, options)).body.getReader();
  for (;;) {
    let part;
    try { part = await reader.read(); } catch (error) { throw lost(error); }
    if (part.done) return;
    yield part.value;
  }
}
export async function bytes(path, options) {
  const response = await send(path, options);
  try { return await response.arrayBuffer(); } catch (error) { throw lost(error); }
}
export const post = async (path, content) =>
  (await send(path, {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(content)})).json();

// fetch tells nothing of an upload's progress
export function upload(file, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open('POST', address(`work/uploads?name=${encodeURIComponent(file.name)}`));
    request.setRequestHeader('Content-Type', 'application/octet-stream');
    request.upload.onprogress = (event) => progress(event.loaded / (event.total || 1));
    request.onerror = () => reject(new Refused('the upload broke off; try again', 0));
    request.onload = () => {
      let content = {};
      try { content = JSON.parse(request.responseText); } catch { /* no JSON */ }
      request.status === 200 ? resolve(content) : reject(new Refused(content.error || `the server answered ${request.status}`, request.status));
    };
    request.send(file);
  });
}
