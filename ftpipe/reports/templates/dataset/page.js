"use strict";
const box = document.getElementById("search");
const rules = [...document.querySelectorAll("details")];
const noFindings = document.getElementById("none");
box.addEventListener("input", () => {
  const query = box.value.trim().toLowerCase();
  let hasMatch = false;
  for (const rule of rules) {
    const inSummary = rule.querySelector("summary").textContent.toLowerCase().includes(query);
    let shown = 0;
    for (const row of rule.querySelectorAll(".row")) {
      row.hidden = !(inSummary || row.textContent.toLowerCase().includes(query));
      shown += row.hidden ? 0 : 1;
    }
    rule.hidden = !shown;
    if (query && shown) rule.open = true;
    hasMatch = hasMatch || shown > 0;
  }
  noFindings.hidden = hasMatch;
});
