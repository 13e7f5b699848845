"use strict";
const box = document.getElementById("search");
const rules = [...document.querySelectorAll("details")];
const none = document.getElementById("none");
box.addEventListener("input", () => {
  const wanted = box.value.trim().toLowerCase();
  let any = false;
  for (const rule of rules) {
    const inHead = rule.querySelector("summary").textContent.toLowerCase().includes(wanted);
    let shown = 0;
    for (const row of rule.querySelectorAll(".row")) {
      row.hidden = !(inHead || row.textContent.toLowerCase().includes(wanted));
      shown += row.hidden ? 0 : 1;
    }
    rule.hidden = !shown;
    if (wanted && shown) rule.open = true;
    any = any || shown > 0;
  }
  none.hidden = any;
});
