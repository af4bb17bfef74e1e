"use strict";
(() => {
  const NEAR = "1200px 0px"; // how far outside the window images are shown already
  const byPlace = (a, b) => a.place - b.place;
  const SHOWS = {
    all: { keeps: () => true, order: byPlace },
    improved: { keeps: (query) => query.gain > 0, order: (a, b) => b.gain - a.gain || byPlace(a, b) },
    worse: { keeps: (query) => query.gain < 0, order: (a, b) => a.gain - b.gain || byPlace(a, b) },
    never: { keeps: (query) => query.never, order: byPlace },
  };

  const namesOf = (element) => [...element.querySelectorAll(".asked bdi")].map((name) => name.textContent).join("\n");
  const list = document.getElementById("queries");
  const find = document.getElementById("find");
  const buttons = [...document.querySelectorAll("#controls button")];
  const queries = [...list.children].map((element, place) => ({
    element,
    place,
    gain: Number(element.dataset.gain ?? 0),
    never: "never" in element.dataset,
    direction: element.dataset.direction ?? "",
    names: namesOf(element).toLowerCase(),
  }));

  /** What the buttons of a group can choose; only its default where the page has no such buttons. */
  const choices = (group) => buttons.filter((button) => group in button.dataset).map((button) => button.dataset[group]);
  const choice = (group, value, otherwise) => (choices(group).includes(value) ? value : otherwise);

  /** The state of the filters is what comes after # in the address, so that it can be linked. */
  function stateOfAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    return {
      show: choice("show", given.get("show"), "all"),
      direction: choice("direction", given.get("direction"), "both"),
      find: given.get("find") ?? "",
    };
  }

  function keepInAddress(state) {
    const kept = Object.entries(state).filter(([, value]) => !["", "all", "both"].includes(value));
    history.replaceState(null, "", `#${new URLSearchParams(kept)}`);
  }

  function matches(query, { show, direction, find }) {
    const rightWay = direction === "both" || query.direction === direction;
    return rightWay && SHOWS[show].keeps(query) && query.names.includes(find.trim().toLowerCase());
  }

  let state;
  let order;

  function apply(wanted) {
    state = wanted;
    if (order !== SHOWS[state.show].order) {
      order = SHOWS[state.show].order;
      list.append(...[...queries].sort(order).map((query) => query.element));
    }
    const shown = queries.filter((query) => (query.element.hidden = !matches(query, state)) === false);
    buttons.forEach(press);
    if (find.value !== state.find) find.value = state.find;
    document.getElementById("status").textContent = `${grouped(shown.length)} of ${grouped(queries.length)} queries`;
    document.getElementById("nothing").hidden = shown.length > 0;
  }

  /** Marks a button that is chosen, and counts what would be shown if it were, the other filters as they are. */
  function press(button) {
    const [[group, value]] = Object.entries(button.dataset);
    const chosen = { ...state, [group]: value };
    button.setAttribute("aria-pressed", String(state[group] === value));
    button.querySelector(".count").textContent = grouped(queries.filter((query) => matches(query, chosen)).length);
  }

  const grouped = (number) => number.toLocaleString("en");

  function change(changes) {
    apply({ ...state, ...changes });
    keepInAddress(state);
  }

  buttons.forEach((button) => button.addEventListener("click", () => change({ ...button.dataset })));
  find.addEventListener("input", () => change({ find: find.value }));
  document.getElementById("reset").addEventListener("click", () => {
    change({ show: "all", direction: "both", find: "" });
    find.focus();
  });
  addEventListener("hashchange", () => apply(stateOfAddress()));

  /**
   * A query that comes near the window gets its rows and images. A thousand queries have 200,000 elements, which would
   * take seconds to sort. The rows are the HTML that browsers without scripts show; each thumbnail is in the file once.
   */
  const thumbnails = JSON.parse(document.getElementById("thumbnails").textContent);
  const observer = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => reveal(entry.target)),
    { rootMargin: NEAR },
  );

  function reveal(element) {
    observer.unobserve(element);
    const written = element.querySelector("noscript");
    if (written) written.outerHTML = written.textContent;
    element.querySelectorAll("img[data-thumbnail]:not([src])").forEach((image) => {
      image.src = thumbnails[image.dataset.thumbnail];
    });
  }

  document.getElementById("controls").hidden = false;
  apply(stateOfAddress());
  queries.forEach((query) => observer.observe(query.element));
  addEventListener("beforeprint", () => queries.filter((query) => !query.element.hidden).forEach((query) => reveal(query.element)));
})();
