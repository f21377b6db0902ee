// Elements of the page, and numbers as it writes them.

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

const sentence = (words) => words && `${words[0].toUpperCase()}${words.slice(1)}.`;

function spreadCell(found) {
  const cell = make("td", { class: "number", "data-value": found ? found.mean : null }, score(found && found.mean));
  if (found && found.deviation !== null) {
    cell.dataset.deviation = found.deviation;
    cell.append(make("small", {}, ` ± ${score(found.deviation)}`));
  }
  return cell;
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
