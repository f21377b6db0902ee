// Images: those on which two configurations differ most, and the same image in every run.

/** What shows one baseline and one candidate. */
function drawPair(part) {
  drawDifference(part);
  if (part.views.images) drawImages(part);
}

function drawImages(part) {
  const { images, arms } = part.section.differences;
  const arm = (place) => part.configurations.find((group) => group.arm === place);
  const view = part.views.images;
  if (part.candidate === null) return view.replaceChildren(make("p", { class: "note" }, "No candidate is shown."));
  const pair = [arm(part.baseline), arm(part.candidate)];
  const [one, other] = pair.map((group) => group.arm).sort((a, b) => a - b);
  const most = images.pairs[one][other - one - 1];
  const scoresOf = (place) => pair.map((group) => images.scores[place][group.arm]);
  const gain = (place) => scoresOf(place)[1] - scoresOf(place)[0];
  const rows = [...most].sort((a, b) => gain(b) - gain(a)).map((place) => make("tr", {}, make("th", { scope: "row" }, images.files[place]),
    ...scoresOf(place).map((value) => make("td", { class: "number", "data-value": value }, score(value))),
    make("td", { class: "number", "data-value": gain(place) }, signed(gain(place)))));
  const titles = ["image", ...pair.map((group) => group.label), "difference"];
  const head = make("tr", {}, ...titles.map((title, place) => make("th", { scope: "col", class: place > 0 ? "number" : null }, title)));
  const table = make("table", { class: "images" }, caption(`${part.section.headline} of each image alone, over the classes that are annotated in it, mean over the runs.`), make("thead", {}, head), make("tbody", {}, ...rows));
  view.replaceChildren(scrolling(table, "Images that differ most"), ...pictureRows(part, pair, gain, scoresOf),
    make("p", { class: "note" }, "Baseline and candidate are chosen above, at \"Difference from a baseline\"."));
}

/** Pictures of both, side by side: of those images that have some, the ones that differ most. */
function pictureRows(part, pair, gain, scoresOf) {
  const { pictures, files } = part.section.differences.images;
  const runs = pair.map((group) => group.runs.find((run) => Object.keys(run.pictures).length));
  if (runs.some((run) => !run)) return [];
  const shown = Object.entries(pictures).filter(([name, place]) => runs.every((run) => run.pictures[name]) && !scoresOf(place).includes(null));
  shown.sort(([, a], [, b]) => Math.abs(gain(b)) - Math.abs(gain(a)));
  return shown.slice(0, 4).map(([name, place]) => make("div", { class: "pictures pair" },
    ...pair.map((group, side) => picture(runs[side], name, `${group.label}${seedOf(runs[side])}, ${files[place]}: ${score(scoresOf(place)[side])}`, group.label))));
}

const seedOf = (run) => (run.seed === null ? "" : `, seed ${run.seed}`);

function picture(run, name, text, label) {
  const alt = `Image ${name}: ground truth and prediction of ${label}${seedOf(run)}`;
  return make("figure", {}, make("img", { src: encodeURI(run.pictures[name]), loading: "lazy", alt }), make("figcaption", {}, text));
}

function drawPictures(part) {
  const { section } = part;
  const names = [...new Set(section.runs.flatMap((run) => Object.keys(run.pictures)))];
  part.picture = part.picture || names[0];
  const select = choice("Image", names.map((name) => [name, name]), part.picture, (value) => { part.picture = value; drawPictures(part); });
  const grid = make("div", { class: "pictures" });
  for (const group of part.shown) {
    for (const run of group.runs.filter((one) => one.pictures[part.picture])) grid.append(picture(run, part.picture, group.label + seedOf(run), group.label));
  }
  const focused = part.views.pictures.contains(document.activeElement);
  part.views.pictures.replaceChildren(make("div", { class: "controls" }, select), grid, make("p", { class: "note" }, "Left the ground truth, right the prediction at the best epoch, after the last validation where a run has not kept it."));
  if (focused) select.querySelector("select").focus();
}
