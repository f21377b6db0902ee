// The numbers come with the page; everything here shows them, sorts them and hides some.

const content = JSON.parse(document.getElementById("data").textContent);

// Runs are called by what their folders do not have in common.

const everyRun = [...content.sections.flatMap((section) => section.runs), ...content.unscored];
const shared = everyRun.map((run) => run.name.split("/").slice(0, -1)).reduce((common, parts) => {
  const end = common.findIndex((part, place) => part !== parts[place]);
  return end < 0 ? common : common.slice(0, end);
});
const brief = (run) => run.name.split("/").slice(shared.length).join("/");

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
