// The list of classes: share, colour and switch of each, the largest first.

const MANY = 20;

export class Classes {
  // changed(off): called with the set of class numbers that are switched off.
  constructor(parts, changed) {
    Object.assign(this, parts); // list, filter, all, none, count, noMatch
    this.changed = changed;
    this.off = new Set();
    this.rows = [];
    this.all.addEventListener("click", () => this.switchAll(true));
    this.none.addEventListener("click", () => this.switchAll(false));
    this.filter.addEventListener("input", () => this.find());
    this.list.addEventListener("pointerenter", () => { this.held = true; });
    this.list.addEventListener("pointerleave", () => { this.held = false; });
  }

  // off: names that were switched off before.
  set(names, palette, off) {
    this.off = new Set(names.flatMap((name, index) => (off.includes(name) ? [index] : [])));
    this.names = names;
    this.rows = names.map((name, index) => this.row(name, palette[index], index));
    this.list.replaceChildren(...this.rows.map((row) => row.item));
    this.filter.hidden = names.length <= MANY;
    this.filter.value = "";
    this.shares = null;
    this.find();
    this.changed(this.off);
  }

  row(name, [r, g, b], index) {
    const item = document.createElement("li");
    const label = append(item, "label", "class");
    append(label, "span", "swatch").style.background = `rgb(${r} ${g} ${b})`;
    append(label, "span", "name", name).title = name;
    const meter = append(append(label, "span", "meter"), "i");
    const share = append(label, "span", "share");
    const input = append(label, "input");
    input.type = "checkbox";
    input.setAttribute("role", "switch");
    input.setAttribute("aria-label", name);
    input.checked = !this.off.has(index);
    input.addEventListener("change", () => this.switchOne(index, input.checked));
    const row = { item, label, meter, share, input, index, name: name.toLowerCase() };
    label.classList.toggle("off", this.off.has(index));
    return row;
  }

  switchOne(index, on) {
    const { label, input } = this.rows[index];
    if (on) this.off.delete(index);
    else this.off.add(index);
    input.checked = on;
    label.classList.toggle("off", !on);
    this.changed(this.off);
  }

  // All that the filter shows.
  switchAll(on) {
    for (const { item, label, input, index } of this.rows) {
      if (item.hidden) continue;
      if (on) this.off.delete(index);
      else this.off.add(index);
      input.checked = on;
      label.classList.toggle("off", !on);
    }
    this.changed(this.off);
  }

  find() {
    const wanted = this.filter.value.trim().toLowerCase();
    let shown = 0;
    for (const { item, name } of this.rows) {
      item.hidden = !name.includes(wanted);
      shown += !item.hidden;
    }
    this.noMatch.hidden = shown > 0;
  }

  // New shares, 0..1; the list follows calmly: at most twice a second.
  update(shares) {
    // Half of the old value: numbers that flicker cannot be read.
    this.shares = this.shares?.length === shares.length
      ? shares.map((share, i) => (share + this.shares[i]) / 2) : shares;
    // The largest fills its bar: most shares are small, and would all look alike.
    const most = Math.max(1e-9, ...this.shares);
    let present = 0;
    for (const { label, meter, share, index } of this.rows) {
      const value = this.shares[index] || 0, here = value >= 0.0005;
      present += here;
      share.textContent = here ? `${(value * 100).toFixed(1)} %` : "–";
      meter.style.width = `${(value / most) * 100}%`;
      label.classList.toggle("absent", !here);
    }
    this.count.textContent = `${present} of ${this.rows.length}`;
    this.sort();
  }

  // No shares are known: those of another source, say.
  clear() {
    this.shares = null;
    for (const { label, meter, share } of this.rows) {
      share.textContent = "–";
      meter.style.width = "0";
      label.classList.add("absent");
    }
    this.count.textContent = "";
  }

  sort() {
    // A row must not slip away from under a finger, nor lose the keyboard's focus.
    if (this.held || this.list.querySelector(":focus-visible")) return;
    const value = (row) => Math.round((this.shares[row.index] || 0) * 200);
    const order = [...this.rows].sort((a, b) => value(b) - value(a) || a.index - b.index);
    order.forEach(({ item }, place) => {
      if (this.list.children[place] !== item) this.list.insertBefore(item, this.list.children[place]);
    });
  }
}

function append(parent, tag, name = "", text = "") {
  const child = document.createElement(tag);
  if (name) child.className = name;
  if (text) child.textContent = text;
  parent.append(child);
  return child;
}
