// Tables sort by a press on a heading. Without this script they are read as they stand.
for (const table of document.querySelectorAll("table.sorts")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
      const number = (row) => (row.cells[column].dataset.value === undefined ? NaN : Number(row.cells[column].dataset.value));
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [number(a), number(b)];
        // What has no figure stays below, whichever way the others run.
        if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1;
        return (isNaN(x) ? compare(a, b) : x - y) * (up ? 1 : -1);
      });
      body.append(...rows);
    });
  });
}
