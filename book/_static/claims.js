// Filters the table of claims by paper and verdict. Without this script the whole table stands.
// The choice is read from the address, and written into it: claims.html?paper=mesa&verdict=corrected

const FILTERED = ["Paper", "Verdict"];

// a verdict opens; its word alone is compared, or what a larger scale says where it was not tried
const valueOf = (cell) =>
  cell.querySelector("[data-stands]")?.dataset.stands ??
  (cell.querySelector(".verdict") ?? cell).textContent.trim();

function filterOf(title, column, rows) {
  const name = title.toLowerCase();
  const values = [...new Set(rows.map((row) => valueOf(row.cells[column])))].sort();
  const select = document.createElement("select");
  select.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
  const label = document.createElement("label");
  label.append(title, select);
  const asked = new URLSearchParams(location.search).get(name);
  const unknown = asked && !values.includes(asked) ? `; no ${name} is “${asked}”` : "";
  if (asked && !unknown) select.value = asked;
  const fits = (row) => !select.value || valueOf(row.cells[column]) === select.value;
  return { name, select, label, unknown, fits };
}

function intoAddress(filters) {
  const address = new URL(location);
  for (const { name, select } of filters) {
    if (select.value) address.searchParams.set(name, select.value);
    else address.searchParams.delete(name);
  }
  history.replaceState(null, "", address);
}

function enhance(table) {
  const rows = [...table.tBodies[0].rows];
  const heads = [...table.tHead.rows[0].cells].map((head) => head.textContent.trim());
  const filters = FILTERED.map((title) => filterOf(title, heads.indexOf(title), rows));
  const bar = document.createElement("div");
  const said = document.createElement("output");
  const show = () => {
    for (const row of rows) row.hidden = !filters.every(({ fits }) => fits(row));
    said.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} claims`;
  };
  bar.className = "claims-filter";
  bar.append(...filters.map(({ label }) => label), said);
  bar.addEventListener("change", () => {
    show();
    intoAddress(filters);
  });
  show();
  said.textContent += filters.map(({ unknown }) => unknown).join("");
  (table.closest(".pst-scrollable-table-container") ?? table).before(bar);
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("table.claims").forEach(enhance);
});
