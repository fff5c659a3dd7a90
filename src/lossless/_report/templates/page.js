"use strict";

// Charts are SVG, so the page's colours reach them, and run in Vega's interpreter, so the content policy needs no eval.
const AXIS = 64; // pixels for the labels beside a chart
for (const data of document.querySelectorAll('script[type="application/json"]')) {
  const box = data.previousElementSibling;
  const width = Math.max(box.clientWidth - AXIS, 160);
  const fitted = (key, value) => (key === "width" && value === "container" ? width : value);
  vegaEmbed(box, JSON.parse(data.textContent, fitted), {actions: false, renderer: "svg", ast: true})
    .catch(console.error);
}

// The head of a column sorts its table, and pressed again the other way round. What is no number comes last.
const words = new Intl.Collator(undefined, {numeric: true});
const texts = (cell) => cell.textContent;
const numbers = (cell) => parseFloat(cell.textContent.replaceAll(",", "").replace("inf", "Infinity"));

function sort(table, head) {
  const down = head.ariaSort === "ascending";
  const numeric = head.classList.contains("number");
  const rows = [...table.tBodies[0].rows].map((row) => [(numeric ? numbers : texts)(row.cells[head.cellIndex]), row]);
  const order = numeric ? (a, b) => a - b : words.compare;
  rows.sort(([a], [b]) => Number.isNaN(a) - Number.isNaN(b) || (down ? order(b, a) : order(a, b)));
  table.tBodies[0].append(...rows.map(([, row]) => row));
  for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
  head.ariaSort = down ? "descending" : "ascending";
}

for (const table of document.querySelectorAll("table")) {
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, head));
    head.append(button);
  }
}
