// The list of calls, and of one call its ladder, its messages and its steps. Every text is set as text, never as markup.
'use strict';

const $ = (id) => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';
const REFRESH_MS = 3000;

// A token for readers elsewhere: /calls#token=...
const token = new URLSearchParams(location.hash.slice(1)).get('token');

async function fetched(path) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { headers, cache: 'no-store' });
  const body = await response.json();
  if (!response.ok) throw new Error(body.error?.message ?? response.statusText);
  return body;
}

function cells(row, texts) {
  for (const text of texts) row.insertCell().textContent = text;
}

function seconds(ms) {
  return ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.floor(ms / 60000)} min ${Math.round((ms % 60000) / 1000)} s`;
}

async function list() {
  try {
    const calls = await fetched(`/calls/list?search=${encodeURIComponent($('text').value)}`);
    const rows = document.createDocumentFragment();
    for (const call of calls) {
      const row = document.createElement('tr');
      row.tabIndex = 0;
      cells(row, [`${seconds(call.began_ms_ago)} ago`, seconds(call.lasted_ms), call.from, call.to, call.outcome, call.messages, call.id]);
      row.onclick = () => show(call.id);
      row.onkeydown = (event) => { if (event.key === 'Enter') show(call.id); };
      rows.append(row);
    }
    $('calls').replaceChildren(rows);
    $('said').textContent = calls.length ? '' : 'no call is remembered that holds this';
  } catch (error) {
    $('said').textContent = error.message;
  }
}

function node(parent, name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function ladder(view) {
  // Our own column is the second, so that a call through us reads from left to right.
  const columns = [...view.places];
  columns.splice(Math.min(1, columns.length), 0, 'tandem');
  const width = 270, top = 30, step = 26;
  const x = (column) => 70 + column * width + width / 2;
  const height = top + (view.messages.length + 1) * step;
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', `0 0 ${70 + columns.length * width} ${height}`);
  svg.setAttribute('role', 'img');
  columns.forEach((column, at) => {
    node(svg, 'text', { x: x(at), y: 16, 'text-anchor': 'middle' }, column);
    node(svg, 'line', { x1: x(at), x2: x(at), y1: 24, y2: height, 'stroke-opacity': 0.4 });
  });
  view.messages.forEach((message, at) => {
    const place = Math.max(0, view.places.indexOf(message.place));
    const other = place === 0 ? 0 : place + 1;
    const [from, to] = message.sent ? [1, other] : [other, 1];
    const y = top + (at + 1) * step;
    const bad = /^[4-6]\d\d /.test(message.label) && !/^40[17] /.test(message.label);
    const group = node(svg, 'g', { class: bad ? 'message bad' : 'message', tabindex: 0 });
    node(group, 'text', { x: 4, y: y + 4 }, String(message.at_ms));
    node(group, 'line', { x1: x(from), x2: x(to), y1: y, y2: y, 'stroke-dasharray': message.repeated ? '4 4' : 'none' });
    const back = to > from ? -8 : 8;
    node(group, 'path', { d: `M${x(to) + back},${y - 4} L${x(to)},${y} L${x(to) + back},${y + 4}`, fill: 'none' });
    const room = Math.floor((Math.abs(x(to) - x(from)) - 24) / 7.8);
    const label = message.label.length > room ? `${message.label.slice(0, room - 1)}…` : message.label;
    node(group, 'text', { x: (x(from) + x(to)) / 2, y: y - 5, 'text-anchor': 'middle' }, label);
    node(group, 'title', {}, message.label);
    const open = () => {
      $('message').hidden = false;
      $('message').textContent = message.text;
      $('message').scrollIntoView({ block: 'nearest' });
    };
    group.onclick = open;
    group.onkeydown = (event) => { if (event.key === 'Enter') open(); };
  });
  return svg;
}

async function show(id) {
  try {
    const view = await fetched(`/calls/${encodeURIComponent(id)}/ladder`);
    $('one').hidden = false;
    $('name').textContent = id;
    $('message').hidden = true;
    $('ladder').replaceChildren(ladder(view));
    const steps = document.createDocumentFragment();
    for (const step of view.steps) {
      const row = document.createElement('tr');
      cells(row, [step.at_ms, step.step, step.detail]);
      steps.append(row);
    }
    $('steps').replaceChildren(steps);
    $('one').scrollIntoView({ behavior: 'smooth' });
  } catch (error) {
    $('said').textContent = error.message;
  }
}

$('search').onsubmit = (event) => { event.preventDefault(); list(); };
list();
// What is typed or read is not disturbed.
setInterval(() => { if (document.visibilityState === 'visible' && $('one').hidden) list(); }, REFRESH_MS);
