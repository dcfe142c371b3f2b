"use strict";
// Sorting, searching and filtering of the tables that the page already holds.
document.addEventListener("DOMContentLoaded", () => {
  const search = document.getElementById("search");
  const count = document.getElementById("count");
  const chips = [...document.querySelectorAll(".chip")];
  const chosen = () =>
    new Set(chips.filter((c) => c.ariaPressed === "true").map((c) => c.dataset.family));

  const tables = [...document.querySelectorAll("table.board")].map((element) => {
    const heads = [...element.tHead.rows[0].cells];
    const where = (name) => heads.flatMap((h, i) => (h.classList.contains(name) ? [i] : []));
    const words = heads.flatMap((h, i) => (/number|interval/.test(h.className) ? [i] : []));
    const table = new DataTable(element, {
      paging: false,
      info: false,
      autoWidth: false,
      order: [],
      layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
      language: { zeroRecords: "No method matches.", emptyTable: "No rows." },
      columnDefs: [
        { targets: where("figure"), orderSequence: ["desc", "asc", ""] },
        { targets: where("interval"), orderable: false },
        { targets: words, searchable: false },
        { targets: "_all", orderSequence: ["asc", "desc", ""] },
      ],
    });
    table.search.fixed("families", (_text, _data, index) =>
      chosen().has(table.row(index).node().dataset.family),
    );
    table.on("draw", () => tips.ready(element));
    tips.ready(element);
    return table;
  });

  const folded = [...document.querySelectorAll("details")];
  addEventListener("beforeprint", () => folded.forEach((d) => (d.open = true)));

  function update() {
    if (search.value) folded.forEach((d) => (d.open = true));
    for (const table of tables) table.search(search.value).draw();
    const shown = tables.reduce((n, t) => n + t.rows({ search: "applied" }).count(), 0);
    const all = tables.reduce((n, t) => n + t.rows().count(), 0);
    count.textContent = shown === all ? `${all} rows` : `${shown} of ${all} rows`;
    document.dispatchEvent(new CustomEvent("families", { detail: chosen() }));
  }

  search.addEventListener("input", update);
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chip.ariaPressed = String(chip.ariaPressed !== "true");
      update();
    });
  }
  document.querySelector(".controls").hidden = false;
  update();
});
