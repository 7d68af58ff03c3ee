// Images of a folder with small pictures, and a dialog to open another folder.

const WORDS = { "\u25cf": "done", "\u25cb": "not begun", "\u25d0": "begun", "\u25cc": "suggestions alone" }; // marks of images
const KEPT = "scellseg:place"; // where somebody was, for a page that is loaded anew in this tab

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  node.setAttribute("data-lm-suppress-shortcuts", "true"); // no key pressed here is for the notebook around
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const button = (name, text, action, title = "") => make("button", { type: "button", className: `se-button se-${name}`, textContent: text, title, onclick: action });

class FolderView {
  constructor(model, element) {
    this.model = model;
    this.pictures = new Map(); // addresses of small pictures, by file
    this.list = make("div", { className: "se-images", role: "listbox", "aria-label": "Images", tabIndex: 0, onkeydown: (event) => this.key(event) });
    this.dialog = this.buildDialog();
    this.root = make("div", { className: "se-folder" }, button("open-folder", "Open a folder \u2026", () => this.open(), "Choose a folder of images on this computer"), this.list, this.dialog);
    this.watcher = new IntersectionObserver(() => this.want(), { root: this.list });
    this.heard = { "msg:custom": (content, buffers) => this.receive(content, buffers), "change:images": () => this.fill(), "change:value": () => this.mark(), "change:place": () => this.keep() };
    for (const [event, act] of Object.entries(this.heard)) model.on(event, act);
    element.append(this.root);
    this.fill();
    this.comeBack();
  }

  close() {
    for (const [event, act] of Object.entries(this.heard)) this.model.off(event, act);
    this.watcher.disconnect();
    clearTimeout(this.wanting);
    for (const url of this.pictures.values()) URL.revokeObjectURL(url);
  }

  tell(type, what) { this.model.send({ type, what }); }

  // --- where somebody was -----------------------------------------------------------------------

  keep() { try { sessionStorage.setItem(KEPT, JSON.stringify(this.model.get("place"))); } catch { /* not allowed */ } }

  comeBack() {
    const now = this.model.get("place");
    let before = null;
    try { before = JSON.parse(sessionStorage.getItem(KEPT)); } catch { /* not ours */ }
    const alone = "voila" in document.body.dataset; // in JupyterLab the notebook's code says where
    if (alone && before && before.start === now.start && JSON.stringify(before) !== JSON.stringify(now)) this.tell("return", before);
    else this.keep();
  }

  // --- the list ---------------------------------------------------------------------------------

  fill() {
    const { scrollTop } = this.list;
    this.watcher.disconnect();
    this.list.hidden = !this.model.get("images").length;
    this.list.replaceChildren(...this.model.get("images").map(([mark, name, file], k) => {
      const shown = this.pictures.get(file);
      const picture = make("img", { className: "se-small", alt: "", hidden: !shown, ...(shown ? { src: shown } : {}) });
      const row = make("div", { className: "se-image", id: `se-image-${this.model.model_id}-${k}`, role: "option", title: `${name}, ${WORDS[mark]}`, "aria-label": `${name}, ${WORDS[mark]}`, onclick: () => this.tell("choose", file) },
        make("span", { className: "se-frame" }, picture), make("span", { className: "se-mark", "aria-hidden": "true" }, mark), make("span", { className: "se-name" }, name));
      row.dataset.file = file;
      this.watcher.observe(row);
      return row;
    }));
    this.list.scrollTop = scrollTop;
    this.mark();
  }

  mark() {
    const value = this.model.get("value");
    this.asked = null;
    this.list.removeAttribute("aria-activedescendant");
    for (const row of this.list.children) {
      const isOpen = row.dataset.file === value;
      row.setAttribute("aria-selected", String(isOpen));
      if (!isOpen) continue;
      this.list.setAttribute("aria-activedescendant", row.id);
      const top = row.offsetTop - this.list.offsetTop;
      if (top < this.list.scrollTop || top + row.offsetHeight > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = top - this.list.clientHeight / 2;
    }
  }

  key(event) {
    const rows = [...this.list.children];
    const at = rows.findIndex((row) => row.dataset.file === (this.asked ?? this.model.get("value")));
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    if (rows[to]) this.tell("choose", this.asked = rows[to].dataset.file); // which may take a moment
  }

  // Ask for small pictures of the rows that are seen, once the list has come to rest.
  want() {
    clearTimeout(this.wanting);
    this.wanting = setTimeout(() => {
      const box = this.list.getBoundingClientRect();
      const isSeen = (row) => { const { top, bottom } = row.getBoundingClientRect(); return bottom > box.top && top < box.bottom; };
      const files = [...this.list.children].filter((row) => isSeen(row) && !this.pictures.has(row.dataset.file)).map((row) => row.dataset.file);
      if (files.length) this.tell("pictures", files);
    }, 200);
  }

  receive(content, buffers) {
    if (content.type === "folders") this.show(content);
    if (content.type !== "picture") return;
    this.pictures.set(content.file, URL.createObjectURL(new Blob([buffers[0]], { type: "image/jpeg" })));
    const row = [...this.list.children].find((one) => one.dataset.file === content.file);
    const picture = row?.querySelector("img");
    if (picture) [picture.src, picture.hidden] = [this.pictures.get(content.file), false];
  }

  // --- the dialog ---------------------------------------------------------------------------------

  buildDialog() {
    this.where = make("div", { className: "se-where", role: "status" });
    this.up = button("up", "\u2191 Up", () => this.tell("look", this.told.parent), "The folder above");
    this.inside = make("div", { className: "se-folders", role: "group", "aria-label": "Folders inside" });
    this.recent = make("div", { className: "se-folders", role: "group", "aria-label": "Opened before" });
    this.number = make("span", { className: "se-hint" });
    this.opening = button("open-this se-save", "Open this folder", () => this.choose());
    return make("dialog", { className: "se-dialog", "aria-label": "Open a folder", onkeydown: (event) => event.stopPropagation() },
      make("h2", {}, "Open a folder"), make("div", { className: "se-line" }, this.up, this.where),
      make("div", { className: "se-places" }, make("section", {}, make("h3", {}, "Folders inside"), this.inside), make("section", {}, make("h3", {}, "Opened before"), this.recent)),
      make("div", { className: "se-line se-choose" }, this.number, this.opening, button("cancel", "Cancel", () => this.dialog.close())));
  }

  open() {
    this.opening.disabled = true;
    this.tell("look", "");
    this.dialog.showModal();
  }

  show(told) {
    this.told = told;
    this.opening.disabled = false;
    this.where.textContent = told.folder;
    this.up.disabled = !told.parent;
    this.number.textContent = told.images === 1 ? "One image here" : `${told.images || "No"} images here`;
    const entry = (text, folder) => button("entry", text, () => this.tell("look", folder), folder);
    const none = (text) => make("span", { className: "se-hint" }, text);
    this.inside.replaceChildren(...(told.folders.length ? told.folders.map(([name, folder]) => entry(name, folder)) : [none("There are none.")]));
    this.recent.replaceChildren(...(told.recent.length ? told.recent.map((folder) => entry(folder.split(/[\\/]/).at(-1) || folder, folder)) : [none("None yet.")]));
    if (document.activeElement === document.body) (this.inside.querySelector("button") ?? this.up).focus(); // the button that was pressed is gone
  }

  choose() {
    this.dialog.close();
    this.tell("open", this.told.folder);
  }
}

export default {
  render({ model, el }) {
    const view = new FolderView(model, el);
    return () => view.close();
  },
};
