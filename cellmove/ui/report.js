
"use strict";
// Only comfort: a search over the time line, and tables that can be sorted. The page says all without it.
(() => {
  const time = document.querySelector(".time");
  const hosts = [...time.querySelectorAll("details")].map((host) => ({
    host, open: host.open,
    rows: [...host.querySelectorAll("li, .still > span")].map((row) => [row, `${row.textContent} ${row.id}`.toLowerCase()]),
  }));
  const search = (words) => {
    for (const each of hosts) {
      let any = false;
      const all = each.host.querySelector("summary").textContent.toLowerCase().includes(words);
      for (const [row, text] of each.rows) {
        row.hidden = !(all || text.includes(words));
        row.style.display = row.hidden ? "none" : "";
        any ||= !row.hidden;
      }
      each.host.hidden = !any && words !== "";
      each.host.open = words ? any : each.open;
    }
  };
  if (hosts.length) {
    const form = document.createElement("form");
    form.className = "find";
    form.innerHTML = "<label>Find <input type=search placeholder='name, id, host, stage'></label>" +
      "<button type=button>open all hosts</button><button type=button>close all hosts</button>";
    form.addEventListener("submit", (event) => event.preventDefault());
    let waiting;
    form.querySelector("input").addEventListener("input", (event) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => search(event.target.value.trim().toLowerCase()), 120);
    });
    form.querySelectorAll("button").forEach((button, close) => {
      button.addEventListener("click", () => hosts.forEach((each) => { each.open = each.host.open = !close; }));
    });
    time.querySelector("h2").after(form);
  }
  const value = (row, column) => {
    const cell = row.cells[column];
    const data = cell.querySelector("data");
    const text = data ? data.value : cell.textContent.replace(/[✕,]/g, "").trim();
    return /^[·–]$/.test(text) ? -1 : text !== "" && isFinite(text) ? Number(text) : text;
  };
  for (const table of document.querySelectorAll("table.sums")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending" && (column > 0 || head.hasAttribute("aria-sort"));
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows];
        const order = (a, b) => typeof a === typeof b && typeof a === "number" ? a - b
          : String(a).localeCompare(String(b), "en", { numeric: true });
        rows.sort((one, other) => order(value(one, column), value(other, column)) * (down ? -1 : 1));
        table.tBodies[0].append(...rows);
      });
    });
  }
})();
