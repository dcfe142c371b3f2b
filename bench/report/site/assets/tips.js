"use strict";
// Exact figures on hover and focus. Texts come from data-tip attributes and stay texts.
(() => {
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  let owner = null;

  function show(element) {
    if (owner && owner !== element) owner.removeAttribute("aria-describedby");
    owner = element;
    tip.textContent = element.dataset.tip;
    tip.hidden = false;
    element.setAttribute("aria-describedby", tip.id);
    const box = element.getBoundingClientRect();
    const width = tip.offsetWidth;
    const height = tip.offsetHeight;
    const left = Math.min(Math.max(8, box.left + box.width / 2 - width / 2), innerWidth - width - 8);
    const above = box.top - height - 8;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above >= 8 ? above : box.bottom + 8}px`;
  }

  function hide() {
    if (!owner) return;
    owner.removeAttribute("aria-describedby");
    owner = null;
    tip.hidden = true;
  }

  const at = (event) =>
    event.target instanceof Element ? event.target.closest("[data-tip]") : null;

  document.addEventListener("DOMContentLoaded", () => document.body.append(tip));
  document.addEventListener("pointerover", (event) => {
    const found = at(event);
    if (found) show(found);
    else if (owner !== document.activeElement) hide();
  });
  document.addEventListener("focusin", (event) => (at(event) ? show(at(event)) : hide()));
  document.addEventListener("focusout", hide);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  document.addEventListener("scroll", hide, { capture: true, passive: true });

  // One figure of a table is in the tab order; the arrow keys move between the figures.
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

  function grid(table) {
    return [...table.tBodies[0].rows]
      .map((row) => [...row.querySelectorAll("td[data-tip]")])
      .filter((row) => row.length);
  }

  function ready(table) {
    const cells = grid(table).flat();
    for (const cell of cells) cell.tabIndex = -1;
    if (cells.length) cells[0].tabIndex = 0;
  }

  document.addEventListener("keydown", (event) => {
    const cell = event.target instanceof Element && event.target.closest("td[data-tip]");
    const step = steps[event.key];
    if (!cell || !step) return;
    event.preventDefault();
    const rows = grid(cell.closest("table"));
    const i = rows.findIndex((row) => row.includes(cell));
    const j = rows[i].indexOf(cell);
    const next = rows[i + step[0]]?.[j + step[1]];
    if (!next) return;
    cell.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });

  window.tips = { ready };
})();
