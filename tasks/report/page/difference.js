// What candidates score more or less than a baseline, as a whole and by class.

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
  const selectBase = choice("Baseline", named, String(part.baseline), (value) => { part.baseline = Number(value); drawPair(part); }, `${part.id}-baseline`);
  const chartPlace = make("div", { class: "intervals", role: "figure" });
  const classPlace = make("div", { class: "intervals", role: "figure", tabindex: "0" });
  const oneSeed = rows.some(({ found }) => !found[5]) ? "* of these runs, not of the methods: the seed is not in it. " : "";
  part.candidate = shown.some((group) => group.arm === part.candidate) ? part.candidate : (rows[0] ? rows[0].group.arm : null);
  const selectCandidate = choice("By class, candidate", named.filter(([value]) => shown.some((group) => String(group.arm) === value)), String(part.candidate), (value) => { part.candidate = Number(value); drawPair(part); }, `${part.id}-candidate`);
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
