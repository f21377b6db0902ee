// The page.

const finished = content.sections.reduce((sum, section) => sum + section.runs.filter((run) => run.state === "finished").length, 0);
document.getElementById("made").textContent = `${finished} finished of ${everyRun.length} runs, ${content.made.replace("T", " ")}`;
for (const paragraph of content.about || []) document.getElementById("about").append(make("p", {}, paragraph));
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
