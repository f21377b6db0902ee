// A section: its state, its controls, and views that are drawn anew when either changes.

class Section {
  constructor(section, number) {
    this.section = section;
    this.id = `section-${number}`;
    this.by = section.keys.filter((key) => key.shown).map((key) => key.name);
    this.configurations = groupsOf(section, this.by).filter((group) => group.arm >= 0);
    this.baseline = (this.configurations.find((group) => group.keys.attention === "none") || this.configurations[0] || {}).arm;
    this.text = "";
    this.only = {};
    this.sorting = { column: section.headline, down: section.direction === "max" };
    this.open = new Set();
    this.cost = (section.costs.find(({ name }) => name === "latency") || section.costs[0] || {}).name;
    this.curve = section.headline;
    this.axis = "step";
    this.picture = null;
    this.element = this.build();
  }

  build() {
    const { section, id } = this;
    this.views = {};
    const card = (name, title) => {
      this.views[name] = make("div");
      return make("div", { class: "card", id: `${id}-${name}` }, make("h3", {}, title), this.views[name]);
    };
    const facts = make("dl", { class: "facts" });
    for (const [name, value, differs] of section.facts) {
      facts.append(make("div", { class: differs ? "differs" : null }, make("dt", {}, name), make("dd", {}, value)));
    }
    const parts = [card("table", "Scores and costs")];
    if (this.configurations.length > 1) parts.push(card("difference", "Difference from a baseline"));
    if (this.cost) parts.push(card("cost", "Score against cost"));
    if (section.runs.some((run) => Object.keys(run.curves).length)) parts.push(card("curves", "Curves"));
    if (section.differences && Object.keys(section.differences.images).length) parts.push(card("images", "Images that differ most"));
    if (section.runs.some((run) => Object.keys(run.pictures).length)) parts.push(card("pictures", "The same image in every run"));
    const title = make("h2", { id: `${id}-title` }, section.title);
    return make("section", { class: "section", id, "aria-labelledby": `${id}-title` }, title, facts, this.controls(), ...parts);
  }

  controls() {
    const { section } = this;
    const grouping = make("fieldset", { class: "grouping" }, make("legend", {}, "Group by"));
    for (const { name, label, shown } of section.keys) {
      if (!shown && new Set(section.runs.map((run) => run.keys[name])).size < 2) continue;  // it would fold the same rows
      const box = make("input", { type: "checkbox", name, checked: this.by.includes(name), onchange: () => this.regroup(grouping) });
      grouping.append(make("label", { title: name }, box, label));
    }
    const search = make("input", { type: "search", oninput: (event) => this.filter(() => (this.text = event.target.value.toLowerCase())) });
    const filters = [labelled("Rows that contain", search)];
    for (const { name, label } of section.keys) {
      const values = [...new Set(section.runs.map((run) => run.keys[name]))].sort();
      if (values.length < 2 || values.length > 60) continue;
      const options = [["*", "all"], ...values.map((value) => [`=${value}`, value || "none"])];
      filters.push(choice(label, options, "*", (value) => this.filter(() => {
        if (value === "*") delete this.only[name];
        else this.only[name] = value.slice(1);
      })));
    }
    this.status = make("p", { class: "note", role: "status" });
    return make("div", {}, make("div", { class: "controls" }, grouping), make("div", { class: "controls filters" }, ...filters), this.status);
  }

  regroup(grouping) {
    const asked = [...grouping.querySelectorAll("input:checked")].map((box) => box.name);
    this.by = this.section.keys.map((key) => key.name).filter((name) => asked.includes(name));
    this.open.clear();
    this.update();
  }

  filter(change) {
    change();
    this.update();
  }

  update() {
    this.groups = groupsOf(this.section, this.by);
    const shown = this.groups.filter((group) => group.runs.some((run) => this.isShown(run)));
    this.shown = shown;
    this.status.textContent =
      shown.length < this.groups.length
        ? `${shown.length} of ${this.groups.length} rows are shown; every number is of all runs of its row.`
        : `${shown.length} rows of ${this.section.runs.filter((run) => run.state === "finished").length} runs.`;
    this.drawTable();
    this.redraw();
  }

  redraw() {
    if (this.views.difference) drawDifference(this);
    if (this.views.cost) drawCost(this);
    if (this.views.curves) drawCurves(this);
    if (this.views.images) drawImages(this);
    if (this.views.pictures) drawPictures(this);
  }

  isShown(run) {
    if (Object.entries(this.only).some(([name, value]) => run.keys[name] !== value)) return false;
    return [run.name, ...Object.values(run.keys)].join("\n").toLowerCase().includes(this.text);
  }

  // The table.

  columns() {
    const { section } = this;
    const key = ({ name, label }) => ({ name, label, of: (group) => group.keys[name], cell: (group) => make("td", {}, group.keys[name] || "–") });
    const number = (name, label, of, cell) => ({ name, label, number: true, of, cell });
    const scores = [section.headline, ...section.beside].map((name) =>
      number(name, name, (group) => (group.scores[name] || { mean: null }).mean, (group) => spreadCell(group.scores[name])));
    const costs = section.costs.map(({ name, label }) =>
      number(name, label, (group) => (group.costs[name] || { mean: null }).mean, (group) => costCell(group.costs[name])));
    if (this.groups.some((group) => group.arm >= 0)) {
      const interval = (group) => (group.arm < 0 ? null : section.differences.arms[group.arm].interval);
      scores.splice(1, 0, number("interval", "95 % interval", (group) => interval(group) && interval(group)[0],
        (group) => make("td", { class: "number" }, interval(group) ? `${interval(group).map(score).join(" to ")}${section.differences.arms[group.arm].seeds ? "" : " *"}` : "–")));
    }
    const runs = number("runs", "runs", (group) => group.runs.length, (group) => make("td", { class: "number" }, String(group.runs.length)));
    return [...section.keys.filter((one) => this.by.includes(one.name) && !this.isConstant(one.name)).map(key), ...scores, runs, ...costs];
  }

  /** Keys in which no two rows differ stand in the caption. */
  isConstant(name) {
    return this.groups.length > 1 && new Set(this.groups.map((group) => group.keys[name])).size === 1;
  }

  drawTable() {
    const { section } = this;
    const columns = this.columns();
    const heads = columns.map((column) => {
      const sorted = this.sorting.column === column.name;
      const button = make("button", { type: "button", "data-column": column.name, onclick: () => this.sort(column) }, column.label);
      return make("th", { scope: "col", class: column.number ? "number" : null, "aria-sort": sorted ? (this.sorting.down ? "descending" : "ascending") : "none" }, button);
    });
    const remarks = this.shown.some((group) => group.remark);
    const body = make("tbody");
    for (const group of this.ordered(columns)) {
      const key = JSON.stringify(Object.values(group.keys)) + group.runs[0].id;
      const more = this.detail(group, columns.length + 1 + remarks);
      const button = make("button", {
        type: "button", "aria-expanded": String(this.open.has(key)), "aria-label": `All scores of ${group.label}`,
        onclick: () => this.toggle(key, button, more),
      }, this.open.has(key) ? "▾" : "▸");
      more.hidden = !this.open.has(key);
      const cells = columns.map((column) => column.cell(group));
      if (remarks) cells.push(make("td", { class: "long unfinished" }, group.remark));
      body.append(make("tr", { "data-group": group.label }, make("td", {}, button), ...cells), more);
    }
    const constant = this.by.filter((name) => this.isConstant(name)).map((name) => named(section, name, this.groups[0].keys[name]));
    const folded = this.groups.some((group) => group.runs.length > 1) ? ", mean ± standard deviation over the runs of a row" : "";
    const title = `Best evaluation of every run${folded}.${constant.length ? ` All: ${constant.join(", ")}.` : ""}`;
    const table = make("table", { class: "scores" }, caption(title),
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, make("span", { "aria-label": "All scores" })), ...heads, remarks ? make("th", { scope: "col" }, "remark") : null)), body);
    const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.column : null;
    this.views.table.replaceChildren(scrolling(table, `Scores and costs, ${section.title}`), ...this.notes());
    const again = focused && this.views.table.querySelector(`th button[data-column="${CSS.escape(focused)}"]`);
    if (again) again.focus();
  }

  notes() {
    const notes = [];
    const single = this.groups.filter((group) => group.runs.length === 1).length;
    if (single) notes.push(make("p", { class: "note" }, `${single === this.groups.length ? "Every row is" : single === 1 ? "One row is" : `${single} rows are`} of one run: how much another seed would change it is not known.`));
    const left = this.section.differences ? this.section.differences.left_out : [];
    if (this.groups.some((group) => group.arm >= 0 && group.runs.length === 1)) notes.push(make("p", { class: "note" }, "* of the images alone: the seed is not in it."));
    if (left.length) {
      const list = make("ul", {}, ...left.map((words) => make("li", {}, words)));
      notes.push(make("details", { class: "note", open: left.length < 4 }, make("summary", { class: "unfinished" }, "Rows without an interval"), list));
    }
    if (this.section.measured) notes.push(make("p", { class: "note measured" }, sentence(this.section.measured)));
    const others = this.section.runs.filter((run) => run.state !== "finished");
    if (others.length) notes.push(make("p", { class: "note" }, "In no number:"), stateTable(others, (run) => score(run.scores[this.section.headline]), this.section.headline));
    return notes;
  }

  ordered(columns) {
    const column = columns.find(({ name }) => name === this.sorting.column);
    if (!column) return this.shown;
    const known = this.shown.filter((group) => column.of(group) !== null);
    const compare = column.number ? (a, b) => column.of(a) - column.of(b) : (a, b) => column.of(a).localeCompare(column.of(b));
    known.sort((a, b) => (this.sorting.down ? -1 : 1) * compare(a, b) || a.place - b.place);
    return [...known, ...this.shown.filter((group) => column.of(group) === null)];
  }

  sort(column) {
    const again = this.sorting.column === column.name;
    this.sorting = { column: column.name, down: again ? !this.sorting.down : Boolean(column.number) };
    this.drawTable();
  }

  toggle(key, button, more) {
    const open = !this.open.delete(key);
    if (open) this.open.add(key);
    more.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
    button.textContent = open ? "▾" : "▸";
  }

  detail(group, width) {
    const names = Object.keys(group.scores);
    const whole = names.filter((name) => !name.includes("/"));
    const kinds = [...new Set(names.filter((name) => name.includes("/")).map((name) => name.split("/")[0]))];
    const classes = [...new Set(names.filter((name) => name.includes("/")).map((name) => name.slice(name.indexOf("/") + 1)))];
    const rows = (list, cells) => make("tbody", {}, ...list.map((name) => make("tr", {}, make("th", { scope: "row" }, name), ...cells(name))));
    const head = (...titles) => make("thead", {}, make("tr", {}, ...titles.map((title) => make("th", { scope: "col" }, title))));
    const side = make("div", { class: "side" },
      make("table", { class: "whole" }, make("caption", {}, "All scores"), head("score", "mean"), rows(whole, (name) => [spreadCell(group.scores[name])])));
    if (classes.length) {
      side.append(make("table", { class: "classes" }, make("caption", {}, "By class"), head("class", ...kinds),
        rows(classes, (name) => kinds.map((kind) => spreadCell(group.scores[`${kind}/${name}`] || null)))));
    }
    side.append(make("table", { class: "runs" }, make("caption", {}, "Runs"), head("run", "seed", this.section.headline),
      make("tbody", {}, ...group.runs.map((run) => make("tr", {}, make("th", { scope: "row", title: run.name }, brief(run)),
        make("td", { class: "number" }, run.seed === null ? "–" : String(run.seed)), make("td", { class: "number", "data-value": run.scores[this.section.headline] }, score(run.scores[this.section.headline])))))));
    return make("tr", { class: "more" }, make("td", { colspan: width }, side));
  }
}
