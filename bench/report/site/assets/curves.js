"use strict";
// Validation figure by epoch on a method's page.
document.addEventListener("DOMContentLoaded", () => {
  for (const figure of document.querySelectorAll("figure.curve")) {
    const { label, points } = JSON.parse(figure.querySelector(".curve-data").textContent);
    const canvas = figure.querySelector(".canvas");
    figure.hidden = false;
    canvas.append(
      Plot.plot({
        className: "plot",
        width: Math.max(280, Math.min(640, canvas.clientWidth)),
        height: 220,
        marginLeft: 48,
        marginTop: 28,
        ariaLabel: `${label} by epoch`,
        x: { label: "Epoch →", labelArrow: false, tickFormat: "d", nice: false },
        y: { label: `↑ ${label}`, labelArrow: false, grid: true, nice: true, ticks: 5 },
        marks: [
          Plot.line(points, { x: "epoch", y: "value", z: "seed", className: "path" }),
          Plot.dot(points, {
            x: "epoch",
            y: "value",
            r: 3,
            filter: (d) => !d.best,
            className: "epochs",
          }),
          Plot.dot(points, {
            x: "epoch",
            y: "value",
            r: 4.5,
            filter: (d) => d.best,
            className: "best",
          }),
        ],
      }),
    );
  }
});
