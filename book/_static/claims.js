// Filter the tables of claims by paper and verdict. Without this script the whole table stands.
// The choice also comes from the address: claims.html?verdict=corrected&paper=mesa

const FILTERED = ["Paper", "Verdict"];

function filterFor(column, title, rows, chosen, show) {
  const values = [...new Set(rows.map((row) => row.cells[column].textContent.trim()))].sort();
  const select = document.createElement("select");
  select.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
  const asked = new URLSearchParams(location.search).get(title.toLowerCase());
  if (values.includes(asked)) select.value = asked;
  chosen.set(column, select);
  select.addEventListener("change", show);
  const label = document.createElement("label");
  label.append(title, select);
  return label;
}

function addFilters(table) {
  const rows = [...table.tBodies[0].rows];
  const chosen = new Map();
  const count = document.createElement("output");
  const show = () => {
    for (const row of rows) {
      row.hidden = [...chosen].some(
        ([column, { value }]) => value && row.cells[column].textContent.trim() !== value,
      );
    }
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} claims`;
  };
  const bar = document.createElement("div");
  bar.className = "claims-filter";
  for (const { cellIndex, textContent } of table.tHead.rows[0].cells) {
    const title = textContent.trim();
    if (FILTERED.includes(title)) bar.append(filterFor(cellIndex, title, rows, chosen, show));
  }
  bar.append(count);
  table.before(bar);
  show();
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("table.claims").forEach(addFilters);
});
