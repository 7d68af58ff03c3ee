// The mask editor in the page: strokes, undo, zoom, colours and the list of cells.
//
// Python holds the truth (editor.py). What is done here is shown at once, and sent as runs of pixels:
// start, length, label before, label after, as Uint32. This page numbers its messages, and keeps each
// until Python has answered. If the answer differs from what was shown, it replaces that, and the
// edits that came after it are done again on top.

const RESEND_MS = 5000; // the first pause before a message is sent again; each further one is twice as long
const LONGEST_MS = 60000;
const ROW = 27; // height of a row of the list of cells, px
const TOOLS = [
  ["select", "Select", "V", "Click on a cell; hold Shift for several. Drag to move the image."],
  ["brush", "Brush", "B", "Adds to the selected cell. With none selected (N): start on a cell to enlarge it, on the background for a new cell."],
  ["eraser", "Eraser", "E", "Takes pixels from the selected cell, or from the one you start on."],
  ["outline", "Outline", "O", "Draw around a cell; the outline closes itself. It adds to a selected cell (N: select none)."],
  ["point", "Point", "J", "Click on a cell: the model draws it. The model is the one that is chosen under Segment."],
  ["cut", "Cut", "X", "Draw a line across a cell to make two of it."],
  ["region", "Part", "R", "Drag a rectangle around a part of the image in which all cells are drawn: nothing is learnt from the rest."],
];
const HELP = [
  ["V B E O X", "select, brush, eraser, outline, cut"],
  ["J", "point: the model draws the cell that you click on"],
  ["R", "part: the rectangle in which all cells are drawn"],
  ["U", "the whole image is annotated, not a part"],
  ["N", "new cell: select none"],
  ["[ ]", "smaller, larger brush"],
  ["M", "merge the selected cells"],
  ["F", "fill holes of the selected cells, or of all"],
  ["Delete", "delete the selected cells"],
  ["P", "protect neighbours, or draw over them"],
  ["Ctrl Z, Ctrl Y", "undo, redo"],
  ["1 .. 9, 0", "class of the selected cells, none"],
  ["H, L", "show or hide masks, outlines"],
  ["C", "next picture: channel, flow, cell probability"],
  ["I", "invert the colours"],
  ["+ -, W", "zoom, whole image"],
  [", .", "darker, brighter"],
  ["K", "colour by class"],
  ["T", "disk from the cells drawn so far"],
  ["Q", "new class"],
  ["\u22ef", "beside a class: its name, its colour, remove it"],
  ["Enter", "note on the selected cell"],
  ["Z", "zoom to the selected cell"],
  ["Space", "hold it and drag: move the image"],
  ["A, D", "previous, next image"],
  ["S, G", "show or hide what is at the sides; full screen"],
  ["Y", "a suggested cell is right; Delete throws it away: the next one comes"],
  ["Ctrl S", "save; where images of a folder are annotated, done: all cells are drawn"],
  ["Esc", "break off, select none"],
  ["?", "this list"],
];

// Icons: strokes in a square of 24.
const CIRCLE = (x, y, r) => `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`;
const ICONS = {
  "tool-select": "M5 3l14 8-6 2-3 7z",
  "tool-brush": "M20 3L10 13M10 13c-3 0-4 2-4 4s-2 3-3 3c4 2 9 1 9-4 0-2-1-3-2-3z",
  "tool-eraser": "M9 20l-6-6L14 3l7 7-10 10zM8 9l7 7M9 20h12",
  "tool-outline": "M4 15C1 8 7 3 13 4s9 6 7 10-8 4-11 3-3-3-1-3 2 4-2 7",
  "tool-point": `${CIRCLE(12, 12, 3)}M12 2v4M12 18v4M2 12h4M18 12h4M5 5l2.5 2.5M16.5 16.5L19 19M5 19l2.5-2.5M16.5 7.5L19 5`,
  "tool-cut": `${CIRCLE(6, 6, 3)}${CIRCLE(6, 18, 3)}M8.5 8L20 19M8.5 16L20 5`,
  "tool-region": "M4 8V4h4M11 4h2M16 4h4v4M20 11v2M20 16v4h-4M13 20h-2M8 20H4v-4M4 13v-2",
  whole: "M4 4h16v16H4zM8 12l3 3 5-6",
  undo: "M9 6L4 11l5 5M4 11h10a5 5 0 0 1 0 10h-3",
  redo: "M15 6l5 5-5 5M20 11H10a5 5 0 0 0 0 10h3",
  merge: `${CIRCLE(9, 12, 6)}${CIRCLE(15, 12, 6)}`,
  fill: `${CIRCLE(12, 12, 9)}M9 12h6M12 9v6`,
  delete: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
  "zoom-out": `${CIRCLE(10, 10, 6)}M15 15l6 6M7 10h6`,
  "zoom-in": `${CIRCLE(10, 10, 6)}M15 15l6 6M7 10h6M10 7v6`,
  fit: "M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5",
  "to-cell": `${CIRCLE(12, 12, 4)}M12 2v6M12 16v6M2 12h6M16 12h6`,
  sides: "M3 5h18v14H3zM8 5v14M16 5v14",
  screen: "M14 4h6v6M20 4l-7 7M10 20H4v-6M4 20l7-7",
};

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(svg.namespaceURI, "path"));
  svg.firstChild.setAttribute("d", ICONS[name]);
  return svg;
}

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  // Notebook 7 takes keys for its shortcuts before this page sees them, unless the focused element itself says no.
  node.setAttribute("data-lm-suppress-shortcuts", "true");
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const words = (view) => new Uint32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
const bytes = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
const pack = (r, g, b) => (255 << 24 | b << 16 | g << 8 | r) >>> 0;
const LIGHTS = ["#FF0000", "#00FF00", "#0000FF", "#FF00FF", "#FFFF00", "#00FFFF"]; // of channels that are seen together
const RGB = { red: "#FF0000", green: "#00FF00", blue: "#0000FF" };
const KEPT = "scellseg:look"; // tools and contrast, for a page that is loaded anew in this tab
const PLAIN = pack(235, 235, 235); // outline of a cell without a class, where cells are coloured by class: it is not filled
const unhex = (text) => { const n = parseInt(text.slice(1), 16); return pack(n >> 16, (n >> 8) & 255, n & 255); };
const brief = (value) => (Number.isInteger(value) || Math.abs(value) >= 1000 ? String(Math.round(value)) : value.toPrecision(3));
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const fillChoice = (node, names, chosen) => node.replaceChildren(...names.map((name, k) => make("option", { value: k, textContent: name, selected: k === chosen })));
const sameRuns = (a, b) => a.length === b.length && a.every((value, i) => value === b[i]);

// --- labels -----------------------------------------------------------------------------------

class Labels {
  constructor(width, height, runs) {
    [this.width, this.height] = [width, height];
    this.pixels = new Uint32Array(width * height);
    this.areas = [0];
    for (let i = 0, at = 0; i < runs.length; i += 2) {
      this.pixels.fill(runs[i], at, at += runs[i + 1]);
      if (runs[i]) this.areas[runs[i]] = (this.areas[runs[i]] ?? 0) + runs[i + 1];
    }
  }

  // Write a patch, or take it back.
  apply(runs, back = false) {
    for (let i = 0; i < runs.length; i += 4) {
      const [start, length] = [runs[i], runs[i + 1]];
      const [old, now] = back ? [runs[i + 3], runs[i + 2]] : [runs[i + 2], runs[i + 3]];
      this.pixels.fill(now, start, start + length);
      this.count(old, -length);
      this.count(now, length);
    }
  }

  count(label, change) {
    if (label) this.areas[label] = (this.areas[label] ?? 0) + change;
  }

  // Make the runs that write the same labels at the same pixels over what is there now.
  rebase(runs) {
    const found = [];
    for (let i = 0; i < runs.length; i += 4) {
      for (let at = runs[i]; at < runs[i] + runs[i + 1]; at++) found.push(at, this.pixels[at], runs[i + 3]);
    }
    return makeRuns(found);
  }

  free() {
    for (let label = this.areas.length - 1; label > 0; label--) if (this.areas[label] > 0) return label + 1;
    return 1;
  }

  list() {
    const found = [];
    for (let label = 1; label < this.areas.length; label++) if (this.areas[label] > 0) found.push(label);
    return found;
  }

  // Box of some cells: [left, top, right, bottom], or null.
  box(labels) {
    let [left, top, right, bottom] = [Infinity, Infinity, -1, -1];
    for (let y = 0, at = 0; y < this.height; y++) {
      for (let x = 0; x < this.width; x++, at++) {
        if (this.pixels[at] && labels.has(this.pixels[at])) {
          if (x < left) left = x;
          if (x > right) right = x;
          if (y < top) top = y;
          bottom = y;
        }
      }
    }
    return right < 0 ? null : [left, top, right + 1, bottom + 1];
  }

  diameter() {
    const found = this.list().map((label) => 2 * Math.sqrt(this.areas[label] / Math.PI)).sort((a, b) => a - b);
    const middle = found.length >> 1;
    return found.length % 2 ? found[middle] : found.length ? (found[middle - 1] + found[middle]) / 2 : 0;
  }
}

// Make runs of triples (index, old, new) in a flat list; no index stands there twice.
function makeRuns(triples) {
  const order = Array.from({ length: triples.length / 3 }, (_, i) => 3 * i);
  order.sort((a, b) => triples[a] - triples[b]);
  const runs = [];
  for (const i of order) {
    const [at, old, now] = [triples[i], triples[i + 1], triples[i + 2]];
    if (old === now) continue;
    const last = runs.length - 4;
    if (last >= 0 && runs[last] + runs[last + 1] === at && runs[last + 2] === old && runs[last + 3] === now) {
      runs[last + 1] += 1;
    } else runs.push(at, 1, old, now);
  }
  return Uint32Array.from(runs);
}

// --- edits that Python has not answered yet ----------------------------------------------------

class Outbox {
  constructor(send) {
    this.send = send;
    this.waiting = new Map(); // by id: {content, runs}
    this.key = "";
  }

  // Take up edits that another page of this session has left behind, if Python has not seen them.
  begin(session, client, seen) {
    this.key = `scellseg:${session}:${client}`;
    for (const name of this.stored(`scellseg:${session}:`)) {
      for (const [content, runs] of this.read(name)) {
        if (content.seq > (seen[content.client] ?? 0)) this.add(content, runs);
      }
      if (name !== this.key) localStorage.removeItem(name);
    }
  }

  add(content, runs) {
    this.waiting.set(`${content.client}:${content.seq}`, { content, runs });
    if (this.waiting.size === 1) this.due(RESEND_MS);
    this.keep();
    this.send(content, runs);
  }

  answered(id) {
    if (!this.waiting.delete(id)) return;
    this.due(RESEND_MS);
    this.keep();
  }

  due(pause) { [this.pause, this.at] = [pause, Date.now() + pause]; }

  // Send all once more, in order: a broken connection may have lost some.
  again(now = false) {
    if (!this.waiting.size || (!now && Date.now() < this.at)) return;
    this.due(Math.min(2 * this.pause, LONGEST_MS));
    for (const item of this.waiting.values()) this.send(item.content, item.runs);
  }

  keep() {
    try {
      const items = [...this.waiting.values()].map(({ content, runs }) => [content, runs ? [...runs] : null]);
      if (items.length) localStorage.setItem(this.key, JSON.stringify([Date.now(), items]));
      else localStorage.removeItem(this.key);
    } catch { /* no room, or not allowed: the connection itself still keeps them */ }
  }

  stored(prefix) {
    try { return Object.keys(localStorage).filter((name) => name.startsWith(prefix)); } catch { return []; }
  }

  read(name) {
    try {
      const [, items] = JSON.parse(localStorage.getItem(name));
      return items.map(([content, runs]) => [content, runs && Uint32Array.from(runs)]);
    } catch { return []; }
  }

  // Forget edits of sessions that ended more than a week ago.
  clean() {
    for (const name of this.stored("scellseg:")) {
      try {
        if (Date.now() - JSON.parse(localStorage.getItem(name))[0] > 7 * 86400e3) localStorage.removeItem(name);
      } catch { /* not ours */ }
    }
  }
}

// --- the picture ------------------------------------------------------------------------------

class Layer {
  constructor(described, view) {
    Object.assign(this, described);
    this.pixels = this.kind === "uint16" ? new Uint16Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength)) : bytes(view);
    this.size = this.kind === "uint16" ? 65536 : 256;
  }

  // Find the number below which a share of the pixels lies.
  percentile(share) {
    if (!this.cumulated) {
      this.cumulated = new Float64Array(this.size);
      for (const value of this.pixels) this.cumulated[value] += 1;
      for (let i = 1; i < this.size; i++) this.cumulated[i] += this.cumulated[i - 1];
    }
    const wanted = share / 100 * this.pixels.length;
    let [low, high] = [0, this.size - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.cumulated[middle] >= wanted && this.cumulated[middle] > 0) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  // What intensity a number stands for, and the other way round.
  intensity(number) { return this.low + number / (this.size - 1) * (this.high - this.low); }

  number(intensity) { return (intensity - this.low) / ((this.high - this.low) || 1) * (this.size - 1); }

  // Map numbers between two intensities to 0 .. 255.
  table([low, high]) {
    const from = this.number(low);
    const to = Math.max(this.number(high), from + 1);
    return Uint8Array.from({ length: this.size }, (_, i) => clamp(Math.round(255 * (i - from) / (to - from)), 0, 255));
  }

  value(at) {
    if (this.kind === "rgb") return [...this.pixels.subarray(3 * at, 3 * at + 3)].join(", ");
    return brief(this.intensity(this.pixels[at]));
  }
}

class Painter {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    Object.assign(this, { zoom: 1, left: 0, top: 0, ratio: 1 });
  }

  fit(width, height) {
    this.zoom = Math.min(this.canvas.width / width, this.canvas.height / height);
    this.left = (width - this.canvas.width / this.zoom) / 2;
    this.top = (height - this.canvas.height / this.zoom) / 2;
  }

  // Find the column and row of the image under each pixel of the canvas; -1 outside.
  grid(width, height) {
    const along = (n, start, size) => Int32Array.from({ length: n }, (_, i) => {
      const at = Math.floor(start + (i + 0.5) / this.zoom);
      return at >= 0 && at < size ? at : -1;
    });
    this.columns = along(this.canvas.width, this.left, width);
    this.rows = along(this.canvas.height, this.top, height);
    this.width = width;
    this.out = this.context.createImageData(this.canvas.width, this.canvas.height);
    this.packed = new Uint32Array(this.out.data.buffer);
    this.base = new Uint32Array(this.packed.length);
  }

  // Paint the image without cells; `colour` gives the packed colour of a pixel by its index.
  background(colour) {
    const { columns, rows, base, width } = this;
    const n = columns.length;
    for (let y = 0; y < rows.length; y++) {
      const row = rows[y] * width;
      for (let x = 0; x < n; x++) {
        base[y * n + x] = rows[y] < 0 || columns[x] < 0 ? 0xff404040 : colour(row + columns[x]);
      }
    }
  }

  // Paint cells on the image, within a box of the canvas.
  compose(cells, reference, shown, box) {
    const { columns, rows, base, packed, width } = this;
    const [n, height] = [columns.length, rows.length];
    const [x0, y0, x1, y1] = box ?? [0, 0, n, height];
    const edge = Math.max(1, Math.round(this.ratio));
    const [pixels, fill, opacity] = [cells.pixels, shown.fill, shown.opacity];
    const other = reference?.pixels;
    const nearEdge = (x, y, mine) => { // a selected cell has an outline of twice the width
      const [far, row, column] = [2 * edge, rows[y] * width, columns[x]];
      return pixels[row + columns[Math.max(x - far, 0)]] !== mine || pixels[row + columns[Math.min(x + far, n - 1)]] !== mine
        || pixels[rows[Math.max(y - far, 0)] * width + column] !== mine || pixels[rows[Math.min(y + far, height - 1)] * width + column] !== mine;
    };
    for (let y = y0; y < y1; y++) {
      const row = rows[y] * width;
      const above = rows[Math.max(y - edge, 0)] * width;
      const below = rows[Math.min(y + edge, height - 1)] * width;
      for (let x = x0, at = y * n + x0; x < x1; x++, at++) {
        let colour = base[at];
        const column = columns[x];
        if (rows[y] >= 0 && column >= 0) {
          const label = pixels[row + column];
          const before = columns[Math.max(x - edge, 0)];
          const after = columns[Math.min(x + edge, n - 1)];
          const onEdge = (from, mine) => from[row + before] !== mine || from[row + after] !== mine
            || from[above + column] !== mine || from[below + column] !== mine;
          if (label && shown.visible(label)) {
            const chosen = shown.chosen.has(label);
            const unsure = shown.unchecked.has(label); // a dashed outline, no colour
            if ((shown.outlines || chosen) && (onEdge(pixels, label) || (chosen && nearEdge(x, y, label)))) { if (!unsure || (x + y) & 4) colour = chosen ? 0xffffffff : fill[label]; }
            else if (shown.masks && !unsure && fill[label] !== PLAIN) colour = mix(colour, fill[label], opacity);
          }
          if (other && shown.reference) {
            const truth = other[row + column];
            if (truth && shown.trueColour[truth] && onEdge(other, truth)) colour = shown.trueColour[truth];
          }
        }
        packed[at] = colour;
      }
    }
    this.context.putImageData(this.out, 0, 0, x0, y0, x1 - x0, y1 - y0);
  }
}

function mix(under, over, share) {
  const one = (shift) => {
    const a = (under >>> shift) & 255;
    return a + ((((over >>> shift) & 255) - a) * share >> 8);
  };
  return (255 << 24 | one(16) << 16 | one(8) << 8 | one(0)) >>> 0;
}

// --- the editor -------------------------------------------------------------------------------

class Editor {
  constructor(model, element) {
    this.model = model;
    this.client = Math.random().toString(36).slice(2, 10);
    this.outbox = new Outbox((content, runs) => model.send(content, undefined, runs ? [runs.buffer] : []));
    Object.assign(this, {
      seq: 0, heard: 0, pending: [], undo: [], redo: [], facts: new Map(), classes: {}, chosen: new Set(), unchecked: new Set(), answered: new Set(),
      tool: "select", size: 9, protect: true, editable: model.get("tools"), layers: [], maps: [], layer: 0, map: 0,
      contrast: [1, 99], masks: true, outlines: true, reference: true, byClass: false, opacity: 90,
      seen: {}, given: [null, null], tips: [[], []], sort: ["label", 1], filter: "", paintTimes: [], listens: [],
    });
    this.build(element);
    this.listen();
    model.on("msg:custom", this.onMessage = (content, buffers) => this.receive(content, buffers));
    model.on("change:diameter", this.onDiameter = () => this.showDiameter());
    this.outbox.clean();
    this.ask();
  }

  close() {
    this.model.off("msg:custom", this.onMessage);
    this.model.off("change:diameter", this.onDiameter);
    clearInterval(this.timer);
    clearTimeout(this.asking);
    clearTimeout(this.slow);
    window.removeEventListener("online", this.online);
    window.removeEventListener("pagehide", this.onHide);
    this.watcher.disconnect();
    this.naming.disconnect();
  }

  // --- the look, which a page that is loaded anew takes over ------------------------------------

  keepLook() {
    const { tool, size, protect, contrast, map, masks, outlines, byClass, opacity, seen } = this;
    try { sessionStorage.setItem(KEPT, JSON.stringify({ tool, size, protect, contrast, map, masks, outlines, byClass, opacity, seen })); } catch { /* not allowed */ }
  }

  takeLook() {
    let look = null;
    try { look = JSON.parse(sessionStorage.getItem(KEPT)); } catch { /* not ours */ }
    window.addEventListener("pagehide", this.onHide = () => this.keepLook());
    if (!look) return;
    Object.assign(this, look);
    this.resize(this.size);
    [this.lowRange.value, this.highRange.value] = this.contrast;
    [this.mapChoice.value, this.strength.value] = [this.map, this.opacity];
    for (const [box, on] of [[this.protectBox, this.protect], [this.masksBox, this.masks], [this.outlinesBox, this.outlines], [this.classBox, this.byClass]]) box.firstChild.checked = on;
    if (this.labels) { this.offerPictures(this.pictures[this.layer]); this.recolour(); }
    this.choose(this.tool);
  }

  // --- the page -------------------------------------------------------------------------------

  build(element) {
    const button = (name, text, title, action) => {
      const node = make("button", { type: "button", class: `se-button se-${name}`, title, onclick: () => { action(); this.canvas.focus({ preventScroll: true }); } }, ICONS[name] ? icon(name) : text);
      if (ICONS[name]) node.setAttribute("aria-label", text);
      return node;
    };
    const range = (name, low, high, step, value, title, action) => make("input", { type: "range", class: `se-range se-${name}`, min: low, max: high, step, value, title, "aria-label": title, oninput: (event) => action(Number(event.target.value)) });
    const toggle = (name, text, value, title, action) => {
      const box = make("input", { type: "checkbox", class: `se-${name}`, checked: value, onchange: () => action(box.checked) });
      return make("label", { class: "se-toggle", title }, box, text);
    };
    const choice = (name, title, action) => make("select", { class: `se-select se-${name}`, title, "aria-label": title, onchange: (event) => action(Number(event.target.value)) });

    this.buttons = Object.fromEntries(TOOLS.map(([name, text, key, hint]) => [name, button(`tool-${name}`, text, `${hint} (${key})`, () => this.choose(name))]));
    this.sizeInput = make("input", { type: "number", class: "se-number se-size", min: 1, max: 500, value: this.size, title: "Diameter of brush and eraser, in pixels ([ and ])", "aria-label": "Brush size in pixels", onchange: (event) => this.resize(Number(event.target.value)) });
    this.protectBox = toggle("protect", "Protect neighbours", this.protect, "On: a cell that you draw never overwrites another (P)", (on) => { this.protect = on; });
    this.undoButton = button("undo", "Undo", "Undo (Ctrl Z)", () => this.turn("undo"));
    this.redoButton = button("redo", "Redo", "Redo (Ctrl Y)", () => this.turn("redo"));
    this.saveButton = button("save", "Save", "Save masks and list (Ctrl S)", () => this.save());
    this.cellButtons = [
      button("merge", "Merge", "Make one of the selected cells (M)", () => this.merge()),
      button("fill", "Fill holes", "Fill holes of the selected cells, or of all (F)", () => this.fill()),
      button("delete", "Delete", "Delete the selected cells (Delete)", () => this.remove()),
    ];
    this.wholeButton = button("whole", "All annotated", "The whole image is annotated: take the rectangle away (U)", () => this.annotateWhole());
    this.previous = button("previous", "\u25c0 Previous", "Previous image (A)", () => this.cycle(-1));
    this.next = button("next", "Next \u25b6", "Next image (D)", () => this.cycle(1));
    const group = (...children) => make("span", { class: "se-group" }, ...children);
    const zooming = group(button("zoom-out", "Zoom out", "Zoom out (-)", () => this.zoomBy(0.8)), button("zoom-in", "Zoom in", "Zoom in (+)", () => this.zoomBy(1.25)),
      button("fit", "Whole image", "Show the whole image (W)", () => this.fit()), button("to-cell", "To cell", "Zoom to the selected cell (Z)", () => this.zoomToChosen()));
    const room = group(button("sides", "Lists", "Show or hide what is at the sides (S)", () => this.showSides()), button("screen", "Full screen", "Full screen and back (G)", () => this.fillScreen()));
    this.editing = make("div", { class: "se-bar se-editing", role: "toolbar", "aria-label": "Editing", "aria-orientation": "vertical" },
      group(...Object.values(this.buttons), this.wholeButton), group(this.undoButton, this.redoButton), group(...this.cellButtons), zooming, room);

    this.layerChoice = choice("layer", "Picture", (n) => { this.layer = n; this.repaint(); });
    this.mapChoice = choice("map", "Colours", (n) => { this.map = n; this.repaint(); });
    this.lowRange = range("low", 0, 50, 0.1, this.contrast[0], "Black: percentile of the intensities", (value) => this.stretch(value, this.contrast[1]));
    this.highRange = range("high", 50, 100, 0.1, this.contrast[1], "White: percentile of the intensities", (value) => this.stretch(this.contrast[0], value));
    this.masksBox = toggle("masks", "Masks", true, "Show masks (H)", (on) => { this.masks = on; this.redraw(); });
    this.outlinesBox = toggle("outlines", "Outlines", true, "Show outlines (L)", (on) => { this.outlines = on; this.redraw(); });
    this.referenceBox = toggle("reference", "Truth", true, "Show true outlines", (on) => { this.reference = on; this.redraw(); });
    this.classBox = toggle("by-class", "Colour by class", false, "Colour cells by their class", (on) => { this.byClass = on; this.recolour(); this.relist(); });
    this.diskInput = make("input", { type: "number", class: "se-number se-diameter", min: 0, step: 0.5, title: "Diameter of the disk in the corner, in pixels; 0 hides it", "aria-label": "Diameter in pixels", onchange: (event) => this.setDiameter(Number(event.target.value)) });
    this.diskGroup = group(make("label", { class: "se-toggle" }, "Size shown", this.diskInput, "px"), button("from-cells", "Size of my cells", "Median diameter of the cells drawn so far (T)", () => this.diskFromCells()));
    this.display = make("div", { class: "se-bar se-display", role: "toolbar", "aria-label": "Display" },
      ...(this.editable ? [group(make("label", { class: "se-toggle" }, "Brush", this.sizeInput, "px"), this.protectBox)] : []),
      group(this.layerChoice, this.mapChoice),
      group(make("label", { class: "se-toggle" }, "Contrast", this.lowRange, this.highRange)), this.lights = make("div", { class: "se-lights" }),
      group(this.masksBox, this.outlinesBox, this.referenceBox, this.classBox,
        make("label", { class: "se-toggle" }, "Strength", this.strength = range("opacity", 0, 255, 1, this.opacity, "Strength of the masks' colour", (value) => { this.opacity = value; this.redraw(); }))),
      this.diskGroup, ...(this.editable ? [] : [zooming]));

    this.canvas = make("canvas", { class: "se-canvas", tabIndex: 0, "aria-label": "Image with cells. Press ? for the keys." });
    this.above = make("canvas", { class: "se-above" });
    this.tip = make("div", { class: "se-tip", hidden: true });
    this.empty = make("div", { class: "se-empty" }, "No image is open yet.");
    this.helpPanel = make("div", { class: "se-keys", hidden: true, role: "dialog", "aria-label": "Keys" }, make("strong", {}, "Keys"),
      make("dl", {}, ...HELP.flatMap(([keys, text]) => [make("dt", {}, keys), make("dd", {}, text)])), button("help-close", "Close", "Close (Esc)", () => this.help(false)));
    this.stage = make("div", { class: "se-stage", style: `--se-height: ${this.model.get("height")}px` }, this.canvas, this.above, this.tip, this.empty, this.helpPanel);
    this.message = make("span", { class: "se-message", role: "status" });
    this.info = make("span", { class: "se-info" });
    this.status = make("div", { class: "se-status" }, this.previous, this.next, this.message, this.info, ...(this.editable ? [this.saveButton] : []), button("help", "?", "Keys (?)", () => this.help()));
    this.list = this.buildList(button);
    this.root = make("div", { class: `se-root se-blank${this.editable ? "" : " se-view"}`, "data-jp-suppress-context-menu": "true" },
      ...(this.editable ? [] : [this.display]), make("div", { class: "se-middle" }, ...(this.editable ? [this.editing, this.stage, this.list] : [this.stage])), this.status);
    this.root.scellseg = this; // for tests and the benchmark
    this.painter = new Painter(this.canvas);
    this.diskGroup.hidden = this.previous.hidden = this.next.hidden = this.referenceBox.hidden = true;
    this.classBox.hidden = !this.editable;
    element.append(this.root);
    this.choose(this.tool);
  }

  buildList(button) {
    this.counts = make("div", { class: "se-counts" });
    this.chips = make("div", { class: "se-chips", role: "group", "aria-label": "Classes" });
    this.classForm = make("div", { class: "se-class-form", hidden: true, role: "group" });
    this.others = make("div", { class: "se-others", hidden: true, role: "alert" });
    this.newClass = make("input", { class: "se-text se-new-class", placeholder: "New class", "aria-label": "Name of a new class", onkeydown: (event) => { if (event.key === "Enter") this.addClass(); } });
    this.search = make("input", { class: "se-text se-filter", placeholder: "Find: number, class, note", "aria-label": "Filter the list", oninput: (event) => { this.filter = event.target.value.trim().toLowerCase(); this.relist(); } });
    const column = (name, text) => make("button", { type: "button", class: `se-column se-sort-${name}`, title: `Sort by ${text.toLowerCase()}`, onclick: () => { this.sort = [name, this.sort[0] === name ? -this.sort[1] : 1]; this.relist(); } }, text);
    this.checking = make("div", { class: "se-checking", hidden: true, role: "group", "aria-label": "Suggested cells" }, make("span", {}),
      button("keep-cell", "Keep", "The suggested cell is right (Y)", () => this.check(true)), button("throw-away", "Throw away", "It is not (Delete)", () => this.check(false)));
    this.head = make("div", { class: "se-row se-head" }, make("span", {}), column("label", "Cell"), column("area", "Area"), column("class", "Class"), column("note", "Note"));
    this.filler = make("div", { class: "se-filler" });
    this.rows = make("div", { class: "se-rows", onscroll: () => this.showRows() }, this.filler);
    return make("div", { class: "se-list" }, this.display, this.counts, this.checking, this.chips, this.classForm, this.others, make("div", { class: "se-add" }, this.newClass, button("add-class", "Add", "Add the class", () => this.addClass())), this.search, this.head, this.rows);
  }

  // Name the handles of the sliders around, for those who do not see: ipywidgets does not.
  nameSliders() {
    for (const handle of this.root.closest(".scellseg-workbench")?.querySelectorAll(".noUi-handle:not([aria-label])") ?? []) handle.setAttribute("aria-label", handle.closest(".widget-slider").querySelector(".widget-label").textContent);
  }

  listen() {
    this.naming = new MutationObserver(() => this.nameSliders());
    this.watcher = new ResizeObserver(() => this.measure());
    this.watcher.observe(this.stage);
    this.timer = setInterval(() => this.outbox.again(), RESEND_MS / 4);
    window.addEventListener("online", this.online = () => this.outbox.again(true));
    const canvas = this.canvas;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.up(event));
    canvas.addEventListener("pointerleave", () => { this.pointer = null; this.tip.hidden = true; this.info.textContent = ""; this.drawAbove(); });
    canvas.addEventListener("dblclick", () => { if (this.tool === "select") this.zoomToChosen(); });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.root.addEventListener("keyup", (event) => { if (event.key === " ") this.space = false; });
    this.root.addEventListener("dragover", (event) => { if (this.listens.includes("drop")) event.preventDefault(); });
    this.root.addEventListener("drop", (event) => this.drop(event));
  }

  // --- messages ---------------------------------------------------------------------------------

  receive(content, buffers) {
    if (content.n <= this.heard) return; // repeated by the server
    const lost = this.heard && content.n > this.heard + 1;
    this.heard = content.n;
    if (lost && !this.asked && content.type !== "open") this.ask();
    if (content.to && content.to !== this.client) return;
    const handlers = {
      open: () => this.open(content, buffers),
      empty: () => this.blank(content),
      edit: () => this.edited(content, words(buffers[0])),
      refused: () => this.refused(content),
      known: () => { if (this.outbox.waiting.has(content.id)) this.ask(); }, // the answer was lost
      done: () => this.done(content),
      labels: () => this.takeLabels(buffers),
      layers: () => this.takeLayers(content, buffers),
      colours: () => { this.given = content.given.map((is, k) => is ? words(buffers[k]) : null); this.recolour(); },
      tips: () => { this.tips = [content.cells, content.reference]; },
      others: () => this.offerOthers(content),
      say: () => this.say(content.text, content.error),
      select: () => { if (content.by !== this.client) this.followSelected(content.label); },
    };
    handlers[content.type]?.();
  }

  open(content, buffers) {
    clearTimeout(this.asking);
    this.asked = false;
    const going = this.stroke;
    if (going?.triples.length) this.endStroke(); // Python refuses it if it is of another image
    this.stroke = null;
    const again = this.session && content.session === this.session; // an answer was lost: what is drawn now goes on
    const named = again && this.namer(content.renamed);
    if (!again) { this.start = this.panning = this.path = null; this.hint(); }
    const [height, width] = content.shape;
    const same = this.labels && this.labels.width === width && this.labels.height === height && this.title === content.title;
    this.labels = new Labels(width, height, words(buffers[0]));
    this.truth = content.reference ? new Labels(width, height, words(buffers[1])) : null;
    this.maps = content.maps.map((_, k) => bytes(buffers[2]).subarray(768 * k, 768 * (k + 1)));
    this.layers = content.layers.map((described, k) => new Layer(described, buffers[3 + k]));
    this.title = content.title;
    this.palette = content.palette;
    this.pixelSize = content.pixel_size;
    this.given = [null, null];
    this.tips = [[], []];
    this.offerPictures(same ? this.pictures[this.layer] : "");
    fillChoice(this.mapChoice, content.maps, this.map);
    this.referenceBox.hidden = !this.truth;
    this.empty.hidden = true;
    this.root.classList.remove("se-blank");
    if (!same) { this.chosen.clear(); this.told = null; }
    this.listens = content.listens;
    this.previous.hidden = this.next.hidden = !this.editable || !this.listens.includes("cycle");
    this.buttons.point.hidden = !this.listens.includes("point");
    if (this.editable) this.beginEditing(content, buffers.at(-1));
    this.measure(!same);
    this.recolour();
    this.relist();
    this.ready = true;
    if (!again) return;
    const chosen = [...this.chosen].map(named).filter((label) => this.labels.areas[label] > 0);
    if (chosen.join() !== [...this.chosen].join()) this.select(chosen);
    const label = going && (this.isOwn(going) ? going.label : named(going.label));
    if (going && (label || !going.label)) this.goOn({ ...going, label }); // else its cell is gone
  }

  // What cells are called now, by the labels that this page knew; 0 if they are gone. As `_find_label` in Python.
  namer(renamed) {
    const later = renamed.filter(([number, client]) => number > this.number && (!client || client === this.client));
    const rename = (now, [, , names]) => names[now] ?? (Object.values(names).includes(now) ? 0 : now);
    return (label) => later.slice(Math.max(later.findLastIndex(([, client, names]) => client && label in names), 0)).reduce(rename, label);
  }

  // Whether a stroke is of a new cell that Python has not named yet: no other's label is meant.
  isOwn(stroke) { return stroke.fresh || [...this.outbox.waiting.values()].some(({ content }) => content.fresh && content.label === stroke.label); }

  offerPictures(shown) {
    this.channels = this.layers.filter((one) => one.channel && one.kind !== "rgb");
    const several = this.channels.length > 1 ? ["all channels"] : [];
    this.pictures = [...several, ...this.layers.map((one) => one.name)];
    this.layer = Math.max(this.pictures.indexOf(shown), 0);
    fillChoice(this.layerChoice, this.pictures, this.layer);
    this.layerChoice.disabled = this.pictures.length < 2;
    const isStained = this.channels.length === 3 && this.channels.every((one) => one.kind === "uint8" && one.name in RGB && one.percentile(50) > 128);
    for (const [k, one] of this.channels.entries()) {
      const kept = this.seen[one.name];
      const limits = isStained ? [0, 255] : null; // a bright field in its true colours
      if (!kept) this.seen[one.name] = { on: k < 3, colour: this.firstColour(k), limits, kind: one.kind, isStained };
      else if (kept.kind !== one.kind || kept.isStained !== isStained) Object.assign(kept, { limits, kind: one.kind, isStained }); // intensities of another kind
    }
    this.listLights();
    this.layerChoice.hidden = this.layerChoice.disabled && !this.editable; // an editor shows it always: it must not move what is drawn on when a second picture comes
    this.tableKey = null; // the new pictures have intensities of their own
  }

  // Take other pictures beside the channels; all else stays, also a stroke under way.
  takeLayers(content, buffers) {
    if (!this.ready || this.asked) return; // the image is on its way, and they come with it
    const others = content.layers.map((described, k) => new Layer(described, buffers[k]));
    this.layers = [...this.layers.filter((one) => one.channel), ...others];
    this.offerPictures(this.pictures[this.layer]);
    this.repaint();
  }

  // Nothing is open: show no tools, but say what to do.
  blank(content) {
    clearTimeout(this.asking);
    this.asked = false;
    this.listens = content.listens;
    this.root.classList.add("se-blank");
    this.empty.hidden = false;
    this.empty.textContent = this.listens.includes("drop") ? "Drop images here, or name their folder above." : "No image is open yet.";
  }

  beginEditing(content, history) {
    if (this.session !== content.session) { // for another image the page counts from 1 again, under another name
      this.seq = 0;
      if (this.session) this.client = Math.random().toString(36).slice(2, 10);
    }
    this.session = content.session;
    this.number = content.number;
    // Edits that Python has taken are in these labels; the others are sent again from the outbox.
    for (const id of this.outbox.waiting.keys()) {
      const [client, seq] = id.split(":");
      if (Number(seq) <= (content.seen[client] ?? 0)) this.outbox.waiting.delete(id);
    }
    this.facts = new Map(Object.entries(content.facts).map(([label, facts]) => [Number(label), facts]));
    this.classes = content.classes;
    this.region = content.region;
    this.others.hidden = true;
    this.pending = [];
    let at = 0;
    const take = ([id, length]) => ({ id, runs: words(new DataView(history.buffer, history.byteOffset + at, (at += length, length))) });
    this.undo = content.undo.map(take);
    this.redo = content.redo.map(take);
    this.saveButton.hidden = !content.savable;
    [this.saveButton.textContent, this.saveButton.title] = this.finishes() ? ["Done", "All cells are drawn (Ctrl S)"] : ["Save", "Save masks and list (Ctrl S)"];
    this.answered.clear();
    this.showUnchecked(content.unchecked);
    this.diskGroup.hidden = false;
    this.outbox.begin(this.session, this.client, content.seen);
    this.outbox.keep();
    this.showDiameter();
    this.showState();
    if (content.trouble) this.say(content.trouble, true);
  }

  takeLabels(buffers) {
    const { width, height } = this.labels;
    this.labels = new Labels(width, height, words(buffers[0]));
    if (buffers[1].byteLength) this.truth = new Labels(width, height, words(buffers[1]));
    this.recolour();
  }

  // Ask for everything once more, and ask again, less and less often, until an answer comes.
  ask(pause = 3 * RESEND_MS) {
    this.asked = true;
    this.model.send({ type: "hello", client: this.client });
    clearTimeout(this.asking);
    this.asking = setTimeout(() => this.ask(2 * pause), pause);
  }

  // Send an edit. One with runs is shown here already; those of an undo are not sent, as Python knows them.
  emit(content, runs) {
    const message = { client: this.client, session: this.session, seq: ++this.seq, number: this.number, ...content };
    const id = `${this.client}:${this.seq}`;
    this.pending.push({ id, runs: runs ?? null });
    this.outbox.add(message, content.type === "stroke" ? runs : null);
    this.showState();
    return id;
  }

  edited(content, runs) {
    if (content.number !== this.number + 1 && !this.asked) { this.ask(); return; } // an edit was lost
    if (this.asked) return; // the whole image is on its way
    const at = this.pending.findIndex((item) => item.id === content.id);
    const sent = this.outbox.waiting.get(content.id)?.content;
    this.outbox.answered(content.id);
    const asShown = at === 0 && this.pending[0].runs && sameRuns(this.pending[0].runs, runs);
    const going = asShown ? null : this.stroke;
    if (going?.triples.length) this.endStroke(); // send its first part, drawn on labels that change now
    this.number = content.number;
    if (asShown) {
      this.pending.shift();
    } else {
      for (const item of this.pending.toReversed()) if (item.runs) this.labels.apply(item.runs, true);
      this.labels.apply(runs);
      if (at >= 0) this.pending.splice(at, 1);
      for (const item of this.pending) {
        if (item.runs) this.labels.apply(item.runs = this.labels.rebase(item.runs));
      }
      this.redraw();
    }
    if (going && content.kind === "paint" && sent?.label === going.label) { // Python may have given its cell another label
      if (runs.length) going.label = runs[3];
      else going.fresh = sent.fresh; // no pixel was free, so that there is no such cell yet
    }
    this.remember(content.kind, content.of, content.id, runs);
    if (content.renumbers) this.renumber(runs, going);
    for (const [label, facts] of Object.entries(content.facts)) {
      if (facts[0] || facts[1]) this.facts.set(Number(label), facts);
      else this.facts.delete(Number(label));
    }
    this.classes = content.classes;
    this.region = content.region;
    if (content.kind !== "accept" && content.kind !== "delete") this.answered.clear();
    this.showUnchecked(content.unchecked);
    for (const label of this.chosen) if (!(this.labels.areas[label] > 0)) this.chosen.delete(label);
    this.recolour();
    this.relist();
    this.showState();
    if (going) this.goOn(going);
  }

  // Draw the rest of a stroke whose first part is sent.
  goOn(stroke) { this.stroke = { ...stroke, fresh: stroke.fresh && !stroke.triples.length, triples: [] }; }

  // The cells that are selected, and the one drawn just now, have other labels.
  renumber(runs, going) {
    const names = new Map();
    for (let i = 0; i < runs.length; i += 4) if (runs[i + 2] && runs[i + 3]) names.set(runs[i + 2], runs[i + 3]);
    const named = (label) => names.get(label) ?? label;
    this.select([...this.chosen].map(named));
    if (going && !this.isOwn(going)) going.label = named(going.label);
  }

  // Put an edit on the stack of undo or redo. One that is there already stays in its place, with other runs.
  remember(kind, of, id, runs) {
    const [from, to] = kind === "undo" ? [this.undo, this.redo] : kind === "redo" ? [this.redo, this.undo] : [null, null];
    if (from) {
      const at = from.findIndex((item) => item.id === of);
      if (at >= 0) to.push(...from.splice(at, 1));
      return;
    }
    const known = this.undo.find((item) => item.id === id) ?? this.redo.find((item) => item.id === id);
    if (known) known.runs = runs;
    else {
      const waits = (one) => this.pending.some((item) => item.id === one);
      const at = waits(id) ? -1 : this.undo.findIndex((item) => waits(item.id)); // Python performs this page's waiting edits after this one
      this.undo.splice(at < 0 ? this.undo.length : at, 0, { id, runs });
      this.redo = [];
    }
  }

  refused(content) {
    this.outbox.answered(content.id);
    this.pending = this.pending.filter((item) => item.id !== content.id);
    this.answered.clear();
    this.say(content.text, true);
    this.showState();
  }

  done(content) {
    this.outbox.answered(content.id);
    this.pending = this.pending.filter((item) => item.id !== content.id);
    if (content.pixels === null && (content.name === "undo" || content.name === "redo")) this.say(`There is nothing to ${content.name}.`);
    if (content.pixels === 0 && content.name === "fill_holes") this.say("There are no holes to fill.");
    if (content.name === "set_region") this.say(this.isPart() ? "Draw all cells within the frame: nothing is learnt from what is outside." : "The whole image is annotated: draw all of its cells.");
    this.showState();
  }

  command(name, args = {}) {
    this.emit({ type: "command", name, args });
  }

  // --- editing ------------------------------------------------------------------------------------

  choose(tool) {
    this.cancel();
    this.tool = tool;
    for (const [name, node] of Object.entries(this.buttons)) node.setAttribute("aria-pressed", String(name === tool));
    this.canvas.dataset.tool = tool;
    this.hint();
    this.drawAbove();
  }

  resize(size) {
    this.size = clamp(Math.round(size) || 1, 1, 500);
    this.sizeInput.value = this.size;
    this.drawAbove();
  }

  // The middle of the brush is that of a pixel for odd sizes, a corner of one for even sizes.
  snap([x, y]) {
    return this.size % 2 ? [Math.floor(x) + 0.5, Math.floor(y) + 0.5] : [Math.round(x), Math.round(y)];
  }

  startStroke(point) {
    const at = this.index(point);
    const under = at < 0 ? 0 : this.labels.pixels[at];
    const chosen = this.chosen.size === 1 ? [...this.chosen][0] : 0;
    const erasing = this.tool === "eraser";
    const label = chosen || under || (erasing ? 0 : this.labels.free());
    this.stroke = { erasing, label, fresh: !erasing && !(this.labels.areas[label] > 0), any: erasing && !this.protect && !chosen, triples: [], last: this.snap(point) };
    this.paint(this.stroke.last, this.stroke.last);
  }

  continueStroke(point) {
    const next = this.snap(point);
    this.paint(this.stroke.last, next);
    this.stroke.last = next;
  }

  // Paint the pixels whose middle is within half the brush's size of the line between two points.
  paint([ax, ay], [bx, by]) {
    const { stroke, labels, protect } = this;
    const { width, height, pixels } = labels;
    const radius = this.size / 2 + 1e-6;
    const [dx, dy] = [bx - ax, by - ay];
    const squared = dx * dx + dy * dy;
    const x0 = Math.max(Math.floor(Math.min(ax, bx) - radius), 0), x1 = Math.min(Math.ceil(Math.max(ax, bx) + radius), width);
    const y0 = Math.max(Math.floor(Math.min(ay, by) - radius), 0), y1 = Math.min(Math.ceil(Math.max(ay, by) + radius), height);
    for (let y = y0; y < y1; y++) {
      const py = y + 0.5 - ay;
      for (let x = x0; x < x1; x++) {
        const px = x + 0.5 - ax;
        const along = squared ? clamp((px * dx + py * dy) / squared, 0, 1) : 0;
        const [ex, ey] = [px - along * dx, py - along * dy];
        if (ex * ex + ey * ey > radius * radius) continue;
        const at = y * width + x;
        const old = pixels[at];
        if (stroke.erasing) {
          if (!old) continue;
          stroke.label ||= old; // the first cell that the eraser meets
          if (old !== stroke.label && !stroke.any) continue;
        } else if (old === stroke.label || (protect && old)) continue;
        const now = stroke.erasing ? 0 : stroke.label;
        stroke.triples.push(at, old, now);
        pixels[at] = now;
        labels.count(old, -1);
        labels.count(now, 1);
      }
    }
    if (!stroke.erasing) this.colourUpTo(stroke.label);
    if (x1 > x0 && y1 > y0) this.redraw([x0, y0, x1, y1]);
  }

  endStroke() {
    const { triples, erasing, label, fresh } = this.stroke;
    this.stroke = null;
    const runs = makeRuns(triples);
    if (!runs.length) {
      if (!erasing && this.protect) this.say("Nothing was drawn: other cells are protected (P).");
      return;
    }
    const kind = erasing ? "erase" : "paint";
    const id = this.emit({ type: "stroke", kind, label, fresh, protect: this.protect }, runs);
    this.remember(kind, "", id, runs);
    this.relist();
    this.showState();
  }

  turn(kind) {
    if (this.stroke) return;
    this.others.hidden = true;
    const item = this[kind].at(-1);
    // Python decides where it still works on an edit of this page, or knows older edits than the page does.
    if (!item || this.pending.some((one) => !one.runs)) { this.command(kind); return; }
    const back = kind === "undo";
    const turned = Uint32Array.from(item.runs);
    if (back) for (let i = 0; i < turned.length; i += 4) [turned[i + 2], turned[i + 3]] = [turned[i + 3], turned[i + 2]];
    this.labels.apply(turned);
    const id = this.emit({ type: "turn", kind, of: item.id }, turned);
    this.remember(kind, item.id, id, turned);
    for (const label of this.chosen) if (!(this.labels.areas[label] > 0)) this.chosen.delete(label);
    this.recolour();
    this.relist();
  }

  merge() {
    if (this.chosen.size < 2) this.say("Select two cells or more: hold Shift and click on them.");
    else this.command("merge", { cells: [...this.chosen] });
  }

  fill() { this.command("fill_holes", { cells: [...this.chosen] }); }

  remove() {
    if (!this.chosen.size) this.say("Select a cell to delete: click on it.");
    else if ([...this.chosen].every((label) => this.unchecked.has(label))) this.check(false);
    else this.command("delete", { cells: [...this.chosen] });
  }

  save() {
    if (this.saveButton.hidden) this.say("These masks have no file: save them in Python, editor.save(\u2026).");
    else this.command(this.finishes() ? "finish" : "save");
  }

  // Whether somebody wants to know when all cells are drawn.
  finishes() { return this.listens.includes("finish"); }

  // Cells that a model has suggested and nobody has checked, but for those that Python has not heard of yet.
  showUnchecked(cells) {
    this.unchecked = new Set(cells.filter((label) => !this.answered.has(label)));
    const n = this.unchecked.size;
    this.checking.hidden = !n;
    this.checking.firstChild.textContent = n === 1 ? "One suggested cell to check" : `${n} suggested cells to check`;
    this.redraw();
  }

  // Keep the suggested cells that are selected, or throw them away, and go on to the next one.
  check(keep) {
    const cells = [...this.chosen].filter((label) => this.unchecked.has(label));
    for (const label of cells) this.answered.add(label);
    if (cells.length) this.command(keep ? "accept" : "delete", { cells });
    this.showUnchecked([...this.unchecked]);
    const [next] = [...this.unchecked].sort((one, other) => one - other);
    this.select(next ? [next] : []);
    if (next) this.bringIntoView(next);
    else this.say("No suggested cell is left to be checked. Draw what is missing.");
  }

  bringIntoView(label) {
    const { painter } = this;
    const [left, top, right, bottom] = this.labels.box(new Set([label]));
    const [width, height] = [this.canvas.width / painter.zoom, this.canvas.height / painter.zoom];
    if (left >= painter.left && top >= painter.top && right <= painter.left + width && bottom <= painter.top + height) return;
    this.moved = true;
    painter.left = (left + right - width) / 2;
    painter.top = (top + bottom - height) / 2;
    this.repaint();
  }

  cycle(by) { if (this.listens.includes("cycle")) this.model.send({ type: "cycle", by }); }

  // Whether a part of the image alone is annotated.
  isPart() { return Boolean(this.region) && (this.region.width !== this.labels.width || this.region.height !== this.labels.height); }

  annotateWhole() {
    if (this.isPart()) this.command("set_region", { corners: [[0, 0], [this.labels.height, this.labels.width]] });
    else this.say("The whole image is annotated: there is no rectangle.");
  }

  cancel() {
    if (this.stroke) {
      for (let i = this.stroke.triples.length - 3; i >= 0; i -= 3) {
        const [at, old, now] = this.stroke.triples.slice(i, i + 3);
        this.labels.pixels[at] = old;
        this.labels.count(now, -1);
        this.labels.count(old, 1);
      }
      this.stroke = null;
      this.redraw();
    }
    this.path = null;
  }

  addClass() {
    const name = this.newClass.value.trim();
    this.newClass.value = "";
    if (name) this.command("add_class", { name });
  }

  // Show the form for a class under the list of classes: its name, its colour, its removal.
  openClass(kind) {
    if (this.openKind === kind) { this.closeClass(); return; }
    this.openKind = kind;
    const button = (name, text, action) => make("button", { type: "button", class: `se-button se-${name}`, textContent: text, onclick: action });
    this.nameInput = make("input", { class: "se-text se-class-name", value: kind, "aria-label": `Name of the class ${kind}`, oninput: () => this.showClass(), onkeydown: (event) => { if (event.key === "Enter") this.renameClass(); } });
    this.renameButton = button("rename-class", "Rename", () => this.renameClass());
    this.mergeNote = make("div", { class: "se-hint", role: "status" });
    const named = Object.entries(this.palette).map(([name, colour]) => make("button", { type: "button", class: "se-colour", style: `background: ${colour}`, "data-colour": colour, "data-name": name, onclick: () => this.colourClass(colour) }));
    this.colourInput = make("input", { type: "color", class: "se-other-colour", value: this.classes[kind].toLowerCase(), title: "Another colour", "aria-label": "Another colour", onchange: () => this.colourClass(this.colourInput.value.toUpperCase()) });
    this.removeNote = make("span", { class: "se-hint se-remove-note" });
    this.classForm.setAttribute("aria-label", `Class ${kind}`);
    this.classForm.replaceChildren(
      make("div", { class: "se-line" }, this.nameInput, this.renameButton), this.mergeNote,
      make("div", { class: "se-line", role: "group", "aria-label": "Colour" }, ...named, this.colourInput),
      make("div", { class: "se-line" }, button("remove-class", "Remove class", () => this.removeClass()), this.removeNote, button("close-class", "Close", () => this.closeClass())));
    this.classForm.hidden = false;
    this.fillList();
    this.nameInput.select();
  }

  // Close the form; the focus goes back to the button that opened it, if it is still there.
  closeClass() {
    const kind = this.openKind;
    const held = this.classForm.contains(document.activeElement) || document.activeElement?.dataset?.kind === kind;
    this.openKind = null;
    this.classForm.hidden = true;
    this.fillList();
    const opener = [...this.chips.querySelectorAll(".se-class-menu")].find((node) => node.dataset.kind === kind);
    if (held) (opener ?? this.canvas).focus({ preventScroll: true });
  }

  readName() { return this.nameInput.value.trim().replace(/\s+/g, " "); }

  // Show what the buttons of the form would do now.
  showClass(counts = this.classCounts()) {
    const kind = this.openKind;
    const name = this.readName();
    const other = name !== kind && Object.hasOwn(this.classes, name);
    this.renameButton.textContent = other ? "Merge" : "Rename";
    this.renameButton.disabled = !name || name === kind;
    this.mergeNote.textContent = other ? `There is a class "${name}" already: the cells of "${kind}" would join it.` : "";
    this.mergeNote.hidden = !other;
    const n = counts.get(kind);
    this.removeNote.textContent = n ? `Its ${n > 1 ? `${n} cells` : "one cell"} will have none.` : "";
    for (const node of this.classForm.querySelectorAll(".se-colour")) {
      const { colour } = node.dataset;
      const owner = Object.keys(this.classes).find((one) => one !== kind && this.classes[one] === colour);
      node.setAttribute("aria-pressed", String(this.classes[kind] === colour));
      node.title = owner ? `${node.dataset.name}, as ${owner}` : node.dataset.name;
      node.setAttribute("aria-label", node.title);
    }
    this.colourInput.value = this.classes[kind].toLowerCase();
  }

  renameClass() {
    const [old, name] = [this.openKind, this.readName()];
    if (!name || name === old) return;
    this.command("rename_class", { old, new: name });
    this.closeClass();
    this.canvas.focus({ preventScroll: true });
  }

  removeClass() {
    this.command("remove_class", { name: this.openKind });
    this.closeClass();
    this.canvas.focus({ preventScroll: true });
  }

  colourClass(colour) {
    this.command("add_class", { name: this.openKind, colour });
    if (!this.byClass) this.say("Colour by class (K) shows it on the cells.");
  }

  // Offer to rename a class in the other images that have it.
  offerOthers({ old, new: name, images }) {
    const shown = images.slice(0, 5).join(", ") + (images.length > 5 ? " \u2026" : "");
    const button = (end, text, action) => make("button", { type: "button", class: `se-button se-${end}`, textContent: text, onclick: () => { this.others.hidden = true; action(); this.canvas.focus({ preventScroll: true }); } });
    this.others.replaceChildren(
      make("div", {}, `${images.length} other image${images.length > 1 ? "s" : ""} of this folder still ${images.length > 1 ? "have" : "has"} the class "${old}": ${shown}. Undo does not reach ${images.length > 1 ? "them" : "it"}.`),
      make("div", { class: "se-line" }, button("rename-elsewhere", "Rename there too", () => this.model.send({ type: "rename", old, new: name })), button("leave-others", "Leave as is", () => {})));
    this.others.hidden = false;
  }

  setClass(cells, name) { if (cells.length) this.command("set_class", { cells, name }); }

  // --- mouse and keys ------------------------------------------------------------------------------

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const { ratio, zoom, left, top } = this.painter;
    return [left + (event.clientX - box.left) * ratio / zoom, top + (event.clientY - box.top) * ratio / zoom];
  }

  index([x, y]) {
    const [column, row] = [Math.floor(x), Math.floor(y)];
    return column < 0 || row < 0 || column >= this.labels.width || row >= this.labels.height ? -1 : row * this.labels.width + column;
  }

  down(event) {
    if (!this.ready || this.start) return; // a second finger or pen does not count
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    event.preventDefault();
    const point = this.point(event);
    this.start = { point, x: event.clientX, y: event.clientY, moved: false, id: event.pointerId };
    if (event.button === 1 || this.space || this.tool === "select" || this.tool === "point") this.panning = [event.clientX, event.clientY];
    else if (event.button !== 0) this.start = null;
    else if (this.tool === "brush" || this.tool === "eraser") this.startStroke(point);
    else { this.path = [point]; this.away = false; }
  }

  move(event) {
    if (!this.ready || (this.start && event.pointerId !== this.start.id)) return;
    const began = performance.now();
    this.pointer = this.point(event);
    if (this.panning) {
      const [x, y] = this.panning;
      if (this.start.moved || Math.hypot(event.clientX - this.start.x, event.clientY - this.start.y) > 3) {
        this.start.moved = this.moved = true;
        this.painter.left -= (event.clientX - x) * this.painter.ratio / this.painter.zoom;
        this.painter.top -= (event.clientY - y) * this.painter.ratio / this.painter.zoom;
        this.panning = [event.clientX, event.clientY];
        this.repaint();
      }
    } else if (this.stroke) {
      const between = event.getCoalescedEvents?.() ?? [];
      for (const one of between.length ? between : [event]) this.continueStroke(this.point(one));
      this.paintTimes.push(performance.now() - began);
      if (this.paintTimes.length > 5000) this.paintTimes.shift();
    } else if (this.path && this.tool === "region") {
      this.path = [this.path[0], this.pointer]; // its two corners
    } else if (this.path) {
      this.path.push(this.pointer);
      if (this.tool === "outline" && this.closes()) this.endPath();
    } else this.hover(event);
    this.drawAbove();
  }

  up(event) {
    if (!this.start || event.pointerId !== this.start.id) return;
    const { moved, point } = this.start;
    this.start = null;
    if (this.panning) {
      this.panning = null;
      if (!moved && event.type === "pointerup" && event.button === 0) {
        if (this.tool === "select") this.click(point, event.shiftKey);
        else if (this.tool === "point") this.askForCell(point);
      }
    } else if (this.stroke) this.endStroke();
    else if (this.path) this.endPath();
    this.drawAbove();
  }

  // Whether an outline has come back to where it began.
  closes() {
    const scale = this.painter.zoom / this.painter.ratio;
    const [[x0, y0], [x, y]] = [this.path[0], this.path.at(-1)];
    this.away ||= Math.hypot(x - x0, y - y0) * scale > 16;
    return this.path.length > 8 && this.away && Math.hypot(x - x0, y - y0) * scale < 5;
  }

  endPath() {
    const points = this.path.map(([x, y]) => [y, x]);
    this.path = null;
    this.away = false;
    if (this.tool === "region") {
      if (points.length === 2) this.command("set_region", { corners: points });
      else this.say("Drag from one corner of the rectangle to the other, holding the button.");
      return;
    }
    if (points.length < 3) { this.say(this.tool === "cut" ? "Draw a line across a cell." : "Draw around a cell, holding the button."); return; }
    if (this.tool === "cut") this.command("split", { line: points, cells: [...this.chosen] });
    else this.command("outline", { points, cell: this.chosen.size === 1 ? [...this.chosen][0] : 0, protect: this.protect });
  }

  click(point, several) {
    const at = this.index(point);
    const label = at < 0 ? 0 : this.labels.pixels[at];
    if (!several) this.select(label ? [label] : []);
    else if (label) {
      const chosen = new Set(this.chosen);
      if (!chosen.delete(label)) chosen.add(label);
      this.select([...chosen]);
    }
  }

  // Ask for the cell that a model sees here.
  askForCell(point) {
    const at = this.index(point);
    if (at < 0) return;
    if (this.labels.pixels[at]) this.say("A cell is drawn here already.");
    else this.model.send({ type: "point", at: [Math.floor(point[1]), Math.floor(point[0])] });
  }

  select(labels) {
    this.chosen = new Set(labels);
    const first = labels[0] ?? 0;
    if (this.told !== first) this.model.send({ type: "select", client: this.client, label: this.told = first });
    this.redraw();
    this.relist();
    this.scrollTo(first);
    this.showState();
  }

  followSelected(label) {
    this.told = label;
    if (!this.labels || this.chosen.has(label) || (!label && !this.chosen.size)) return;
    this.select(label ? [label] : []);
  }

  hover(event) {
    const at = this.index(this.pointer);
    if (at < 0) { this.info.textContent = ""; this.tip.hidden = true; return; }
    const label = this.labels.pixels[at];
    const [x, y] = [at % this.labels.width, Math.floor(at / this.labels.width)];
    const values = (this.channels.length ? this.channels : this.layers).map((layer) => `${layer.name} ${layer.value(at)}`);
    const [kind, note] = this.facts.get(label) ?? ["", ""];
    const cell = label ? [`cell ${label}`, `${this.labels.areas[label]} px`, kind, note].filter(Boolean).join(", ") + " \u00b7 " : "";
    this.info.textContent = `${cell}x ${x}, y ${y} \u00b7 ${values.join(", ")}`;
    const text = [label && this.tips[0][label], this.truth && this.tips[1][this.truth.pixels[at]]].filter(Boolean).join("\n");
    this.tip.hidden = !text;
    if (text) {
      const box = this.stage.getBoundingClientRect();
      this.tip.textContent = text;
      this.tip.style.left = `${Math.min(event.clientX - box.left + 14, box.width - 220)}px`;
      this.tip.style.top = `${Math.min(event.clientY - box.top + 14, box.height - 60)}px`;
    }
  }

  wheel(event) {
    if (!this.ready) return;
    event.preventDefault();
    this.zoomBy(Math.exp(-clamp(event.deltaY, -100, 100) / 300), this.point(event));
  }

  key(event) {
    // No key pressed here is for the notebook around, where "r" turns a code cell into a raw one.
    if (!event.ctrlKey && !event.altKey && !event.metaKey && event.key !== "Tab") event.stopPropagation();
    if (event.key === " " && event.target !== this.canvas) return; // here it presses a button
    if (event.key === "Enter" && event.target.matches("button")) return;
    if (this.classForm?.contains(event.target) && !event.ctrlKey && !event.metaKey) {
      if (event.key === "Escape") this.closeClass();
      return;
    }
    if (event.target.matches('select, textarea, input:not([type="checkbox"]):not([type="range"])')) {
      if (event.key === "Escape") this.canvas.focus({ preventScroll: true });
      event.stopPropagation();
      return;
    }
    const control = (event.ctrlKey || event.metaKey) && !event.getModifierState("AltGraph");
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const free = {
      v: () => this.choose("select"), b: () => this.choose("brush"), e: () => this.choose("eraser"), o: () => this.choose("outline"), j: () => { if (this.listens.includes("point")) this.choose("point"); }, x: () => this.choose("cut"), r: () => this.choose("region"), u: () => this.annotateWhole(),
      n: () => this.select([]), "[": () => this.resize(this.size - (this.size > 20 ? 4 : 1)), "]": () => this.resize(this.size + (this.size >= 20 ? 4 : 1)),
      y: () => this.check(true), m: () => this.merge(), f: () => this.fill(), Delete: () => this.remove(), Backspace: () => this.remove(),
      p: () => { this.protectBox.firstChild.click(); this.say(this.protect ? "Neighbours are protected." : "You draw over neighbours."); },
      0: () => this.setClass([...this.chosen], ""), t: () => this.diskFromCells(), q: () => this.newClass.focus(),
      Enter: () => this.writeNote(), ...Object.fromEntries(Object.keys(this.classes).slice(0, 9).map((kind, k) => [String(k + 1), () => this.setClass([...this.chosen], kind)])),
    };
    const always = {
      h: () => this.masksBox.firstChild.click(), l: () => this.outlinesBox.firstChild.click(), c: () => this.nextLayer(), i: () => this.invert(),
      "+": () => this.zoomBy(1.25), "=": () => this.zoomBy(1.25), "-": () => this.zoomBy(0.8), z: () => this.zoomToChosen(),
      w: () => this.fit(), k: () => { if (this.editable) this.classBox.firstChild.click(); },
      ",": () => this.brighten(-2), ".": () => this.brighten(2),
      s: () => this.showSides(), g: () => this.fillScreen(), a: () => this.cycle(-1), d: () => this.cycle(1), PageUp: () => this.cycle(-1), PageDown: () => this.cycle(1),
      "?": () => this.help(), " ": () => { this.space = true; },
      Escape: () => { if (!this.helpPanel.hidden) this.help(false); else if (this.stroke || this.path) this.cancel(); else this.select([]); this.drawAbove(); },
    };
    const withControl = { z: () => this.turn(event.shiftKey ? "redo" : "undo"), y: () => this.turn("redo"), s: () => this.save() };
    const action = control ? (this.editable ? withControl[name] : undefined) : always[name] ?? (this.editable ? free[name] : undefined);
    if (!action || !this.labels) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  async drop(event) {
    if (!this.listens.includes("drop")) return;
    event.preventDefault();
    const step = 1 << 20;
    for (const file of [...event.dataTransfer.files]) { // a copy: the browser empties the list while a file is read
      this.say(`Taking ${file.name} \u2026`);
      let content;
      try { content = await file.arrayBuffer(); } catch { this.say(`${file.name} cannot be read: drop images, not folders.`, true); continue; }
      const parts = Math.max(Math.ceil(content.byteLength / step), 1);
      for (let part = 0; part < parts; part++) {
        this.model.send({ type: "drop", client: this.client, name: file.name, part, parts }, undefined, [content.slice(part * step, (part + 1) * step)]);
      }
    }
  }

  // --- the picture -----------------------------------------------------------------------------------

  measure(fit = false) {
    const page = this.root.closest(".scellseg-workbench");
    if (page && this.editable && !this.onHide) this.takeLook();
    if (page) { this.naming.observe(page, { childList: true, subtree: true }); this.nameSliders(); }
    const box = this.stage.getBoundingClientRect();
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const [width, height] = [Math.max(Math.round(box.width * ratio), 1), Math.max(Math.round(box.height * ratio), 1)];
    const changed = this.canvas.width !== width || this.canvas.height !== height;
    if (changed) {
      for (const canvas of [this.canvas, this.above]) Object.assign(canvas, { width, height });
      this.painter.ratio = ratio;
    }
    if (!this.labels) return;
    if (fit) this.moved = false;
    if (!this.moved) this.painter.fit(this.labels.width, this.labels.height); // once somebody has zoomed or moved, the view is theirs
    this.repaint();
  }

  fit() { this.moved = false; this.painter.fit(this.labels.width, this.labels.height); this.repaint(); }

  zoomBy(factor, point) {
    this.moved = true;
    const { painter } = this;
    const [x, y] = point ?? [painter.left + this.canvas.width / painter.zoom / 2, painter.top + this.canvas.height / painter.zoom / 2];
    const zoom = clamp(painter.zoom * factor, 0.02, 64);
    painter.left = x - (x - painter.left) * painter.zoom / zoom;
    painter.top = y - (y - painter.top) * painter.zoom / zoom;
    painter.zoom = zoom;
    this.repaint();
  }

  zoomToChosen() {
    const box = this.chosen.size ? this.labels.box(this.chosen) : null;
    if (!box) { this.say("Select a cell first: click on it."); return; }
    this.moved = true;
    const [left, top, right, bottom] = box;
    const { painter } = this;
    painter.zoom = clamp(Math.min(this.canvas.width / (right - left), this.canvas.height / (bottom - top)) / 2.5, 0.05, 24);
    painter.left = (left + right) / 2 - this.canvas.width / painter.zoom / 2;
    painter.top = (top + bottom) / 2 - this.canvas.height / painter.zoom / 2;
    this.repaint();
  }

  nextLayer() { this.layer = (this.layer + 1) % this.pictures.length; this.layerChoice.value = this.layer; this.repaint(); }

  brighten(change) {
    this.highRange.value = clamp(this.contrast[1] - change / 2, 50, 100);
    this.stretch(this.contrast[0], Number(this.highRange.value));
  }

  // Show all channels between two percentiles of their intensities.
  stretch(low, high) {
    this.contrast = [low, high];
    for (const one of Object.values(this.seen)) one.limits = null;
    this.listLights();
    this.repaint();
  }

  firstColour(k) { return RGB[this.channels[k].name] ?? LIGHTS[k % LIGHTS.length]; }

  // Darkest and brightest intensity that a layer is shown with.
  limits(layer) { return this.seen[layer.name]?.limits ?? this.contrast.map((share) => layer.intensity(layer.percentile(share))); }

  // A row for each channel: whether and in which colour it is seen with the others, from which to which intensity.
  listLights() {
    const several = this.channels.length > 1;
    const rows = this.channels.map((channel) => {
      const one = this.seen[channel.name];
      const change = (name, value) => { one[name] = value; this.repaint(); };
      const field = (k, word) => make("input", { type: "number", class: `se-number se-limit-${k}`, step: "any", value: brief(this.limits(channel)[k]), title: `${word} of ${channel.name}`, "aria-label": `${word} of ${channel.name}`, onchange: (event) => { const limits = [...this.limits(channel)]; limits[k] = Number(event.target.value); change("limits", limits); } });
      const together = [
        make("input", { type: "checkbox", class: "se-light", checked: one.on, "aria-label": `Show ${channel.name}`, title: `Show ${channel.name} with the others`, onchange: (event) => change("on", event.target.checked) }),
        make("input", { type: "color", class: "se-light-colour", value: one.colour.toLowerCase(), "aria-label": `Colour of ${channel.name}`, title: `Colour of ${channel.name}`, onchange: (event) => change("colour", event.target.value) }),
      ];
      return make("div", { class: "se-light-row" }, ...(several ? together : []), make("span", { class: "se-light-name", title: channel.name }, channel.name), field(0, "Black"), field(1, "White"),
        make("button", { type: "button", class: "se-button se-auto", title: `Brightness of ${channel.name} by itself`, onclick: () => { one.limits = null; this.listLights(); this.repaint(); } }, "Auto"));
    });
    this.lights.replaceChildren(...rows);
  }

  writeNote() {
    const [label] = this.chosen;
    if (!label) { this.say("Select a cell first: click on it."); return; }
    this.scrollTo(label);
    this.fillList();
    this.filler.querySelector(`[data-label="${label}"] .se-note`)?.focus();
  }

  invert() { this.map = this.map === 1 ? 0 : 1; this.mapChoice.value = this.map; this.repaint(); }

  showSides() { (this.root.closest(".scellseg-annotate-panel") ?? this.root).classList.toggle("se-alone"); }

  async fillScreen() {
    try {
      if (document.fullscreenElement) await document.exitFullscreen();
      else await (this.root.closest(".scellseg-workbench") ?? this.root).requestFullscreen();
    } catch (error) { this.say(`The browser does not allow the full screen: ${error.message}`, true); }
  }

  // Draw the image and the cells anew with the next frame.
  repaint() {
    if (!this.labels) return;
    this.stale = true;
    this.redraw();
  }

  colours() {
    const composite = this.pictures.length > this.layers.length && this.layer === 0;
    const layer = composite ? null : this.layers[this.layer - (this.pictures.length - this.layers.length)];
    if (layer?.kind === "rgb") return (at) => pack(layer.pixels[3 * at], layer.pixels[3 * at + 1], layer.pixels[3 * at + 2]);
    if (layer) {
      const key = `${this.layer} ${this.limits(layer)} ${this.map}`;
      if (this.tableKey !== key) {
        const map = this.maps[this.map];
        this.table = Uint32Array.from(layer.table(this.limits(layer)), (value) => pack(map[3 * value], map[3 * value + 1], map[3 * value + 2]));
        this.tableKey = key;
      }
      const { table } = this;
      const { pixels } = layer;
      return (at) => table[pixels[at]];
    }
    const shown = this.channels.filter((channel) => this.seen[channel.name].on);
    const key = JSON.stringify(shown.map((channel) => [channel.name, this.limits(channel), this.seen[channel.name].colour]));
    if (this.tableKey !== key) {
      this.tables = shown.map((channel) => {
        const ink = unhex(this.seen[channel.name].colour);
        const light = channel.table(this.limits(channel));
        return [0, 8, 16].map((shift) => light.map((value) => value * ((ink >>> shift) & 255) / 255));
      });
      this.tableKey = key;
    }
    const { tables } = this;
    const pixels = shown.map((channel) => channel.pixels);
    const invert = this.map === 1 ? 255 : 0;
    return (at) => {
      let [red, green, blue] = [0, 0, 0];
      for (let k = 0; k < pixels.length; k++) {
        const value = pixels[k][at];
        red += tables[k][0][value];
        green += tables[k][1][value];
        blue += tables[k][2][value];
      }
      return pack(Math.min(red, 255) ^ invert, Math.min(green, 255) ^ invert, Math.min(blue, 255) ^ invert);
    };
  }

  // Draw the cells anew with the next frame, within a box of the image or everywhere.
  redraw(box = null) {
    if (!this.labels) return;
    if (!box) this.dirty = null;
    else if (this.scheduled && this.dirty) {
      const [a, b, c, d] = this.dirty;
      this.dirty = [Math.min(a, box[0]), Math.min(b, box[1]), Math.max(c, box[2]), Math.max(d, box[3])];
    } else if (!this.scheduled) this.dirty = box;
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => { this.scheduled = false; this.frame(); });
  }

  frame() {
    const { painter, labels } = this;
    if (this.stale) {
      painter.grid(labels.width, labels.height);
      painter.background(this.colours());
      this.stale = false;
      this.dirty = null;
    }
    let box = null;
    if (this.dirty) {
      const [x0, y0, x1, y1] = this.dirty;
      const at = (value, start, size) => clamp(Math.round((value - start) * painter.zoom), 0, size);
      box = [at(x0 - 2, painter.left, this.canvas.width), at(y0 - 2, painter.top, this.canvas.height), at(x1 + 2, painter.left, this.canvas.width), at(y1 + 2, painter.top, this.canvas.height)];
      if (box[2] <= box[0] || box[3] <= box[1]) return;
    }
    const [given, givenTrue] = this.given;
    const shown = {
      fill: this.inks, opacity: this.opacity, masks: this.masks, outlines: this.outlines, reference: this.reference, chosen: this.chosen, unchecked: this.unchecked,
      visible: given ? (label) => label < given.length && given[label] >>> 24 > 0 : () => true,
      trueColour: givenTrue ?? this.white(),
    };
    painter.compose(labels, this.truth, shown, box);
    this.drawAbove();
  }

  white() {
    const n = this.truth?.areas.length ?? 0;
    return this.whites?.length === n ? this.whites : this.whites = new Uint32Array(n).fill(0xffffffff);
  }

  recolour() {
    this.inks = new Uint32Array(0);
    this.colourUpTo(this.labels ? this.labels.areas.length : 0);
    this.redraw();
  }

  colourUpTo(label) {
    if (label < this.inks.length) return;
    const palette = Object.values(this.palette).map(unhex);
    const [given] = this.given;
    const grown = new Uint32Array(label + 64);
    for (let one = 0; one < grown.length; one++) {
      const kind = this.facts.get(one)?.[0];
      if (given) grown[one] = one < given.length ? (given[one] | 0xff000000) >>> 0 : palette[one % palette.length];
      else if (this.byClass) grown[one] = kind ? unhex(this.classes[kind]) : PLAIN;
      else grown[one] = palette[one % palette.length];
    }
    this.inks = grown;
  }

  // Frame the part that is annotated, or is being dragged, and darken what is outside.
  drawRegion(context, place, twice) {
    let corners = this.isPart() && [[this.region.left, this.region.top], [this.region.left + this.region.width, this.region.top + this.region.height]];
    if (this.path?.length === 2 && this.tool === "region") corners = this.path.map(([x, y]) => [clamp(Math.round(x), 0, this.labels.width), clamp(Math.round(y), 0, this.labels.height)]);
    if (!corners) return;
    const [[x0, y0], [x1, y1]] = corners.map(place);
    context.beginPath();
    context.rect(0, 0, this.above.width, this.above.height);
    context.rect(x0, y0, x1 - x0, y1 - y0);
    context.fillStyle = "rgba(0, 0, 0, 0.55)";
    context.fill("evenodd");
    context.setLineDash([8 * this.painter.ratio, 5 * this.painter.ratio]);
    twice(() => context.rect(x0, y0, x1 - x0, y1 - y0));
    context.setLineDash([]);
  }

  // Draw the annotated part, the cursor, the outline under way, and the disk.
  drawAbove() {
    const context = this.above.getContext("2d");
    const { zoom, left, top, ratio } = this.painter;
    context.clearRect(0, 0, this.above.width, this.above.height);
    if (!this.labels) return;
    const place = ([x, y]) => [(x - left) * zoom, (y - top) * zoom];
    const twice = (draw) => { // a light line on a dark one is seen on any image
      for (const [colour, width] of [["#000", 3], ["#fff", 1.25]]) {
        Object.assign(context, { strokeStyle: colour, lineWidth: width * ratio });
        context.beginPath();
        draw();
        context.stroke();
      }
    };
    this.drawRegion(context, place, twice);
    if (this.path && this.tool !== "region") twice(() => this.path.forEach((point, k) => context[k ? "lineTo" : "moveTo"](...place(point))));
    if (this.pointer && (this.tool === "brush" || this.tool === "eraser") && !this.panning) {
      const [x, y] = place(this.snap(this.pointer));
      twice(() => (this.size === 1 ? context.rect(x - zoom / 2, y - zoom / 2, zoom, zoom) : context.arc(x, y, this.size / 2 * zoom, 0, 7)));
    }
    const write = (text, x, y) => {
      Object.assign(context, { font: `${12 * ratio}px sans-serif`, strokeStyle: "#000", lineWidth: 3 * ratio, fillStyle: "#fff" });
      context.strokeText(text, x, y);
      context.fillText(text, x, y);
    };
    if (this.pixelSize) this.drawScale(context, write);
    const diameter = this.editable ? this.model.get("diameter") : 0;
    if (diameter > 0) {
      const radius = diameter / 2 * zoom;
      const [x, y] = [radius + 12 * ratio, this.above.height - radius - 26 * ratio];
      twice(() => context.arc(x, y, radius, 0, 7));
      write(`${Number(diameter.toFixed(1))} px`, 12 * ratio, this.above.height - 8 * ratio);
    }
  }

  // Draw a bar of 1, 2 or 5 times a power of ten micrometres, up to a fifth of the width.
  drawScale(context, write) {
    const { zoom, ratio } = this.painter;
    const { width, height } = this.above;
    const most = width / 5 / zoom * this.pixelSize;
    const power = 10 ** Math.floor(Math.log10(most));
    this.scale = [5, 2, 1].find((digit) => digit * power <= most) * power; // micrometres
    const length = this.scale / this.pixelSize * zoom;
    const [x, y] = [width - 14 * ratio - length, height - 12 * ratio];
    for (const [colour, margin] of [["#000", ratio], ["#fff", 0]]) {
      context.fillStyle = colour;
      context.fillRect(x - margin, y - margin, length + 2 * margin, 4 * ratio + 2 * margin);
    }
    write(`${brief(this.scale)} \u00b5m`, x, y - 6 * ratio);
  }

  // --- words and the list --------------------------------------------------------------------------

  // What the tool does, in the place of what was said before.
  hint() { this.say(this.editable ? TOOLS.find(([name]) => name === this.tool)[3] : ""); }

  say(text, error = false, busy = false) {
    this.busy = busy;
    this.message.textContent = (error ? "\u26a0 " : "") + text;
    this.message.classList.toggle("se-error", Boolean(error));
  }

  help(open = this.helpPanel.hidden) { this.helpPanel.hidden = !open; }

  diskFromCells() { if (this.labels) this.setDiameter(Number(this.labels.diameter().toFixed(1))); }

  setDiameter(value) {
    this.model.set("diameter", Math.max(value || 0, 0));
    this.model.send({ type: "diameter", value: this.model.get("diameter") }); // save_changes() waits for a lost answer for ever
    this.showDiameter();
  }

  showDiameter() {
    if (this.editable) this.diskInput.value = Number(this.model.get("diameter").toFixed(1));
    this.drawAbove();
  }

  showState() {
    if (!this.editable) return;
    this.undoButton.disabled = !this.undo.length;
    this.redoButton.disabled = !this.redo.length;
    this.wholeButton.disabled = !this.isPart();
    this.cellButtons[0].disabled = this.chosen.size < 2;
    this.cellButtons[2].disabled = !this.chosen.size;
    const waiting = this.outbox.waiting.size;
    this.root.dataset.waiting = waiting;
    clearTimeout(this.slow);
    if (waiting) this.slow = setTimeout(() => this.say(`The computer is busy: ${waiting > 1 ? `${waiting} edits wait` : "one edit waits"}, none is lost.`, false, true), 1500);
    else if (this.busy) this.say("All edits have arrived.");
  }

  relist() {
    if (!this.editable || this.listing) return;
    this.listing = true;
    requestAnimationFrame(() => { this.listing = false; this.fillList(); });
  }

  fillList() {
    if (!this.labels) return;
    const every = this.labels.list();
    const fact = (label, k) => this.facts.get(label)?.[k] ?? "";
    const value = { label: (l) => l, area: (l) => this.labels.areas[l], class: (l) => fact(l, 0), note: (l) => fact(l, 1) }[this.sort[0]];
    const found = this.filter ? every.filter((l) => String(l) === this.filter || `${fact(l, 0)} ${fact(l, 1)}`.toLowerCase().includes(this.filter)) : every;
    const ascending = (a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : a - b);
    this.order = found.sort((a, b) => this.sort[1] * ascending(a, b));
    const diameter = this.labels.diameter();
    const shownToo = found.length < every.length ? `, ${found.length} shown` : "";
    this.counts.textContent = every.length ? `${every.length} cell${every.length > 1 ? "s" : ""}${shownToo}; median diameter ${diameter.toFixed(1)} px` : "No cells yet: choose Brush or Outline and draw one.";
    this.listClasses(every);
    for (const node of this.head.querySelectorAll(".se-column")) node.dataset.sorted = node.classList.contains(`se-sort-${this.sort[0]}`) ? (this.sort[1] > 0 ? "\u25b4" : "\u25be") : "";
    this.filler.style.height = `${this.order.length * ROW}px`;
    this.showRows();
  }

  classCounts(cells = this.labels.list()) {
    const counts = new Map(Object.keys(this.classes).map((kind) => [kind, 0]));
    for (const label of cells) {
      const kind = this.facts.get(label)?.[0];
      if (kind) counts.set(kind, (counts.get(kind) ?? 0) + 1);
    }
    return counts;
  }

  listClasses(cells) {
    const counts = this.classCounts(cells);
    const held = this.chips.contains(document.activeElement) ? document.activeElement : null;
    const chip = ([kind, count], k) => make("span", { class: "se-pair" },
      make("button", { type: "button", class: "se-chip", "data-kind": kind, title: `Put the selected cells into ${kind}${k < 9 ? ` (${k + 1})` : ""}`, onclick: () => { this.setClass([...this.chosen], kind); this.canvas.focus({ preventScroll: true }); } },
        make("span", { class: "se-swatch", style: `background: ${this.classes[kind]}` }), make("span", { class: "se-kind" }, kind), ` ${count}`),
      make("button", { type: "button", class: "se-chip se-class-menu", "data-kind": kind, title: "Name, colour, remove", "aria-label": `Change the class ${kind}`, "aria-expanded": String(kind === this.openKind), onclick: () => this.openClass(kind), textContent: "\u22ef" }));
    const none = make("span", { class: "se-hint" }, "No classes yet. Name one; a click on it then puts the selected cells into it.");
    this.chips.replaceChildren(...(counts.size ? [...counts].map(chip) : [none]));
    if (held) [...this.chips.querySelectorAll("button")].find((node) => node.className === held.className && node.dataset.kind === held.dataset.kind)?.focus();
    if (this.openKind && !Object.hasOwn(this.classes, this.openKind)) this.closeClass();
    else if (this.openKind) this.showClass(counts);
  }

  showRows() {
    if (!this.order) return;
    const focused = this.filler.contains(document.activeElement) && /^(input|select)$/i.test(document.activeElement.tagName);
    if (focused) return; // somebody types in a field, which must not be replaced
    const first = Math.max(Math.floor(this.rows.scrollTop / ROW) - 4, 0);
    const last = Math.min(first + Math.ceil(this.rows.clientHeight / ROW) + 8, this.order.length);
    this.filler.replaceChildren(...this.order.slice(first, last).map((label, k) => this.row(label, (first + k) * ROW)));
  }

  row(label, top) {
    const [kind, note] = this.facts.get(label) ?? ["", ""];
    const colour = this.inks[label] ?? 0;
    const swatch = make("span", { class: "se-swatch", style: `background: rgb(${colour & 255} ${(colour >> 8) & 255} ${(colour >> 16) & 255})` });
    const several = () => (this.chosen.has(label) ? [...this.chosen] : [label]);
    const option = (text, name) => make("option", { value: name, textContent: text, selected: name === kind });
    const classes = make("select", { class: "se-select se-class", "aria-label": `Class of cell ${label}`, onchange: () => { this.setClass(several(), classes.value); classes.blur(); } }, option("\u2013", ""), ...Object.keys(this.classes).map((name) => option(name, name)));
    const notes = make("input", { class: "se-text se-note", value: note, "aria-label": `Note on cell ${label}`, onchange: () => this.command("set_note", { cells: [label], text: notes.value }), onkeydown: (event) => { if (event.key === "Enter") notes.blur(); }, onblur: () => this.relist() });
    const row = make("div", { class: "se-row se-cell", style: `top: ${top}px`, "data-label": label, "aria-selected": String(this.chosen.has(label)) },
      swatch, make("button", { type: "button", class: "se-number-cell", title: "Go to the cell", textContent: label }), make("span", { class: "se-area" }, String(this.labels.areas[label])), classes, notes);
    row.addEventListener("click", (event) => {
      if (/^(input|select|option)$/i.test(event.target.tagName)) return;
      if (event.shiftKey) this.select([...new Set([...this.chosen, label])]);
      else { this.select([label]); this.zoomToChosen(); }
      this.canvas.focus({ preventScroll: true });
    });
    return row;
  }

  scrollTo(label) {
    const at = label && this.order ? this.order.indexOf(label) : -1;
    if (at < 0) return;
    const { scrollTop, clientHeight } = this.rows;
    if (at * ROW < scrollTop || (at + 1) * ROW > scrollTop + clientHeight) this.rows.scrollTop = Math.max(at * ROW - clientHeight / 2, 0);
  }
}

export default {
  render({ model, el }) {
    const editor = new Editor(model, el);
    return () => editor.close();
  },
};
