"use strict";
// What a page gains where scripts run; without them every figure, picture and explanation is there all the same.
document.documentElement.classList.add("live");

function markContents() {
  const links = [...document.querySelectorAll('nav a[href^="#"]')];
  const places = links.map((link) => document.getElementById(link.hash.slice(1)));
  const list = document.querySelector("nav");
  let marked = null;
  const mark = () => {
    const page = document.documentElement;
    const passed = places.filter((place) => place.getBoundingClientRect().top <= innerHeight / 3).length;
    const atEnd = scrollY > 0 && scrollY + innerHeight >= page.scrollHeight - 2;
    const here = links[atEnd ? links.length - 1 : Math.max(0, passed - 1)];
    if (here === marked) return;
    if (marked) marked.removeAttribute("aria-current");
    marked = here;
    marked.setAttribute("aria-current", "true");
    if (list.scrollWidth > list.clientWidth) list.scrollLeft = marked.offsetLeft - list.clientWidth / 3;
  };
  if (!links.length) return;
  addEventListener("scroll", mark, { passive: true });
  addEventListener("resize", mark);
  mark();
}

function sortOnClick(table) {
  const bodies = [...table.tBodies].map((body) => [body, [...body.rows]]);
  const rows = bodies.flatMap(([, own]) => own);
  const models = rows.filter((row) => row.classList.contains("model"));
  const references = rows.filter((row) => row.classList.contains("reference"));
  const heads = [...table.tHead.rows[0].cells];
  const sorted = document.createElement("tbody");
  const restore = () => {
    sorted.remove();
    for (const [body, own] of bodies) {
      body.hidden = false;
      body.append(...own);
    }
  };
  const sort = (at, sign) => {
    const number = (row) => {
      const text = row.cells[at].dataset.number;
      return text === undefined ? Infinity : sign * Number(text);
    };
    sorted.replaceChildren(...[...models].sort((a, b) => number(a) - number(b)), ...references);
    for (const [body] of bodies) body.hidden = true;
    table.append(sorted);
  };
  for (const [at, head] of heads.entries()) {
    const link = head.querySelector("a");
    if (!link) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = link.textContent;
    button.title = link.title;
    link.textContent = "?";
    link.className = "what";
    link.setAttribute("aria-label", `What is ${button.textContent}`);
    head.prepend(button);
    head.append(link);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const first = head.dataset.better === "higher" ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      if (before === second) return restore();
      const now = before === first ? second : first;
      head.setAttribute("aria-sort", now);
      return sort(at, now === "ascending" ? 1 : -1);
    });
  }
}

function slideOverTraining(course) {
  const [range, play, all, said] = ["input[type=range]", "button", ".all input", "output"].map((one) => course.querySelector(one));
  const strips = [...course.querySelectorAll(".strip")].map((strip) => [...strip.children]);
  let timer = null;
  const show = () => {
    const share = range.value / range.max;
    for (const cells of strips) {
      const off = (cell) => Math.abs(cell.dataset.share - share);
      const nearest = cells.reduce((best, cell) => (off(cell) < off(best) ? cell : best));
      for (const cell of cells) cell.classList.toggle("now", cell === nearest);
    }
    said.textContent = `${Math.round(100 * share)} % of the training`;
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  };
  const start = () => {
    if (Number(range.value) === Number(range.max)) range.value = 0;
    play.textContent = "Stop";
    timer = setInterval(() => {
      range.value = Number(range.value) + 1;
      show();
      if (Number(range.value) === Number(range.max)) stop();
    }, 700);
    show();
  };
  range.addEventListener("input", () => (stop(), show()));
  play.addEventListener("click", () => (timer === null ? start() : stop()));
  all.addEventListener("change", () => course.classList.toggle("one", !all.checked));
  course.classList.add("one");
  course.querySelector(".controls").hidden = false;
  show();
}

function unfold() {
  const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const folded = place && place.closest("details:not([open])");
  if (!folded) return;
  folded.open = true;
  place.scrollIntoView();
}

markContents();
document.querySelectorAll("table.sortable").forEach(sortOnClick);
document.querySelectorAll(".course").forEach(slideOverTraining);
addEventListener("hashchange", unfold);
unfold();
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const box of document.querySelectorAll(".zoom input:checked")) box.checked = false;
});
