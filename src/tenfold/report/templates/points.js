// Sorting a table of points. A missing number sorts last, whichever way.
for (const table of document.querySelectorAll("table.points")) {
  const body = table.tBodies[0];
  const given = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const was = heading.getAttribute("aria-sort");
      // Up, down, and back to the order given.
      const now = was === "ascending" ? "descending" : was === "descending" ? null : "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      if (now) heading.setAttribute("aria-sort", now);
      const value = (row) => row.cells[column].dataset.value;
      const sign = now === "descending" ? -1 : 1;
      body.append(...(now === null ? given : [...given].sort((a, b) => {
        const [left, right] = [value(a), value(b)];
        if (left === "" || right === "") return (left === "") - (right === "");
        return sign * (column === 0 ? left.localeCompare(right, undefined, { numeric: true }) : left - right);
      })));
    });
  });
}
