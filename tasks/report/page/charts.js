// Charts: what all have in common, a score against a cost, and curves.

const PALETTE = {
  light: ["#0b57a4", "#c2571a", "#1d7d4f", "#8b3fa0", "#a3172a", "#00758a", "#7a6200", "#5b6067"],
  dark: ["#7db8f5", "#f5a66b", "#69cf9c", "#d39be6", "#ff8f9c", "#5fd0e3", "#dcc45a", "#b4bac1"],
};
const DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]];
const dark = matchMedia("(prefers-color-scheme: dark)");

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
  const { quiet } = colours();
  const front = values.filter((value) => value.front === "on the front");
  const bars = values.filter((value) => value.high > value.low);
  const layer = [];  // a layer without data would make Vega warn of an infinite extent
  if (front.length > 1) layer.push({ data: { values: front }, mark: { type: "line", interpolate: "step-after", color: quiet, strokeDash: [4, 3] }, encoding: { color: { value: quiet }, order: { field: "cost", type: "quantitative" } } });
  if (bars.length) layer.push({ data: { values: bars }, mark: { type: "rule", strokeWidth: 2, opacity: 0.75 }, encoding: { y: { field: "low" }, y2: { field: "high" } } });
  layer.push(
    { mark: { type: "point", filled: true, size: 110, opacity: 1 }, encoding: { tooltip, shape: { field: "front", type: "nominal", scale: { domain: ["on the front", "beaten"], range: ["diamond", "circle"] }, legend: null } } },
  );
  if (values.length <= 14) {
    moveApart(values, place.clientWidth - 60, scale.type === "log" ? Math.log : Number);
    layer.push({ mark: { type: "text", align: "left", dx: 9, dy: { expr: "datum.shift" }, fontSize: 11.5, limit: 200 }, encoding: { text: { field: "group" } } });
  }
  const intervals = values.some(({ interval }) => interval);
  const meaning = intervals ? "Bars: 95 % interval of the mean, from images and seeds (of the images alone where there is one run). \"On it in\": share of the resamples in which the point is on the front." : "Bars: ± standard deviation over the runs of a point; points of one run have none.";
  view.note.textContent = `${meaning} Dashed, diamonds: no other point is as good and as cheap, of all ${all.length} points. ${sentence(section.measured)}`;
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

/** Gives each point the distance at which its name lies above it, such that names of near points do not cover one another. */
function moveApart(values, width, scaled) {
  const [left, right] = [Math.min, Math.max].map((most) => most(...values.map(({ cost }) => scaled(cost))));
  const [bottom, top] = [Math.min(...values.map(({ low }) => low)), Math.max(...values.map(({ high }) => high))];
  const placed = [];
  for (const value of [...values].sort((a, b) => b.score - a.score)) {
    const x = ((scaled(value.cost) - left) / (right - left || 1)) * width;
    const y = ((top - value.score) / (top - bottom || 1)) * 240;
    const covers = (at) => placed.some((other) => Math.abs(other.at - at) < 13 && x < other.end && other.x < x + 7 * value.group.length);
    const steps = values.flatMap((_, number) => [13 * number, -13 * number]);
    value.shift = steps.map((step) => step - 8).find((shift) => !covers(y + shift)) ?? -8;
    placed.push({ x, end: x + 7 * value.group.length, at: y + value.shift });
  }
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
