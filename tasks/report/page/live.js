// A served page: asks its own server whether there is a newer one, and loads that where the reader has left off.

{
  const ASK_EVERY = 3000, QUIET = 2000; // ms; a reader who has just clicked or typed is not disturbed
  const STATE = "state of the page before", UP_TO_DATE = "Live: shows new numbers by itself.";
  const news = document.createElement("p");
  news.setAttribute("role", "status");
  news.textContent = UP_TO_DATE;
  document.querySelector("header").append(news);
  let lastTouched = 0;
  for (const kind of ["pointerdown", "keydown"]) addEventListener(kind, () => (lastTouched = Date.now()), true);

  /** What a control is called in this version and the next: its part, its card and its label. */
  function calledBy(element) {
    const heading = (place, tag) => (place ? place.querySelector(tag).textContent : "");
    const label = element.labels && element.labels.length ? element.labels[0].textContent : element.getAttribute("aria-label") || element.textContent;
    return [heading(element.closest("main > section"), "h2"), heading(element.closest(".card"), "h3"), element.tagName, label].join("\n");
  }

  const valueOf = (control) => (control.type === "checkbox" ? control.checked : control.tagName === "SELECT" ? control.selectedOptions[0]?.text : control.value);
  const CONTROLS = "main :is(select, input)", SORTED = "main th:is([aria-sort=ascending], [aria-sort=descending]) button", OPENED = "main button[aria-expanded=true]";
  const named = (query) => [...document.querySelectorAll(query)].map(calledBy);

  function keepState() {
    const at = document.activeElement;
    const state = {
      controls: [...document.querySelectorAll(CONTROLS)].map((control) => [calledBy(control), valueOf(control)]),
      sorted: [...document.querySelectorAll(SORTED)].map((button) => [calledBy(button), button.closest("th").getAttribute("aria-sort")]),
      opened: named(OPENED), details: named("details[open] > summary"),
      focus: at && at !== document.body ? [calledBy(at), at.type === "search" ? at.selectionStart : null] : null,
      top: scrollY,
    };
    sessionStorage.setItem(STATE, JSON.stringify(state));
  }

  const find = (query, name) => [...document.querySelectorAll(query)].find((element) => calledBy(element) === name);

  /** What has gone, such as a row that is called otherwise now, stays as the page has it by itself. */
  function restoreState({ controls, sorted, opened, details, focus, top }) {
    for (const [name, value] of controls) {
      const control = find(CONTROLS, name);
      if (!control || valueOf(control) === value) continue;
      if (control.type === "checkbox") control.checked = value;
      else if (control.tagName !== "SELECT") control.value = value;
      else {
        const option = [...control.options].find(({ text }) => text === value);
        if (!option) continue;
        control.value = option.value;
      }
      control.dispatchEvent(new Event(control.type === "search" ? "input" : "change"));
    }
    for (const [name, direction] of sorted) {
      for (let clicks = 0; clicks < 2; clicks += 1) {
        const button = find("main th button", name);
        if (button && button.closest("th").getAttribute("aria-sort") !== direction) button.click();
      }
    }
    for (const name of opened) find("main button[aria-expanded=false]", name)?.click();
    for (const summary of document.querySelectorAll("details > summary")) summary.parentElement.open = details.includes(calledBy(summary));
    const again = focus && find("main *:is(select, input, button)", focus[0]);
    if (again) again.focus({ preventScroll: true });
    if (again && focus[1] !== null) again.setSelectionRange(focus[1], focus[1]);
    scrollWhenDrawn(top, Date.now() + 3000);
  }

  /** Charts grow after they are asked for. */
  function scrollWhenDrawn(top, until) {
    if (document.documentElement.scrollHeight < top + innerHeight && Date.now() < until) setTimeout(() => scrollWhenDrawn(top, until), 50);
    else scrollTo(0, top);
  }

  async function ask() {
    try {
      const { version, trouble } = await (await fetch("version", { cache: "no-store" })).json();
      news.className = trouble ? "unfinished" : "";
      news.textContent = trouble ? `What is shown is not the newest: ${trouble}` : UP_TO_DATE;
      if (version !== content.version && !document.hidden && Date.now() - lastTouched > QUIET) {
        keepState();
        location.reload();
        return;
      }
    } catch {
      news.className = "unfinished";
      news.textContent = "The server does not answer; what is shown stays as it is.";
    }
    setTimeout(ask, ASK_EVERY);
  }

  history.scrollRestoration = "manual";
  const kept = sessionStorage.getItem(STATE);
  sessionStorage.removeItem(STATE);
  if (kept) restoreState(JSON.parse(kept));
  setTimeout(ask, ASK_EVERY);
}
