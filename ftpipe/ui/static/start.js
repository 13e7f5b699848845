// The start page: another provider or dataset has other base models and fields, so the whole page is loaded.
"use strict";

const choices = document.getElementById("choices");
const RELOADING = ["provider", "data", "method"];
let requested = "";

document.getElementById("start")?.addEventListener("change", (event) => {
  if (RELOADING.includes(event.target.name)) event.target.form.requestSubmit();
});

// The names of the fields whose values are not those of the plan that is shown.
function changedFields() {
  const planned = JSON.parse(document.getElementById("plan").dataset.values);
  const plannedValue = (name, value) => planned[name] ?? (name === "provider" ? value : "");
  const fields = [...new FormData(choices)].filter(([name]) => name !== "accept");
  return fields.filter(([name, value]) => value.trim() !== plannedValue(name, value)).map(([name]) => name);
}

// Show the plan of the fields as they are, if another one is shown: a field may be changed before the scripts have
// come, a browser fills fields in again, and the answer to an earlier question may come last. Each form once.
function correctPlan() {
  if (!choices || !document.getElementById("plan")) return;
  const changed = changedFields();
  const wanted = changed.length ? new URLSearchParams(new FormData(choices)).toString() : "";
  if (!wanted || wanted === requested) {
    requested = wanted;
    return;
  }
  requested = wanted;
  if (changed.some((name) => RELOADING.includes(name))) choices.requestSubmit();
  else choices.dispatchEvent(new Event("change", { bubbles: true }));
}
addEventListener("load", correctPlan);
document.addEventListener("htmx:after:swap", correctPlan);
