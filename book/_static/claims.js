// Tables of claims: verdicts as in the chapters' ledgers, and a filter by paper and verdict.
// Without this script the whole table stands. The choice is also read from the address:
// claims.html?verdict=corrected&paper=mesa

const FILTERED = ["Paper", "Verdict"];

const textOf = (row, column) => row.cells[column].textContent.trim();

function badge(cell) {
  const verdict = cell.textContent.trim();
  const span = document.createElement("span");
  span.className = `verdict verdict-${verdict.replaceAll(" ", "-")}`;
  span.textContent = verdict;
  if (verdict) cell.replaceChildren(span);
}

function choice(title, values) {
  const select = document.createElement("select");
  select.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
  const asked = new URLSearchParams(location.search).get(title.toLowerCase());
  if (values.includes(asked)) select.value = asked;
  return select;
}

function filterBar(heads, rows) {
  const bar = document.createElement("div");
  const count = document.createElement("output");
  const chosen = heads.filter(({ title }) => FILTERED.includes(title)).map(({ title, column }) => {
    const values = [...new Set(rows.map((row) => textOf(row, column)))].sort();
    const select = choice(title, values);
    const label = document.createElement("label");
    label.append(title, select);
    bar.append(label);
    return { column, select };
  });
  const show = () => {
    for (const row of rows) {
      const fits = ({ column, select }) => !select.value || textOf(row, column) === select.value;
      row.hidden = !chosen.every(fits);
    }
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} claims`;
  };
  bar.className = "claims-filter";
  bar.addEventListener("change", show);
  bar.append(count);
  show();
  return bar;
}

function enhance(table) {
  const rows = [...table.tBodies[0].rows];
  const heads = [...table.tHead.rows[0].cells].map((head, column) => ({
    column,
    title: head.textContent.trim(),
  }));
  for (const { column, title } of heads) {
    if (title.startsWith("Verdict")) rows.forEach((row) => badge(row.cells[column]));
  }
  const box = table.closest(".pst-scrollable-table-container") ?? table;
  box.before(filterBar(heads, rows));
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("table.claims").forEach(enhance);
});
