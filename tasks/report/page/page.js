"use strict";
// The numbers come with the page; everything here shows them, sorts them and hides some.

const content = JSON.parse(document.getElementById("data").textContent);
const PALETTE = {
  light: ["#0b57a4", "#c2571a", "#1d7d4f", "#8b3fa0", "#a3172a", "#00758a", "#7a6200", "#5b6067"],
  dark: ["#7db8f5", "#f5a66b", "#69cf9c", "#d39be6", "#ff8f9c", "#5fd0e3", "#dcc45a", "#b4bac1"],
};
const DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]];
const dark = matchMedia("(prefers-color-scheme: dark)");

// Elements.

function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function choice(label, options, chosen, change, id = null) {
  const list = make("select", { id, onchange: (event) => change(event.target.value) });
  for (const [value, text] of options) list.append(make("option", { value, selected: value === chosen }, text));
  return labelled(label, list);
}

let numbers = 0;

function labelled(label, control) {
  if (!control.id) control.id = `control-${(numbers += 1)}`;
  return make("div", { class: "control" }, make("label", { for: control.id }, label), control);
}

// Runs are called by what their folders do not have in common.

const everyRun = [...content.sections.flatMap((section) => section.runs), ...content.unscored];
const shared = everyRun.map((run) => run.name.split("/").slice(0, -1)).reduce((common, parts) => {
  const end = common.findIndex((part, place) => part !== parts[place]);
  return end < 0 ? common : common.slice(0, end);
});
const brief = (run) => run.name.split("/").slice(shared.length).join("/");

// Numbers.

const score = (value) => (value === null || value === undefined ? "–" : value.toFixed(4));
const signed = (value) => (value === null ? "–" : (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(4));

function short(value) {
  if (value === null) return "–";
  for (const [size, unit] of [[1e9, " G"], [1e6, " M"], [1e4, " k"]]) {
    if (value >= size) return (value / (unit === " k" ? 1e3 : size)).toPrecision(3) + unit;
  }
  return Number(value.toPrecision(4)).toString();
}

/** Mean, standard deviation (n - 1) and number of the values that are defined; null where none is. */
function spread(values) {
  const defined = values.filter((value) => value !== null && value !== undefined);
  if (!defined.length) return null;
  const mean = defined.reduce((sum, value) => sum + value, 0) / defined.length;
  const squares = defined.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, deviation: defined.length > 1 ? Math.sqrt(squares / (defined.length - 1)) : null, count: defined.length };
}

function spreadCell(found) {
  const cell = make("td", { class: "number", "data-value": found ? found.mean : null }, score(found && found.mean));
  if (found && found.deviation !== null) {
    cell.dataset.deviation = found.deviation;
    cell.append(make("small", {}, ` ± ${score(found.deviation)}`));
  }
  return cell;
}

// Groups: always of all finished runs of a section, whatever a filter hides.

function groupsOf(section, by) {
  const members = new Map();
  for (const run of section.runs) {
    if (run.state !== "finished") continue;
    const key = JSON.stringify([...by.map((name) => run.keys[name]), run.seed === null ? run.id : ""]);
    if (!members.has(key)) members.set(key, []);
    members.get(key).push(run);
  }
  const groups = [...members.values()].map((runs) => {
    runs.sort((a, b) => a.seed - b.seed || a.name.localeCompare(b.name));
    const keys = Object.fromEntries(by.map((name) => [name, runs[0].keys[name]]));
    const scores = {};
    for (const name of Object.keys(runs[0].scores)) scores[name] = spread(runs.map((run) => run.scores[name]));
    const costs = {};
    for (const { name } of section.costs) costs[name] = spread(runs.map((run) => run.costs[name]));
    const names = runs.map((run) => run.id).sort().join("\n");
    const arm = section.differences ? section.differences.arms.findIndex((one) => [...one.runs].sort().join("\n") === names) : -1;
    return { runs, keys, scores, costs, arm, remark: remarkOn(section, runs), label: "" };
  });
  const varying = by.filter((name) => new Set(groups.map((group) => group.keys[name])).size > 1);
  for (const group of groups) {
    const told = varying.length ? varying : by.slice(0, 2);
    group.label = told.map((name) => named(section, name, group.keys[name])).join(", ") || "all runs";
    if (group.runs[0].seed === null && groups.length > 1) group.label += ` (${brief(group.runs[0])})`;
  }
  const worst = (group) => (group.scores[section.headline] ? 0 : 1);
  const sign = section.direction === "max" ? -1 : 1;
  const mean = (group) => (group.scores[section.headline] || { mean: 0 }).mean;
  groups.sort((a, b) => worst(a) - worst(b) || sign * (mean(a) - mean(b)));
  groups.forEach((group, place) => (group.place = place));
  return groups;
}

/** A value that can stand alone; with the name of its key where it would not be understood. */
function named(section, name, value) {
  const { label } = section.keys.find((key) => key.name === name);
  return ["backbone", "attention", "head", "recipe"].includes(name) ? value || `no ${label}` : `${label} ${value || "–"}`;
}

function remarkOn(section, runs) {
  const words = [];
  const differ = section.keys.filter(({ name }) => name !== "seed" && new Set(runs.map((run) => run.keys[name])).size > 1);
  if (differ.length) words.push(`differ in ${differ.map(({ label }) => label).join(", ")}`);
  if (new Set(runs.map((run) => run.seed)).size < runs.length) words.push("a seed is there twice");
  return words.join("; ");
}

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
    this.cost = (section.costs.find(({ name }) => section.runs.some((run) => run.costs[name] !== null)) || {}).name;
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
    if (section.runs.some((run) => Object.keys(run.pictures).length)) parts.push(card("pictures", "The same image in every run"));
    const title = make("h2", { id: `${id}-title` }, section.title);
    return make("section", { class: "section", id, "aria-labelledby": `${id}-title` }, title, facts, this.controls(), ...parts);
  }

  controls() {
    const { section } = this;
    const grouping = make("fieldset", { class: "grouping" }, make("legend", {}, "Group by"));
    for (const { name, label } of section.keys) {
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

/** No wider than the screen, where its table is. */
function caption(text) {
  return make("caption", {}, make("span", {}, text));
}

function costCell(found) {
  return make("td", { class: "number", "data-value": found ? found.mean : null, title: found ? found.mean.toLocaleString("en") : null }, short(found && found.mean));
}

function scrolling(table, label) {
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);
}

function stateTable(runs, value, headline) {
  const rows = runs.map((run) => make("tr", {}, make("th", { scope: "row", title: run.name }, brief(run)),
    make("td", {}, make("span", { class: `state ${run.state}` }, run.state)), make("td", { class: "number" }, value(run)), make("td", { class: "long" }, run.reason)));
  const head = make("tr", {}, ...["run", "state", headline || "score", "why"].map((title) => make("th", { scope: "col" }, title)));
  return scrolling(make("table", { class: "states" }, caption("Runs that are not finished"), make("thead", {}, head), make("tbody", {}, ...rows)), "Runs that are not finished");
}

// Charts.

function colours() {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(name).trim();
  return { text: value("--text"), quiet: value("--quiet"), grid: value("--grid"), line: value("--line"), marks: PALETTE[dark.matches ? "dark" : "light"] };
}

async function draw(place, label, spec) {
  const { text, quiet, grid, line } = colours();
  const axis = { labelColor: quiet, titleColor: text, gridColor: grid, domainColor: line, tickColor: line, titleFontWeight: "normal", labelFontSize: 12, titleFontSize: 12.5 };
  const config = {
    background: null, font: "system-ui, sans-serif", view: { stroke: null }, axis,
    legend: { labelColor: text, titleColor: quiet, orient: "bottom", columns: innerWidth < 700 ? 1 : 3, labelLimit: 360, symbolStrokeWidth: 2.5, labelFontSize: 12 },
  };
  place.setAttribute("aria-label", label);
  const full = { width: "container", height: 300, autosize: { type: "fit-x", contains: "padding" }, description: label, ...spec };
  await vegaEmbed(place, full, { mode: "vega-lite", actions: false, renderer: "svg", config, tooltip: { theme: "custom" } });
}

/** Scale of a group's colour and, where there are more groups than colours, of its dash or shape. */
function colourScale(groups) {
  const { marks } = colours();
  return { domain: groups.map((group) => group.label), range: groups.map((group) => marks[group.place % marks.length]) };
}

function chart(view, controls) {
  if (!view.chart) {
    view.chart = make("div", { class: "chart", role: "figure" });
    view.replaceChildren(make("div", { class: "controls" }, ...controls), view.chart, (view.note = make("p", { class: "note" })));
  }
  return view.chart;
}

function drawCost(part) {
  const { section } = part;
  const known = section.costs.filter(({ name }) => section.runs.some((run) => run.costs[name] !== null));
  const view = part.views.cost;
  const options = known.map(({ name, label }) => [name, label]);
  const scores = [section.headline, ...section.beside];
  part.costScore = part.costScore || section.headline;
  const place = chart(view, [
    choice("Cost", options, part.cost, (value) => { part.cost = value; drawCost(part); }),
    choice("Score", scores.map((name) => [name, name]), part.costScore, (value) => { part.costScore = value; drawCost(part); }),
  ]);
  const label = known.find(({ name }) => name === part.cost).label;
  const sign = section.direction === "max" ? 1 : -1;
  const all = part.groups.filter((group) => group.scores[part.costScore] && group.costs[part.cost]);
  const better = (a, b) => sign * (a.scores[part.costScore].mean - b.scores[part.costScore].mean);
  // The front is that of all groups, hidden or not: a filter makes no group better.
  const isBeaten = (group) => all.some((other) => {
    const cheaper = group.costs[part.cost].mean - other.costs[part.cost].mean;
    return better(other, group) >= 0 && cheaper >= 0 && (better(other, group) > 0 || cheaper > 0);
  });
  const values = all.filter((group) => part.shown.includes(group)).map((group) => {
    const { mean, deviation, count } = group.scores[part.costScore];
    const arm = section.differences && part.costScore === section.headline ? section.differences.arms[group.arm] : null;
    const [low, high] = arm && arm.interval[0] !== null ? arm.interval : [mean - (deviation || 0), mean + (deviation || 0)];
    const shares = section.differences && arm ? section.differences.front[part.cost] : null;
    return {
      group: group.label, cost: group.costs[part.cost].mean, score: mean, low, high, runs: count, interval: arm !== null && arm !== undefined,
      front: isBeaten(group) ? "beaten" : "on the front", share: shares && shares[group.arm] !== null ? `${Math.round(100 * shares[group.arm])} %` : "–",
      spread: deviation === null ? "one run" : `± ${score(deviation)}`,
    };
  });
  const range = values.map(({ cost }) => cost);
  const scale = { zero: false, nice: true, padding: 24, type: Math.max(...range) > 20 * Math.min(...range) && Math.min(...range) > 0 ? "log" : "linear" };
  const tooltip = [
    { field: "group", title: "group" }, { field: "score", title: part.costScore, format: ".4f" }, { field: "spread", title: "spread" },
    { field: "runs", title: "runs" }, { field: "cost", title: label, format: ",.6~g" }, { field: "front", title: "front" },
    { field: "share", title: "on it in" },
  ];
  const x = { field: "cost", type: "quantitative", title: label, scale, axis: { format: "~s", tickCount: 6 } };
  const { text, quiet } = colours();
  const front = values.filter((value) => value.front === "on the front");
  const bars = values.filter((value) => value.high > value.low);
  const layer = [];  // a layer without data would make Vega warn of an infinite extent
  if (front.length > 1) layer.push({ data: { values: front }, mark: { type: "line", interpolate: "step-after", color: quiet, strokeDash: [4, 3] }, encoding: { color: { value: quiet }, order: { field: "cost", type: "quantitative" } } });
  if (bars.length) layer.push({ data: { values: bars }, mark: { type: "rule", strokeWidth: 2, opacity: 0.75 }, encoding: { y: { field: "low" }, y2: { field: "high" } } });
  layer.push(
    { mark: { type: "point", filled: true, size: 110, opacity: 1 }, encoding: { tooltip, shape: { field: "front", type: "nominal", scale: { domain: ["on the front", "beaten"], range: ["diamond", "circle"] }, legend: null } } },
  );
  if (values.length <= 14) {
    layer.push({ mark: { type: "text", align: "left", dx: 9, dy: -8, color: text, fontSize: 11.5, limit: 200 }, encoding: { text: { field: "group" }, color: { value: text } } });
  }
  const intervals = values.some(({ interval }) => interval);
  const meaning = intervals ? "Bars: 95 % interval of the mean, from images and seeds (of the images alone where there is one run). \"On it in\": share of the resamples in which the point is on the front." : "Bars: ± standard deviation over the runs of a point; points of one run have none.";
  view.note.textContent = `${meaning} Dashed, diamonds: no other point is as good and as cheap, of all ${all.length} points.`;
  if (!values.length) return place.replaceChildren(make("p", { class: "note" }, "No group with a score is shown."));
  draw(place, `${part.costScore} against ${label} of ${values.length} groups`, {
    data: { values },
    encoding: {
      x, y: { field: "score", type: "quantitative", title: part.costScore, scale: { zero: false, padding: 16 } },
      color: { field: "group", type: "nominal", scale: colourScale(part.groups), legend: null },
    },
    layer,
  });
}

function drawCurves(part) {
  const { section } = part;
  const names = [...new Set(section.runs.flatMap((run) => Object.keys(run.curves)))];
  const logged = (name) => names.find((own) => own === name || own.endsWith(`/${name}`)) || names[0];
  part.curve = names.includes(part.curve) ? part.curve : logged(section.headline);
  const first = new Set([logged(section.headline), "train/loss", "val/loss"]);
  const order = [...names.filter((name) => first.has(name)), ...names.filter((name) => !first.has(name)).sort()];
  const axes = [["step", "steps"]];
  if (section.runs.some((run) => run.images_per_step !== null)) axes.push(["images", "images seen"]);
  if (section.runs.some((run) => run.times.length)) axes.push(["time", "training time, s"]);
  const view = part.views.curves;
  const place = chart(view, [
    choice("Number", order.map((name) => [name, name]), part.curve, (value) => { part.curve = value; drawCurves(part); }),
    choice("Over", axes, part.axis, (value) => { part.axis = value; drawCurves(part); }),
  ]);
  const axis = {
    step: () => (step) => step,
    images: (run) => (step) => (run.images_per_step === null ? undefined : step * run.images_per_step),
    time: (run) => { const times = new Map(run.times); return (step) => times.get(step); },
  }[part.axis];
  const groupOf = new Map(part.groups.flatMap((group) => group.runs.map((run) => [run, group])));
  const values = [];
  for (const run of section.runs) {
    const group = groupOf.get(run);
    if (!run.curves[part.curve] || !isVisible(part, run, group)) continue;
    const at = axis(run);
    const label = group ? group.label : `${brief(run)} (${run.state})`;
    for (const [step, value] of run.curves[part.curve]) if (at(step) !== undefined) values.push({ x: at(step), value, group: label, run: brief(run), id: run.id, seed: run.seed === null ? "–" : run.seed, state: run.state });
  }
  const title = axes.find(([name]) => name === part.axis)[1];
  const { marks } = colours();
  const scale = colourScale(part.groups);
  for (const label of new Set(values.map((value) => value.group))) {
    if (!scale.domain.includes(label)) { scale.domain.push(label); scale.range.push(colours().quiet); }
  }
  const drawn = scale.domain.map((label, place) => [label, scale.range[place]]).filter(([label]) => values.some((value) => value.group === label));
  const color = { field: "group", type: "nominal", title: null, scale: { domain: drawn.map(([label]) => label), range: drawn.map(([, colour]) => colour) } };
  const strokeDash = { field: "group", type: "nominal", title: null, scale: { domain: drawn.map(([label]) => label), range: drawn.map(([label]) => DASHES[Math.floor(scale.domain.indexOf(label) / marks.length) % DASHES.length]) } };
  const tooltip = [{ field: "group" }, { field: "seed" }, { field: "x", title, format: ",.6~g" }, { field: "value", title: part.curve, format: ".5~g" }, { field: "run" }];
  const few = values.length < 600;
  view.note.textContent = "A line for every run, runs of a group in one colour. Training losses are those of single steps.";
  draw(place, `${part.curve} over ${title}, a line for each of ${new Set(values.map((value) => value.id)).size} runs`, {
    data: { values },
    encoding: {
      x: { field: "x", type: "quantitative", title, axis: { format: "~s", tickCount: 6 } },
      y: { field: "value", type: "quantitative", title: part.curve, scale: { zero: false } },
      color, detail: { field: "id" },
    },
    layer: [
      { mark: { type: "line", strokeWidth: 1.8, opacity: 0.85 }, encoding: { strokeDash } },
      { mark: { type: "point", filled: true, size: few ? 34 : 60, opacity: few ? 1 : 0 }, encoding: { tooltip } },
    ],
  });
}

function isVisible(part, run, group) {
  return group ? part.shown.includes(group) : part.isShown(run);
}

function drawDifference(part) {
  const { section, configurations } = part;
  const { pairs, corrected, classes, arms } = section.differences;
  const view = part.views.difference;
  const named = configurations.map((group) => [String(group.arm), group.label]);
  const focused = view.contains(document.activeElement) ? document.activeElement.id : null;
  const shown = configurations.filter((group) => group.arm !== part.baseline && group.runs.some((run) => part.isShown(run)));
  const label = configurations.find((group) => group.arm === part.baseline).label;
  // A pair is kept once; the other way round it has the other sign.
  const flip = ([value, low, high]) => [value && -value, high && -high, low && -low];
  const against = (arm) => {
    if (part.baseline < arm) return pairs[part.baseline][arm - part.baseline - 1];
    const [value, low, high, above, p, seeds, ofClasses] = pairs[arm][part.baseline - arm - 1];
    return [...flip([value, low, high]), above === null ? null : 1 - above, p, seeds, ofClasses.map(([gain, ...more]) => [gain && -gain, ...more])];
  };
  const rows = shown.map((group) => ({ group, found: against(group.arm), holm: corrected[part.baseline][group.arm] }));
  rows.sort((a, b) => b.found[0] - a.found[0]);
  const probability = (value) => (value === null ? "–" : value > 0.9995 ? "> 0.999" : value < 0.0005 ? "< 0.001" : value.toFixed(3));
  const number = (text, value) => make("td", { class: "number", "data-value": value }, text);
  const body = rows.map(({ group, found: [value, low, high, above, p, seeds], holm }) => make("tr", { "data-group": group.label }, make("th", { scope: "row" }, group.label),
    number(signed(value), value), number(low === null ? "–" : `${signed(low)} to ${signed(high)}`), number(probability(above), above), number(probability(p), p), number(probability(holm), holm),
    number(`${arms[part.baseline].runs.length} and ${group.runs.length}${seeds ? "" : " *"}`)));
  const titles = ["candidate", section.headline, "95 % interval", "P(better)", "p", "p, Holm", "runs"];
  const head = make("tr", {}, ...titles.map((title, place) => make("th", { scope: "col", class: place > 0 ? "number" : null }, title)));
  const table = make("table", { class: "differences" }, caption(`Candidates minus ${label}, on the same images; p corrected over all ${configurations.length - 1} candidates.`), make("thead", {}, head), make("tbody", {}, ...body));
  const selectBase = choice("Baseline", named, String(part.baseline), (value) => { part.baseline = Number(value); drawDifference(part); }, `${part.id}-baseline`);
  const chartPlace = make("div", { class: "intervals", role: "figure" });
  const classPlace = make("div", { class: "intervals", role: "figure", tabindex: "0" });
  const oneSeed = rows.some(({ found }) => !found[5]) ? "* of these runs, not of the methods: the seed is not in it. " : "";
  part.candidate = shown.some((group) => group.arm === part.candidate) ? part.candidate : (rows[0] ? rows[0].group.arm : null);
  const selectCandidate = choice("By class, candidate", named.filter(([value]) => shown.some((group) => String(group.arm) === value)), String(part.candidate), (value) => { part.candidate = Number(value); drawDifference(part); }, `${part.id}-candidate`);
  view.replaceChildren(make("div", { class: "controls" }, selectBase, selectCandidate), scrolling(table, "Differences"),
    make("div", { class: "columns" }, chartPlace, classPlace),
    make("p", { class: "note" }, oneSeed + "Bars: 95 % interval from images and seeds. An interval that holds 0 does not show that there is no difference. By class: p corrected over the classes in the tooltip."));
  if (focused && document.getElementById(focused)) document.getElementById(focused).focus();
  if (!rows.length) return;
  const bars = rows.filter(({ found }) => found[1] !== null).map(({ group, found, holm }) => ({ name: group.label, value: found[0], low: found[1], high: found[2], p: holm }));
  drawIntervals(chartPlace, bars, `difference of ${section.headline}`, `Difference of ${section.headline} of ${bars.length} candidates from ${label}`);
  const candidate = rows.find(({ group }) => group.arm === part.candidate);
  const byClass = candidate.found[6].map(([value, half, p], place) => ({ name: classes[place], value, half, low: value - half, high: value + half, p })).filter(({ half }) => half !== null);
  drawIntervals(classPlace, byClass, "difference by class", `Difference of ${candidate.group.label} from ${label} by class`);
}

function drawIntervals(place, values, title, label) {
  if (!values.length) return;
  const { quiet, marks } = colours();
  const y = { field: "name", type: "nominal", title: null, sort: { field: "value", order: "descending" }, axis: { labelLimit: innerWidth < 700 ? 130 : 240 } };
  draw(place, label, {
    height: Math.max(90, 22 * values.length), data: { values },
    encoding: { y, tooltip: [{ field: "name", title: "of" }, { field: "value", title: "difference", format: "+.4f" }, { field: "low", format: "+.4f" }, { field: "high", format: "+.4f" }, { field: "p", title: "p corrected", format: ".3f" }] },
    layer: [
      { data: { values: [{}] }, mark: { type: "rule", color: quiet, strokeDash: [3, 3] }, encoding: { x: { datum: 0, type: "quantitative" }, y: null, tooltip: null } },
      { mark: { type: "rule", strokeWidth: 2.5, color: marks[0] }, encoding: { x: { field: "low", type: "quantitative", title, axis: { format: "+~g", tickCount: 6 } }, x2: { field: "high" } } },
      { mark: { type: "point", filled: true, size: 70, opacity: 1, color: marks[0] }, encoding: { x: { field: "value", type: "quantitative" } } },
    ],
  });
}

function drawPictures(part) {
  const { section } = part;
  const names = [...new Set(section.runs.flatMap((run) => Object.keys(run.pictures)))];
  part.picture = part.picture || names[0];
  const select = choice("Image", names.map((name) => [name, name]), part.picture, (value) => { part.picture = value; drawPictures(part); });
  const grid = make("div", { class: "pictures" });
  for (const group of part.shown) {
    for (const run of group.runs) {
      const seed = run.seed === null ? "" : `, seed ${run.seed}`;
      if (!run.pictures[part.picture]) continue;
      const image = make("img", { src: encodeURI(run.pictures[part.picture]), loading: "lazy", alt: `Image ${part.picture}: ground truth and prediction of ${group.label}${seed}` });
      grid.append(make("figure", {}, image, make("figcaption", {}, `${group.label}${seed}`)));
    }
  }
  const focused = part.views.pictures.contains(document.activeElement);
  part.views.pictures.replaceChildren(make("div", { class: "controls" }, select), grid, make("p", { class: "note" }, "Left the ground truth, right the prediction after the last validation, which need not be the best one."));
  if (focused) select.querySelector("select").focus();
}

// The page.

const finished = content.sections.reduce((sum, section) => sum + section.runs.filter((run) => run.state === "finished").length, 0);
document.getElementById("made").textContent = `${finished} finished of ${everyRun.length} runs, ${content.made.replace("T", " ")}`;
const main = document.getElementById("content");
const parts = content.sections.map((section, number) => new Section(section, number + 1));
const links = make("ul");
for (const part of parts) {
  main.append(part.element);
  links.append(make("li", {}, make("a", { href: `#${part.id}` }, part.section.title)));
}
if (parts.length > 1) document.getElementById("contents").append(links);
if (content.unscored.length) {
  main.append(make("section", { class: "section", "aria-label": "Runs without a score" }, make("h2", {}, "Runs without a score"), stateTable(content.unscored, () => "–")));
}
for (const part of parts) part.update();  // charts are as wide as their place, which must be in the page
dark.addEventListener("change", () => parts.forEach((part) => part.redraw()));
