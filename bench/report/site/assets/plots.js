"use strict";
// A metric against a cost, one plot per target; follows the family filter.
document.addEventListener("DOMContentLoaded", () => {
  const HEIGHT = 360;
  // A training that takes no measurable time still has a place on a logarithmic axis.
  const LEAST = 1e-3;
  let families = null;

  function draw(figure, data) {
    const metric = figure.querySelector(".metric").value;
    const cost = figure.querySelector(".cost").value;
    const canvas = figure.querySelector(".canvas");
    const chosen = data.rows.filter((row) => !families || families.has(row.family));
    const known = (row) => row.costs[cost] !== null && row.figures[metric];
    const points = chosen.filter(known).map((row) => ({
      ...row,
      x: Math.max(row.costs[cost], LEAST),
      y: row.figures[metric].mean,
      low: row.figures[metric].ci95?.[0] ?? row.figures[metric].mean,
      high: row.figures[metric].ci95?.[1] ?? row.figures[metric].mean,
    }));
    const random = data.random[metric];
    const name = metric.toUpperCase();
    const width = Math.max(280, canvas.clientWidth || 640);
    const xs = points.map((p) => p.x);
    const domain = xs.length ? [Math.min(...xs) / 1.8, Math.max(...xs) * 1.8] : [1, 10];
    const chart = Plot.plot({
      className: "plot",
      width,
      height: HEIGHT,
      marginLeft: 48,
      marginRight: 24,
      marginTop: 28,
      marginBottom: 44,
      insetTop: 12,
      ariaLabel: `${name} against ${data.costs[cost]}`,
      x: {
        type: "log",
        label: `${data.costs[cost]} →`,
        labelAnchor: "right",
        labelArrow: false,
        ticks: powers(domain, width),
        tickFormat: (d) => d3.format(d < 1 ? "~r" : ",")(d),
        domain,
      },
      y: { label: `↑ ${name}`, labelArrow: false, grid: true, nice: true, ticks: 6 },
      marks: [
        random === null
          ? null
          : [
              Plot.ruleY([random], { className: "random", strokeDasharray: "4 4" }),
              Plot.text([random], {
                y: (d) => d,
                frameAnchor: "right",
                textAnchor: "end",
                dy: -8,
                text: () => "random",
                className: "random",
              }),
            ],
        Plot.ruleX(points, { x: "x", y1: "low", y2: "high", strokeWidth: 2, className: "span" }),
        Plot.dot(points, { x: "x", y: "y", r: 5, href: "href", className: "points" }),
      ],
    });
    canvas.replaceChildren(chart);
    const links = [...chart.querySelectorAll(".points a")];
    const spans = [...chart.querySelectorAll(".span line")];
    links.forEach((link, i) => {
      const p = points[i];
      link.classList.add(p.familyClass);
      spans[i]?.classList.add(p.familyClass);
      const line = `${p.label}: ${name} ${p.y.toFixed(4)}, 95 % CI ${p.low.toFixed(4)} to ${p.high.toFixed(4)}`;
      link.setAttribute("aria-label", line);
      link.dataset.tip = `${line}\n${data.costs[cost].replace(", log scale", "")}: ${p.costs[cost].toPrecision(3)}`;
    });
    label(chart, links, points);
    const missing = chosen.filter((row) => !known(row)).map((row) => row.label);
    figure.querySelector("figcaption").textContent =
      "Points are means with their 95 % intervals; wall times depend on the machine and its load." +
      (missing.length ? ` Without this cost: ${missing.join(", ")}.` : "");
  }

  // Powers of ten inside the axis, thinned on narrow screens; of a short axis, round numbers.
  function powers([low, high], width) {
    const found = [];
    for (let i = Math.ceil(Math.log10(low)); 10 ** i <= high; i++) found.push(10 ** i);
    const step = Math.ceil(found.length / (width < 480 ? 4 : 9));
    return found.length < 2 ? d3.ticks(low, high, 4) : found.filter((_, i) => i % step === 0);
  }

  // Names beside their points, where they cover neither each other nor a point.
  function label(chart, links, points) {
    const frame = { left: 48, right: chart.viewBox.baseVal.width - 4 };
    const taken = links.map((link) => link.getBBox());
    const free = (box) =>
      box.x >= frame.left &&
      box.x + box.width <= frame.right &&
      taken.every(
        (t) =>
          box.x + box.width < t.x ||
          box.x > t.x + t.width ||
          box.y + box.height < t.y ||
          box.y > t.y + t.height,
      );
    const layer = document.createElementNS("http://www.w3.org/2000/svg", "g");
    layer.setAttribute("class", "labels");
    layer.setAttribute("aria-hidden", "true");
    chart.append(layer);
    links.forEach((link, i) => {
      const dot = link.getBBox();
      const text = document.createElementNS("http://www.w3.org/2000/svg", "text");
      text.textContent = points[i].label;
      layer.append(text);
      const { width, height } = text.getBBox();
      const middle = dot.y + dot.height / 2;
      const center = dot.x + dot.width / 2;
      const places = [
        [dot.x + dot.width + 4, middle],
        [dot.x - width - 4, middle],
        [center - width / 2, dot.y - 14],
        [center - width / 2, dot.y + dot.height + 14],
        [dot.x + dot.width + 4, middle - 14],
        [dot.x + dot.width + 4, middle + 14],
        [dot.x - width - 4, middle - 14],
        [dot.x - width - 4, middle + 14],
      ];
      for (const [x, y] of places) {
        const box = { x, y: y - height / 2, width, height };
        if (!free(box)) continue;
        text.setAttribute("x", x);
        text.setAttribute("y", y);
        taken.push(box);
        return;
      }
      text.remove();
    });
  }

  const plots = [...document.querySelectorAll("figure.plot")].map((figure) => {
    const data = JSON.parse(figure.querySelector(".plot-data").textContent);
    figure.hidden = false;
    const redraw = () => draw(figure, data);
    for (const select of figure.querySelectorAll("select")) {
      select.addEventListener("change", redraw);
    }
    return { figure, redraw };
  });
  const all = () => plots.forEach((plot) => plot.redraw());
  document.addEventListener("families", (event) => {
    families = event.detail;
    all();
  });
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    all();
  });
});
