// The start page: another provider or dataset has other base models and fields, so the whole page is loaded.
"use strict";

document.getElementById("start")?.addEventListener("change", (event) => {
  if (["provider", "data", "method"].includes(event.target.name)) event.target.form.requestSubmit();
});

// The button starts the plan beside it. If a field was changed since, and the plan is not here yet, show that one first.
document.addEventListener("submit", (event) => {
  if (event.target.id !== "start-form") return;
  const choices = document.getElementById("choices");
  const planned = new FormData(event.target);
  const isChanged = ([name, value]) => value.trim() !== (planned.get(name) ?? "");
  if (![...new FormData(choices)].some(isChanged)) return;
  event.preventDefault();
  choices.requestSubmit();
});
