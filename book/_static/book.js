/* The ledger's filter, and what the keyboard needs. No server: all rows are in the page. */
(() => {
  "use strict";
  const WORDS = { outside: "open outside its range" };

  /* What scrolls by itself can be reached, and so scrolled, with the keyboard. */
  function reachable() {
    const found = document.querySelectorAll(
      ".text_html, .table-wrapper, .pst-scrollable-table-container, mjx-container[display], pre, figure, .turned");
    for (const box of found) {
      if (box.scrollWidth > box.clientWidth + 1) {
        box.tabIndex = 0;
      }
    }
  }

  function filter() {
    const rows = [...document.querySelectorAll("tr[data-verdict]")];
    if (!rows.length) return;
    const fields = { verdict: "Verdict", paper: "Paper", study: "Chapter", kind: "Kind" };
    const asked = new URLSearchParams(location.search);
    const form = document.createElement("form");
    form.className = "ledger-filter";
    form.setAttribute("role", "search");
    form.setAttribute("aria-label", "Claims");
    for (const [field, label] of Object.entries(fields)) {
      const select = form.appendChild(document.createElement("label"))
        .appendChild(document.createElement("select"));
      select.parentElement.prepend(label);
      select.name = field;
      const values = [...new Set(rows.map((row) => row.dataset[field]))].sort();
      for (const value of ["", ...values]) {
        const text = value ? (WORDS[value] || value.replaceAll("_", " ")) : "all";
        select.add(new Option(text, value, false, value === asked.get(field)));
      }
    }
    const said = form.appendChild(document.createElement("output"));
    const show = () => {
      const wanted = Object.keys(fields).map((field) => [field, form.elements[field].value]);
      let count = 0;
      for (const row of rows) {
        row.hidden = !wanted.every(([field, value]) => !value || row.dataset[field] === value);
        count += !row.hidden;
      }
      for (const table of document.querySelectorAll("table.ledger")) {
        let statement = null, shown = false, any = false;
        for (const row of table.tBodies[0].rows) {
          if (row.dataset.verdict === undefined) {
            if (statement) statement.hidden = !shown;
            [statement, shown] = [row, false];
          } else {
            if (!row.querySelector("td.setting") && statement) {
              statement.hidden = !shown;
              statement = null;
            }
            shown ||= !row.hidden;
            any ||= !row.hidden;
          }
        }
        if (statement) statement.hidden = !shown;
        const output = table.closest(".output");
        output.hidden = !any;
        if (output.previousElementSibling) output.previousElementSibling.hidden = !any;
      }
      said.value = `${count} of ${rows.length} rows`;
    };
    form.addEventListener("input", () => {
      show();
      const chosen = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
      history.replaceState(null, "", `?${chosen}`.replace(/\?$/, location.pathname.split("/").pop()));
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    rows[0].closest(".cell").before(form);
    const target = () => {
      const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
      if (row?.hidden) {
        form.reset();
        for (const select of form.querySelectorAll("select")) select.value = "";
        show();
        row.scrollIntoView();
      }
    };
    show();
    target();
    addEventListener("hashchange", target);
  }

  addEventListener("DOMContentLoaded", filter);
  addEventListener("load", () => setTimeout(reachable, 500));
  addEventListener("resize", reachable);
})();
